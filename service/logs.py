"""Structured logs on standard error, one line per event: `time level logger message key=value ...`, or JSON.

A line per request must not cost what the request costs: lines are gathered and written together every tenth of a
second, and at once when one is a warning or worse.
"""

import json
import logging
import re
import sys
import threading
import time
from typing import IO, Any

import orjson

_BARE = re.compile(r"[A-Za-z0-9_./:@+-]+")
_STANDARD = frozenset({"time", "level", "logger", "message"})
_FLUSH_SECONDS = 0.1
_MOST_LINES = 1000


class LineFormatter(logging.Formatter):
    """Format a record as one line; the record's `fields` become `key=value`, quoted as JSON where needed."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line; line breaks inside a message or a traceback are escaped."""
        message = record.getMessage()
        if not message.isprintable():
            message = json.dumps(message)
        parts = [_when(record.created), record.levelname, record.name, message]
        for key, value in _fields(self, record).items():
            text = f"{value:.3f}" if type(value) is float else str(value)
            parts.append(f"{key}={text if _BARE.fullmatch(text) else json.dumps(text, ensure_ascii=False)}")
        return " ".join(parts)


class JsonFormatter(logging.Formatter):
    """Format a record as one JSON object; the record's `fields` are members beside time, level, logger and message."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the object; a field that has the name of a standard member is written with `_` behind it."""
        members: dict[str, object] = {
            "time": _when(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        for key, value in _fields(self, record).items():
            members[key + "_" if key in _STANDARD else key] = round(value, 3) if type(value) is float else value
        try:
            return orjson.dumps(members, default=str).decode()
        except orjson.JSONEncodeError:  # text with half a character of UTF-16, say from a file's name
            return json.dumps(members, default=str)


class GatheringHandler(logging.Handler):
    """Gathers lines and writes them together, from a thread; what is a warning or worse is written at once."""

    def __init__(self, stream: IO[str]) -> None:
        """Write to `stream`; it is not closed."""
        super().__init__()
        self._stream = stream
        self._lines: list[str] = []
        self._writing = threading.Lock()
        threading.Thread(target=self._run, name="logs", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the record's line, or write what there is."""
        try:
            self._lines.append(self.format(record) + "\n")
        except Exception:
            self.handleError(record)
        if record.levelno >= logging.WARNING or len(self._lines) >= _MOST_LINES:
            self.flush()

    def flush(self) -> None:
        """Write what was gathered; a stream that cannot be written loses it and nothing else."""
        with self._writing:
            lines, self._lines = self._lines, []
            if lines:
                try:
                    self._stream.write("".join(lines))
                    self._stream.flush()
                except (OSError, ValueError):  # a full disk, a closed pipe: serving goes on
                    return

    def _run(self) -> None:
        while True:
            time.sleep(_FLUSH_SECONDS)
            if self._lines:
                self.flush()


def configure_logs(level: str, form: str = "line") -> None:
    """Send every logger of the process to standard error, as `line` or `json`."""
    handler = GatheringHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else LineFormatter())
    # Nobody reads these of a record, and finding them out takes longer than writing the line.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # The server's own life is told by our lines; of uvicorn only what is wrong is worth one.
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    # Lines of these show bytes of callers' images and forms.
    for chatty in ("PIL", "python_multipart"):
        logging.getLogger(chatty).setLevel(logging.ERROR)
    logging.captureWarnings(True)


def _fields(formatter: logging.Formatter, record: logging.LogRecord) -> dict[str, Any]:
    fields: dict[str, Any] = getattr(record, "fields", {})
    return {**fields, "traceback": formatter.formatException(record.exc_info)} if record.exc_info else fields


_second = (-1, "")


def _when(created: float) -> str:
    """Write a time as ISO 8601 in UTC; the part down to the second is made once a second."""
    global _second
    milliseconds = int(created * 1000)
    second, rest = divmod(milliseconds, 1000)
    known, text = _second
    if known != second:
        text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        _second = (second, text)
    return f"{text}.{rest:03d}Z"
