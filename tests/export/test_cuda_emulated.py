"""The CUDA kernels on machines without a card: the same code, run by an emulator of blocks, warps and barriers."""

import subprocess
from pathlib import Path

import pytest

from benchmarks import cuda_checks
from benchmarks.cuda_op import CudaOps, KernelError, Options
from benchmarks.cuda_problem import Problem, make_inputs, make_outputs
from export.kernels import build
from tests.export.conftest import TEST_BUILD

SHAPES = ((1, 1, 64, 4), (2, 5, 96, 1), (2, 3, 256, 2), (1, 3, 160, 8), (2, 4, 37, 3))
OPS = (
    "DeltaRewrite",
    "DeltaRewriteCompressNorm",
    "DeltaRewriteTokenCompressNorm",
    "CompressNorm",
    "TokenCompressNorm",
)


@pytest.fixture(scope="module")
def emulated(kernel_build: build.BuildReport) -> Path:
    """Build the check and the library of the emulated kernels; returns their folder."""
    assert kernel_build.library.is_file()
    targets = ["--target", "check_cuda_emulated", "ddl_cuda_emulated"]
    subprocess.run([build.find_tool("cmake"), "--build", TEST_BUILD, *targets], check=True, capture_output=True)
    return TEST_BUILD


@pytest.fixture(scope="module")
def ops(emulated: Path) -> CudaOps:
    """Return the emulated kernels."""
    return CudaOps(emulated / "libddl_cuda_emulated.so")


def test_agree_with_float64(emulated: Path) -> None:
    result = subprocess.run([emulated / "check_cuda_emulated"], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.count(" ok\n") == len(result.stdout.splitlines()) >= 9


def test_agree_with_torch(ops: CudaOps) -> None:
    found = cuda_checks.check(ops, device="cpu", shapes=SHAPES)
    assert tuple(one.op for one in found) == OPS
    assert all(0 < one.worst < 1 and one.calls == 3 * len(SHAPES) for one in found)


def test_wrong_kernel_is_noticed(ops: CudaOps, monkeypatch: pytest.MonkeyPatch) -> None:
    problem = Problem("float32", True, 1, 1, 3, 48, 4)
    assert cuda_checks.compare(ops, problem, "cpu") < 1
    bind = CudaOps.bind
    monkeypatch.setattr(CudaOps, "bind", lambda self, i, o, options: bind(self, i, o, Options(target_scale=1.0)))
    with pytest.raises(cuda_checks.Disagrees, match=r"new_state is wrong by .*, allowed 1\.2e-05"):
        cuda_checks.compare(ops, problem, "cpu")
    monkeypatch.setattr(CudaOps, "bind", lambda *_: lambda: None)
    with pytest.raises(cuda_checks.Disagrees, match="wrong by inf"):
        cuda_checks.compare(ops, problem, "cpu")


def test_over_tokens_not_in_place(ops: CudaOps) -> None:
    problem = Problem("float32", True, 4, 1, 3, 48, 4)
    inputs = make_inputs(problem, "cpu")
    outputs = make_outputs(problem, "cpu") | {"new_state": inputs["state"]}
    with pytest.raises(KernelError, match="cannot run in place"):
        ops.bind(inputs, outputs, problem.options)()


def test_only_dense_tensors(ops: CudaOps) -> None:
    problem = Problem("float32", False, 1, 1, 3, 48, 4)
    inputs = make_inputs(problem, "cpu")
    inputs["state"] = inputs["state"].transpose(1, 2)
    with pytest.raises(KernelError, match="dense"):
        ops.bind(inputs, make_outputs(problem, "cpu"), problem.options)


def test_what_is_timed() -> None:
    timed = list(cuda_checks.timed_problems())
    assert {(problem.op, problem.type) for problem in timed} == {
        (op, name) for op in OPS for name in ("float32", "float16", "bfloat16")
    }
    compiled = [problem for problem in timed if cuda_checks.is_compiled(problem)]
    assert len(compiled) == 8
    assert all(problem.rows * problem.tokens == cuda_checks.LARGE for problem in compiled)


def test_line_of_the_table() -> None:
    problem = Problem("bfloat16", True, 1, 16, 4096, 768, 4)
    assert problem.bytes == 65536 * 768 * 2 * (4 + 4 + 3 + 2)
    seconds = {"kernel": 320e-6, "copy": 304e-6, "eager": 3.2e-3}
    assert cuda_checks.line(problem, seconds) == [
        "DeltaRewriteCompressNorm",
        "bfloat16",
        "4",
        "16 x 4096",
        "320",
        "4,089",
        "95%",
        "10.0x",
        "",
    ]
