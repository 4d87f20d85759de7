from pathlib import Path

from service.grpc.generate import PROTO, generate


def test_the_generated_files_are_those_of_the_proto_file(tmp_path: Path) -> None:
    generate(tmp_path)
    for name in ("inference_pb2.py", "inference_pb2.pyi"):
        assert (tmp_path / "service" / "grpc" / name).read_text() == (PROTO.parent / name).read_text(), (
            "run python -m service.grpc.generate"
        )
