"""Write `inference_pb2.py` and its types anew from `inference.proto`: `python -m service.grpc.generate`."""

import sys
from pathlib import Path

PROTO = Path(__file__).parent / "inference.proto"


def generate(out: Path) -> None:
    """Compile the messages into `out`, under the folders of this package.

    Raises:
        RuntimeError: the compiler refused the file; its words are on standard error.
    """
    from grpc_tools import protoc  # a tool of development

    root = PROTO.parents[2]
    arguments = ["protoc", f"-I{root}", f"--python_out={out}", f"--pyi_out={out}", str(PROTO.relative_to(root))]
    if protoc.main(arguments):
        raise RuntimeError(f"{PROTO} could not be compiled")


if __name__ == "__main__":
    generate(PROTO.parents[2])
    sys.exit(0)
