"""The kernels compile for a card where there is none, and keep what they work on in registers."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.export.triton_cases import needs_triton

pytestmark = needs_triton

# In a process of its own, where nothing asked Triton to interpret.
PROGRAM = """
import json, subprocess, sys
from pathlib import Path
import torch, triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from export.kernels.triton import launch
from export.kernels.triton.narrow import narrow_backward, narrow_forward
from export.kernels.triton.state_backward import state_backward
from export.kernels.triton.state_forward import state_forward

launch.processors = lambda device: 132
FLOAT32 = {"beta", "target", "readout", "direction_norm", "inverse_rms", "weight", "bias", "compress_weight",
           "norm_weight", "y", "d_y", "d_weights", "d_beta", "d_target", "d_readout", "d_direction_norm"}
NUMBERS = {"tokens": "i32", "chunk": "i32", "chunks": "i32", "direction_eps": "fp32", "norm_eps": "fp32"}

def resources(kernel, constants, warps):
    names = kernel.arg_names
    signature = {name: "constexpr" if name in constants else NUMBERS.get(name, "*fp32" if name in FLOAT32 else "*bf16")
                 for name in names}
    at = {name: (names.index(name),) for name in names}
    aligned = {at[name]: [["tt.divisibility", 16]] for name in names if signature[name].startswith("*")}
    constexprs = {at[name]: value for name, value in constants.items()}
    source = ASTSource(fn=kernel, signature=signature, constexprs=constexprs, attrs=aligned)
    options = {"num_warps": warps, **launch.COMPILE}
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    cubin = Path(sys.argv[1]) / "kernel.cubin"
    cubin.write_bytes(compiled.asm["cubin"])
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    usage = subprocess.run([tool, "-res-usage", cubin], capture_output=True, text=True, check=True)
    return {"usage": usage.stdout + usage.stderr, "async_copies": compiled.asm["ptx"].count("cp.async.c")}

def state(taps, backward):
    chosen = launch.state_launch(torch.Size((64, 1024, 768, 4)), 1, 65536, taps, None, backward=backward)
    sizes = {"D": 768, "DV": 4, "TAPS": taps, "BLOCK_D": 1024, "BLOCK_V": 4, "STAGES": chosen.stages}
    unused = {"d_readout": None, "d_direction_norm": None} if backward else {}
    flags = {"REWRITES": True, "READS": True, "ERASES": True}
    kernel = state_backward if backward else state_forward
    return resources(kernel, {**sizes, **flags, **unused}, chosen.warps)

def narrow(outputs, backward):
    chosen = launch.narrow_launch(65536, outputs, 768, None)
    sizes = {"WIDTH": 768, "OUTPUTS": outputs, "ROWS": chosen.rows, "COLUMNS": chosen.columns, "STAGES": 2}
    return resources(narrow_backward if backward else narrow_forward, sizes, chosen.warps)

print(json.dumps({
    "state": state(1, False), "state backward": state(1, True), "state, 4 taps": state(4, False),
    "state backward, 4 taps": state(4, True),
    "narrow": narrow(5, False), "narrow backward": narrow(5, True),
}))
"""

KERNELS = ("state", "state backward", "state, 4 taps", "state backward, 4 taps", "narrow", "narrow backward")


@pytest.fixture(scope="module")
def resources(tmp_path_factory: pytest.TempPathFactory, root: Path) -> dict[str, dict[str, int | str]]:
    folder = tmp_path_factory.mktemp("cubin")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(folder), "PYTHONPATH": str(root)}
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    found: dict[str, dict[str, int | str]] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("kernel", KERNELS)
def test_nothing_spills_on_compute_capability_9(resources: dict[str, dict[str, int | str]], kernel: str) -> None:
    usage = re.search(r"STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", str(resources[kernel]["usage"]))
    assert usage is not None, resources[kernel]["usage"]
    assert usage.groups() == ("0", "0")


@pytest.mark.parametrize("kernel", KERNELS)
def test_loads_run_ahead(resources: dict[str, dict[str, int | str]], kernel: str) -> None:
    assert int(resources[kernel]["async_copies"]) > 0
