import re
from pathlib import Path

import pytest

from export.kernels import build
from tests.cases import Shape, make_inputs
from tests.export.one_node import assert_same, delta_model, open_session, run, solve

CUDA_BUILD = build.ROOT / "build" / "kernels-test-cuda"

CHECKED_ON_CARD = re.compile(r"\scuda\s+b?float")

pytestmark = [
    pytest.mark.skipif(build.find_nvcc() is None, reason="THE CUDA KERNELS ARE NOT COMPILED: no nvcc"),
    pytest.mark.timeout(1200),  # nvcc takes a minute on two idle cores
]


@pytest.fixture(scope="module")
def cuda_build() -> build.BuildReport:
    library = CUDA_BUILD / "installed" / build.LIBRARY.name
    return build.build(cuda="on", arch="90", folder=CUDA_BUILD, library=library)


def test_library_describes_its_cuda_kernels(cuda_build: build.BuildReport) -> None:
    assert cuda_build.info["providers"] == ["CPUExecutionProvider", "CUDAExecutionProvider"]
    assert cuda_build.info["cuda_architectures"] == [90]


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_cpu_session_runs_on_it(cuda_build: build.BuildReport, channels: int) -> None:
    inputs = make_inputs(Shape((65,), 100, channels))
    outputs = run(open_session(delta_model(), cuda_build.library), inputs)
    assert_same(outputs, solve(inputs), token_axes=1)


@pytest.mark.usefixtures("cuda_build")
def test_check_tells_whether_the_card_was_checked() -> None:
    table = build.check(CUDA_BUILD)
    assert "FAILED" not in table
    last = table.splitlines()[-1]
    assert bool(CHECKED_ON_CARD.findall(table)) != last.startswith("cuda: not run: ")


@pytest.mark.gpu
@pytest.mark.skipif(not build.has_card(), reason="THE CUDA KERNELS ARE NOT RUN: no NVIDIA card")
def test_kernels_agree_with_float64_on_the_card() -> None:
    folder = build.ROOT / "build" / "kernels-gpu"
    build.build(cuda="on", arch="native", folder=folder, library=folder / "installed" / build.LIBRARY.name)
    table = build.check(folder, require_cuda=True)
    assert len(CHECKED_ON_CARD.findall(table)) >= 8


@pytest.mark.usefixtures("cuda_build")
def test_state_moves_in_vectors(tmp_path: Path) -> None:
    nvcc = build.find_nvcc()
    assert nvcc is not None
    ptx = tmp_path / "delta.ptx"
    source = str(build.SOURCES / "delta_cuda_bfloat16.cu")
    build._run([nvcc, "-O3", "-std=c++17", "-arch=sm_90", "-ptx", "-DDDL_WITH_CUDA", source, "-o", str(ptx)])
    found = {}
    for kernel in ptx.read_text().split(".entry ")[1:]:
        if name := re.search(r"TokensInRegistersIN\w+BFloat16ELi(\d)ELb1ELb0", kernel.partition("(")[0]):
            found[int(name[1])] = len(re.findall(r"st\.global\S*\.v4", kernel))
            assert len(re.findall(r"ld\.global\S*\.v4", kernel)) > found[int(name[1])]
    assert found == {1: 3, 2: 4, 4: 6, 8: 6}  # packs of a thread
