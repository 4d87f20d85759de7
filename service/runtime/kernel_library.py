"""Choose the kernel library for a graph's custom ops, or say why their plain bodies run.

Once a library is registered with a session, its kernels alone can run the ops it names: the plain body is no
fall-back any more. So everything is asked beforehand, in a process of its own that may crash (`probe.py`).
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from service.bundle import CustomOp

BUILT_LIBRARY = Path(__file__).parent / "lib" / "libddl_delta.so"
"""Where the build puts the library, and where `auto` looks for it."""

_PROBE = Path(__file__).with_name("probe.py")
_PROBE_SECONDS = 60.0


class KernelOp(BaseModel):
    """One version of an op that a library has kernels for; `value_channels` is an inclusive range."""

    model_config = ConfigDict(frozen=True)

    domain: str
    name: str
    version: int
    datatypes: tuple[str, ...]
    value_channels: tuple[int, int]

    def refusal(self, op: CustomOp) -> str | None:
        """Return why this kernel cannot run `op`, or None if it can."""
        low, high = self.value_channels
        if op.datatype not in self.datatypes:
            return f"its {op.name} has no {op.datatype} kernel"
        if outside := [channels for channels in op.value_channels if not low <= channels <= high]:
            return f"its {op.name} takes {low} to {high} value channels, the graph has {outside[0]}"
        return None


class KernelInfo(BaseModel):
    """What a library says of itself through `ddl_kernel_info`; fields that we do not know are left alone."""

    model_config = ConfigDict(frozen=True)

    library: str
    version: str
    ort_api: int = Field(ge=1, strict=True)
    """Version of ONNX Runtime's C API that it asks for, and the oldest release 1.x that has it."""
    isa: str
    providers: tuple[str, ...]
    ops: tuple[KernelOp, ...] = Field(min_length=1)

    def refusal(self, ops: Sequence[CustomOp], provider: str) -> str | None:
        """Return why this library cannot run every one of `ops` on `provider`, or None if it can."""
        if provider not in self.providers:
            return f"it has no kernels for {provider}"
        for op in ops:
            versions = {k.version: k for k in self.ops if (k.domain, k.name) == (op.domain, op.name)}
            if not versions:
                return f"it has no kernel for {op.domain}::{op.name}"
            if op.version not in versions:
                known = " and ".join(str(number) for number in sorted(versions))
                return f"it has version {known} of {op.domain}::{op.name}, the graph needs {op.version}"
            if refusal := versions[op.version].refusal(op):
                return refusal
        return None


@dataclass(frozen=True)
class KernelChoice:
    """How the custom ops of a session are computed: by a library's kernels, or by their plain bodies."""

    path: Literal["kernel", "plain"]
    reason: str
    library: Path | None = None
    info: KernelInfo | None = None


def plain(reason: str) -> KernelChoice:
    """Choose the plain bodies, with the reason."""
    return KernelChoice("plain", reason)


def choose_kernel(setting: str, ops: Sequence[CustomOp], provider: str) -> KernelChoice:
    """Choose for a graph that uses `ops`; never raises.

    Args:
        setting: `auto` (the library built into the package), `off`, or a path.
        ops: the custom ops of the bundle's manifest.
        provider: ONNX Runtime's name of the session's device, such as `CPUExecutionProvider`.
    """
    if not ops:
        return plain("the graph uses no custom op")
    if setting == "off":
        return plain("switched off")
    library = BUILT_LIBRARY if setting == "auto" else Path(setting).expanduser().absolute()
    if not library.is_file():
        how = "build it with `python -m export.kernels.build`" if setting == "auto" else "check the path"
        return plain(f"no op library at {library}: {how}")
    status = library.stat()
    info = _describe(library, status.st_mtime_ns, status.st_size)
    if isinstance(info, str):
        return plain(f"{library} is not used: {info}")
    if refusal := info.refusal(ops, provider):
        return plain(f"{library} is not used: {refusal}")
    return KernelChoice("kernel", f"{info.library} {info.version}, {info.isa}, {provider}", library, info)


@lru_cache(maxsize=8)
def _describe(library: Path, modified_ns: int, size: int) -> KernelInfo | str:
    """Probe a library once per content: its description, or what is wrong with it."""
    # -P: the probe's folder is no place to import from.
    command = [sys.executable, "-P", os.fspath(_PROBE), os.fspath(library)]
    try:
        result = subprocess.run(command, capture_output=True, timeout=_PROBE_SECONDS, check=False)
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        return f"it could not be tried out: {error}"
    if result.returncode < 0:
        return f"loading it ends the process by {_signal_name(-result.returncode)}"
    try:
        answer = json.loads(result.stdout)
    except ValueError:
        last = result.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        return f"trying it out failed with exit status {result.returncode}: {last}"
    if "error" in answer:
        return str(answer["error"])
    try:
        return KernelInfo.model_validate(answer["info"])
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "it"
        return f"ddl_kernel_info does not follow the contract: {where}: {first['msg']}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
