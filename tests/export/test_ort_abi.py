"""The hand-written slice of ONNX Runtime's C API against a real header, and against a runtime that is too old.

A header is `$DDL_ORT_INCLUDE/onnxruntime_c_api.h` or that of Debian's libonnxruntime-dev.
"""

import ctypes
import os
import re
import subprocess
from pathlib import Path

import pytest

from export.kernels import build

SLICE = (build.SOURCES / "ort_abi.h").read_text(encoding="utf-8")
HEADER = "onnxruntime_c_api.h"
FOLDERS = ("/usr/include/onnxruntime", "/usr/include/onnxruntime/core/session", "/usr/local/include/onnxruntime")
CONSTANTS = {
    "kFail": "ORT_FAIL",
    "kInvalidArgument": "ORT_INVALID_ARGUMENT",
    "kFloat": "ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT",
    "kFloat16": "ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16",
    "kBFloat16": "ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16",
    "kRequired": "INPUT_OUTPUT_REQUIRED",
    "kOptional": "INPUT_OUTPUT_OPTIONAL",
    "kDefault": "OrtMemTypeDefault",
}


def slots() -> dict[str, int]:
    """Return the index in OrtApi of each function that the slice calls."""
    return {name: int(index) for name, index in re.findall(r"(\w+)\([^{};]*\{\s*(?:return )?Call<[^>]*>\((\d+)", SLICE)}


def fields() -> list[str]:
    """Return the members of OrtCustomOp in order."""
    body = SLICE[SLICE.index("struct CustomOp {") : SLICE.index("static_assert(sizeof(void*)")]
    return ["version", *re.findall(r"\(\*(\w+)\)\(", body)]


def version(name: str) -> int:
    match = re.search(rf"constexpr std::uint32_t {name} = (\d+);", SLICE)
    assert match is not None
    return int(match[1])


def assertions(api: dict[str, int]) -> str:
    """Return C++ that compiles where a header agrees with the slice and with these slots of OrtApi."""
    at = 'static_assert(offsetof({}, {}) == {} * sizeof(void*), "{}");'
    lines = [f"#include <{HEADER}>", "#include <cstddef>"]
    lines += [at.format("OrtApi", name, index, name) for name, index in api.items()]
    lines += [at.format("OrtCustomOp", name, index, name) for index, name in enumerate(fields())]
    lines.append(f'static_assert(sizeof(OrtCustomOp) >= {len(fields())} * sizeof(void*), "OrtCustomOp");')
    for ours, theirs in CONSTANTS.items():
        match = re.search(rf"\b{ours} = (\d+)", SLICE)
        assert match is not None
        lines.append(f'static_assert({theirs} == {match[1]}, "{ours}");')
    return "\n".join(lines)


def compile_against(header: Path, source: str, folder: Path) -> str:
    """Return what the compiler has to say: nothing if all assertions hold."""
    (folder / "abi.cc").write_text(source, encoding="utf-8")
    command = [build.find_compiler(), "-std=c++17", "-fsyntax-only", f"-I{header.parent}", "abi.cc"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False).stderr


@pytest.fixture(scope="module")
def header() -> Path:
    folders = [os.environ["DDL_ORT_INCLUDE"]] if os.environ.get("DDL_ORT_INCLUDE") else FOLDERS
    found = next((Path(folder) / HEADER for folder in folders if (Path(folder) / HEADER).is_file()), None)
    if found is None:
        pytest.skip(f"THE ABI OF ONNX RUNTIME IS NOT CHECKED: no {HEADER} in {', '.join(folders)}; set DDL_ORT_INCLUDE")
    try:
        build.find_compiler()
    except build.ToolMissing as missing:
        pytest.skip(f"THE ABI OF ONNX RUNTIME IS NOT CHECKED: {str(missing).splitlines()[0]}")
    return found


def known_slots(header: Path) -> dict[str, int]:
    """Return the slots of functions that the header has; one may be newer than it, and is then asked for by version."""
    text = header.read_text(encoding="utf-8")
    release = re.search(r"#define ORT_API_VERSION (\d+)", text)
    assert release is not None
    assert int(release[1]) >= version("kApiVersion")
    missing = {name for name in slots() if not re.search(rf"\b{name}\b", text)}
    newer = (
        {"GetTensorElementTypeAndShapeDataReference"} if int(release[1]) < version("kShapeReferenceVersion") else set()
    )
    assert missing == newer
    return {name: index for name, index in slots().items() if name not in missing}


def test_slice_is_read_completely() -> None:
    assert len(slots()) == SLICE.count(" Call<")
    assert len(fields()) * 8 == 208


def test_slice_agrees_with_the_header(header: Path, tmp_path: Path) -> None:
    assert compile_against(header, assertions(known_slots(header)), tmp_path) == ""


def test_wrong_slot_is_noticed(header: Path, tmp_path: Path) -> None:
    moved = {**known_slots(header), "KernelContext_GetInput": slots()["KernelContext_GetInput"] + 1}
    assert "KernelContext_GetInput" in compile_against(header, assertions(moved), tmp_path)


def test_older_runtime_is_refused_in_words(kernel_library: Path) -> None:
    """A runtime of version 1.17 in Python: it has the first table alone, and there no more than CreateStatus."""
    create_status = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p)
    get_api = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_uint32)
    get_version = ctypes.CFUNCTYPE(ctypes.c_void_p)
    messages: list[str] = []
    name = ctypes.create_string_buffer(b"1.17.3")

    def refuse(code: int, message: bytes) -> int:
        assert code == 1
        messages.append(message.decode())
        return 4711

    create = create_status(refuse)
    table = (ctypes.c_void_p * 1)(ctypes.cast(create, ctypes.c_void_p).value)
    first = get_api(lambda number: ctypes.addressof(table) if number == 1 else None)
    text = get_version(lambda: ctypes.addressof(name))
    base = (ctypes.c_void_p * 2)(*(ctypes.cast(function, ctypes.c_void_p).value for function in (first, text)))

    register = ctypes.CDLL(os.fspath(kernel_library)).RegisterCustomOps
    register.restype = ctypes.c_void_p
    assert register(None, ctypes.byref(base)) == 4711
    (message,) = messages
    assert f"needs ONNX Runtime 1.{version('kApiVersion')} or newer, this one is 1.17.3" in message
