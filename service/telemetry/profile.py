"""A sampling profile of the running process: which functions do its threads stand in, and how often?"""

import sys
import threading
import time
import traceback
from collections import Counter
from pathlib import Path
from types import FrameType

_DEEPEST = 128


def profile(seconds: float, per_second: int) -> str:
    """Look at every thread's stack again and again; blocks for `seconds`, and slows the process by a few percent.

    Returns:
        Collapsed stacks, the most frequent first: `thread;outer;...;inner COUNT` a line, which speedscope and
        flamegraph.pl draw. Threads that wait are counted too (wall clock, not CPU).
    """
    counts: Counter[str] = Counter()
    period = 1.0 / per_second
    end = time.monotonic() + seconds
    while (now := time.monotonic()) < end:
        names = {thread.ident: thread.name for thread in threading.enumerate()}
        for identity, frame in sys._current_frames().items():
            if identity != threading.get_ident():
                name = names.get(identity, "native").replace(";", ",")
                counts[";".join([name, *_stack(frame)])] += 1
        time.sleep(max(0.0, now + period - time.monotonic()))
    return "".join(f"{stack} {count}\n" for stack, count in counts.most_common())


def stacks() -> str:
    """Return the stack of every thread as a traceback, to see what hangs."""
    frames = sys._current_frames()
    parts = []
    for thread in threading.enumerate():
        frame = frames.get(thread.ident or 0)
        lines = traceback.format_stack(frame) if frame is not None else ["  (has ended)\n"]
        parts.append(f"{thread.name}{' (daemon)' if thread.daemon else ''}\n{''.join(lines)}")
    return "\n".join(parts)


def _stack(frame: FrameType | None) -> list[str]:
    """Name the functions of a stack, the outermost first."""
    names: list[str] = []
    while frame is not None and len(names) < _DEEPEST:
        code = frame.f_code
        names.append(f"{code.co_qualname} ({Path(code.co_filename).name}:{frame.f_lineno})".replace(";", ","))
        frame = frame.f_back
    return names[::-1]
