import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import onnxruntime as ort
import pytest

from service.bundle import CustomOp
from service.runtime import kernel_library
from service.runtime.kernel_library import BUILT_LIBRARY, KernelChoice, choose_kernel
from service.runtime.probe import api_version
from service.runtime.session import CPU, CUDA, OrtSession
from tests.service.tiny_bundle import BundleMaker, output_shapes

OPS = (CustomOp(domain="ai.ddl", name="DeltaRewrite", version=1, count=2, value_channels=(2,)),)
INFO: dict[str, Any] = {
    "library": "ddl_delta",
    "version": "9.9",
    "ort_api": 18,
    "isa": "test",
    "providers": [CPU],
    "ops": [
        {"domain": "ai.ddl", "name": "DeltaRewrite", "version": 1, "datatypes": ["FP32"], "value_channels": [1, 64]}
    ],
    "cuda_architectures": [],
}
REGISTER = "void* RegisterCustomOps(void* options, const void* api) { return 0; }"
CRASH = "void* RegisterCustomOps(void* options, const void* api) { return *(void**)16; }"
# Entry 0 of the table is CreateStatus.
FAIL = """
typedef struct { void** (*GetApi)(unsigned version); } Base;
void* RegisterCustomOps(void* options, const Base* base) {
  return ((void* (*)(int, const char*))base->GetApi(18)[0])(1, "no room for the op");
}"""

needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler (cc) to make libraries with")
needs_library = pytest.mark.skipif(not BUILT_LIBRARY.exists(), reason="the op library is not built")


def make_library(folder: Path, source: str) -> Path:
    (folder / "library.c").write_text(source)
    library = folder / "library.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, folder / "library.c"], check=True)
    return library


def info_source(text: str) -> str:
    return f"const char* ddl_kernel_info(void) {{ return {json.dumps(text)}; }}\n"


def changed(**changes: Any) -> str:
    return info_source(json.dumps({**INFO, **changes}))


def changed_op(**changes: Any) -> str:
    return changed(ops=[{**INFO["ops"][0], **changes}])


def test_a_graph_without_custom_ops_needs_no_library() -> None:
    choice = choose_kernel("auto", (), CPU)
    assert (choice.path, choice.reason) == ("plain", "the graph uses no custom op")


def test_off_means_plain() -> None:
    assert choose_kernel("off", OPS, CPU) == KernelChoice("plain", "switched off")


def test_a_missing_library_is_named_with_the_fix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = choose_kernel(str(tmp_path / "no.so"), OPS, CPU)
    assert asked.path == "plain"
    assert str(tmp_path / "no.so") in asked.reason
    monkeypatch.setattr(kernel_library, "BUILT_LIBRARY", tmp_path / "lib.so")
    assert "python -m export.kernels.build" in choose_kernel("auto", OPS, CPU).reason


def test_a_file_that_is_no_library_leads_to_plain(tmp_path: Path) -> None:
    (tmp_path / "text.so").write_text("not a library")
    choice = choose_kernel(str(tmp_path / "text.so"), OPS, CPU)
    assert choice.path == "plain"
    assert "cannot be loaded" in choice.reason


@needs_compiler
@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (REGISTER, "it has no function ddl_kernel_info"),
        (info_source("{nonsense") + REGISTER, "did not return JSON"),
        ("const char* ddl_kernel_info(void) { return 0; }\n" + REGISTER, "did not return JSON"),
        (info_source("[1]") + REGISTER, "does not follow the contract"),
        (changed(ops=[]) + REGISTER, "ops: Tuple should have at least 1 item"),
        (changed(), "does not register it"),
        (changed() + FAIL, f"ONNX Runtime {ort.__version__} does not register it: [ONNXRuntimeError]"),
        (changed() + FAIL, "no room for the op"),
        (changed() + CRASH, "SIGSEGV"),
        # Refused before it is registered: a library of a newer API may crash there.
        (changed(ort_api=99) + CRASH, f"built for ONNX Runtime 1.99 or newer (API 99), this is {ort.__version__}"),
        (changed(ort_api=0) + REGISTER, "ort_api: Input should be greater than or equal to 1"),
        (changed(ort_api="99") + REGISTER, "ort_api: Input should be a valid integer"),
        ("__attribute__((constructor)) void crash(void) { __builtin_trap(); }", "ends the process by SIG"),
        ("#include <stdlib.h>\n__attribute__((constructor)) void leave(void) { exit(3); }", "exit status 3"),
        (changed(providers=[CUDA]) + REGISTER, f"no kernels for {CPU}"),
        (changed_op(version=2) + REGISTER, "version 2 of ai.ddl::DeltaRewrite, the graph needs 1"),
        (changed_op(name="Other") + REGISTER, "no kernel for ai.ddl::DeltaRewrite"),
        (changed_op(datatypes=["FP16"]) + REGISTER, "no FP32 kernel"),
        (changed_op(value_channels=[4, 8]) + REGISTER, "4 to 8 value channels, the graph has 2"),
    ],
)
def test_a_library_that_does_not_fit_leads_to_plain_with_the_reason(source: str, reason: str, tmp_path: Path) -> None:
    library = make_library(tmp_path, source)
    choice = choose_kernel(str(library), OPS, CPU)
    assert choice.path == "plain"
    assert str(library) in choice.reason
    assert reason in choice.reason


