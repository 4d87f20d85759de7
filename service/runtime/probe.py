"""Try out an op library in a process of its own: `python probe.py LIBRARY` prints one JSON object.

A library of another ABI, processor or runtime can end the process that loads it. Here it ends this one.
The file is run by its path, so it imports nothing of ours.
"""

import ctypes
import json
import re
import sys


def probe(library: str) -> dict[str, object]:
    """Load the library, read its description, register it with ONNX Runtime: `{"info": ...}` or `{"error": ...}`."""
    try:
        handle = ctypes.CDLL(library)
    except OSError as error:
        return {"error": f"it cannot be loaded: {error}"}
    try:
        describe = handle.ddl_kernel_info
    except AttributeError:
        return {"error": "it has no function ddl_kernel_info"}
    describe.restype = ctypes.c_char_p
    text = describe()
    try:
        info = json.loads(text or b"")
    except ValueError:
        return {"error": "ddl_kernel_info did not return JSON"}
    import onnxruntime

    needed = info.get("ort_api") if isinstance(info, dict) else None
    offered = api_version(onnxruntime.__version__)
    if isinstance(needed, int) and offered is not None and needed > offered:
        return {
            "error": f"it is built for ONNX Runtime 1.{needed} or newer (API {needed}), this is "
            f"{onnxruntime.__version__}: update onnxruntime, or build the library that belongs to this version"
        }
    try:
        onnxruntime.SessionOptions().register_custom_ops_library(library)
    except Exception as error:  # ONNX Runtime's exceptions have no common base
        return {"error": f"ONNX Runtime {onnxruntime.__version__} does not register it: {error}"}
    return {"info": info}


def api_version(version: str) -> int | None:
    """Return the newest API that a release of ONNX Runtime offers: its minor number; None if that cannot be told.

    It has offered all from 1 to that number so far (`OrtApiBase::GetApi`).
    """
    release = re.match(r"1\.(\d+)\.", version)
    return int(release[1]) if release else None


if __name__ == "__main__":
    json.dump(probe(sys.argv[1]), sys.stdout)
