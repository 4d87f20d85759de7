"""Try out an op library in a process of its own: `python probe.py LIBRARY` prints one JSON object.

A library of another ABI, processor or runtime can end the process that loads it. Here it ends this one.
The file is run by its path, so it imports nothing of ours.
"""

import ctypes
import json
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

    try:
        onnxruntime.SessionOptions().register_custom_ops_library(library)
    except Exception as error:  # ONNX Runtime's exceptions have no common base
        return {"error": f"ONNX Runtime {onnxruntime.__version__} does not register it: {error}"}
    return {"info": info}


if __name__ == "__main__":
    json.dump(probe(sys.argv[1]), sys.stdout)