@pytest.mark.parametrize(
    ("version", "api"), [("1.32.0", 32), ("1.24.4", 24), ("1.33.0.dev20261101", 33), ("2.0.0", None), ("main", None)]
)
def test_the_runtimes_api_is_its_minor_version(version: str, api: int | None) -> None:
    assert api_version(version) == api


@needs_compiler
def test_a_library_for_the_newest_api_of_this_runtime_is_taken(tmp_path: Path) -> None:
    library = make_library(tmp_path, changed(ort_api=api_version(ort.__version__)) + REGISTER)
    assert choose_kernel(str(library), OPS, CPU).path == "kernel"


@needs_compiler
def test_a_library_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = "#include <unistd.h>\n__attribute__((constructor)) void hang(void) { sleep(60); }"
    monkeypatch.setattr(kernel_library, "_PROBE_SECONDS", 0.5)
    choice = choose_kernel(str(make_library(tmp_path, source)), OPS, CPU)
    assert choice.path == "plain"
    assert "timed out" in choice.reason


@needs_compiler
def test_a_library_that_fits_is_chosen_and_described(tmp_path: Path) -> None:
    library = make_library(tmp_path, changed() + REGISTER)
    choice = choose_kernel(str(library), OPS, CPU)
    assert (choice.path, choice.library) == ("kernel", library)
    assert choice.info is not None
    assert choice.info.isa == "test"
    assert choice.reason == f"ddl_delta 9.9, test, {CPU}"


@needs_compiler
def test_a_library_is_tried_out_anew_when_it_was_replaced(tmp_path: Path) -> None:
    library = make_library(tmp_path, changed_op(version=2) + REGISTER)
    assert choose_kernel(str(library), OPS, CPU).path == "plain"
    library.unlink()
    library = make_library(tmp_path, changed(version="much longer than before") + REGISTER)
    assert choose_kernel(str(library), OPS, CPU).path == "kernel"


def test_every_op_of_the_graph_must_be_covered() -> None:
    info = kernel_library.KernelInfo.model_validate(INFO)
    other = CustomOp(domain="ai.ddl", name="CompressNorm", version=1, count=1)
    assert info.refusal(OPS, CPU) is None
    assert info.refusal((*OPS, other), CPU) == "it has no kernel for ai.ddl::CompressNorm"


def test_a_session_whose_library_cannot_be_registered_runs_plain(tmp_path: Path, maker: BundleMaker) -> None:
    folder = maker.write(tmp_path)
    gone = KernelChoice("kernel", "was there a moment ago", tmp_path / "gone.so")
    session = OrtSession(folder / "graphs" / "model.onnx", providers=[CPU], threads=1, kernel=gone)
    assert session.kernel.path == "plain"
    assert "gone.so is not used" in session.kernel.reason
    pixels = maker.golden()["input/pixels"]
    assert session.run({"pixels": pixels}, ["probabilities"])["probabilities"].shape == (3, 4)


@needs_library
def test_the_built_library_gives_the_numbers_of_the_plain_body(tmp_path: Path, maker: BundleMaker) -> None:
    graph = maker.write(tmp_path) / "graphs" / "model.onnx"
    chosen = choose_kernel("auto", OPS, CPU)
    assert chosen.path == "kernel", chosen.reason
    feeds = {"pixels": maker.golden()["input/pixels"]}
    names = list(output_shapes())
    kernel = OrtSession(graph, providers=[CPU], threads=1, kernel=chosen).run(feeds, names)
    plain = OrtSession(graph, providers=[CPU], threads=1, kernel=kernel_library.plain("test")).run(feeds, names)
    for name in names:
        assert kernel[name] == pytest.approx(plain[name], rel=1e-4, abs=1e-5), name
