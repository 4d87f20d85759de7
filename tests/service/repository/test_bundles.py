import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from service.bundle import write_checksums
from service.errors import ModelNotReady, RepositoryEmpty, UnknownModel, UnknownVersion
from service.repository import Repository, opening
from service.repository.opening import Device
from service.runtime.kernel_library import KernelChoice, plain
from service.runtime.session import CUDA, OrtSession
from tests.service.repository.running import flip_a_bit, opened
from tests.service.tiny_bundle import BundleMaker


def test_a_good_bundle_is_ready_and_proven(tmp_path: Path, maker: BundleMaker) -> None:
    maker.write(tmp_path)
    model = opened(tmp_path).get("tiny")
    assert (model.name, model.version) == ("tiny", "1")
    assert model.load_seconds > 0
    assert model.golden_difference < model.manifest.golden.tolerance
    assert model.session.kernel.reason == "switched off"


def test_nothing_answers_before_it_is_opened(tmp_path: Path, maker: BundleMaker) -> None:
    maker.write(tmp_path)
    repository = Repository(tmp_path)
    with pytest.raises(ModelNotReady, match="it is not loaded"):
        repository.get("tiny")
    assert repository.unready() == {"tiny": "loading"}


def test_the_newest_version_is_found_by_number(tmp_path: Path, maker: BundleMaker) -> None:
    for version in ("2", "10", "9"):
        maker.write(tmp_path, version=version)
    repository = opened(tmp_path)
    assert repository.get("tiny").version == "10"
    assert repository.get("tiny", "10").version == "10"
    with pytest.raises(UnknownVersion, match="'9' of 'tiny' is in the repository; version 10 is served"):
        repository.get("tiny", "9")
    with pytest.raises(UnknownVersion, match="unknown") as caught:
        repository.get("tiny", "11")
    assert caught.value.details["known"] == ["10"]


def test_an_unknown_name_is_answered_with_the_known_ones(tmp_path: Path, maker: BundleMaker) -> None:
    maker.write(tmp_path)
    with pytest.raises(UnknownModel, match="known: tiny"):
        opened(tmp_path).get("huge")


def test_folders_that_are_no_models_are_left_out_and_named(
    tmp_path: Path, maker: BundleMaker, caplog: pytest.LogCaptureFixture
) -> None:
    maker.write(tmp_path)
    for name in ("Tiny Model/1", ".git/1", "tiny/01", "tiny/latest", "tiny/²", "empty"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "README.md").write_text("no model")
    with caplog.at_level(logging.WARNING):
        repository = Repository(tmp_path)
    assert [entry.name for entry in repository.index()] == ["tiny"]
    assert len(caplog.records) == 4  # a name with a space, three versions that are no numbers


@pytest.mark.parametrize("name", ["missing", "."])
def test_nothing_to_serve_is_an_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(RepositoryEmpty):
        Repository(tmp_path / name)


def edit_manifest(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the manifest past its own validation, and list its new checksum."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))
    write_checksums(folder)


def wrong_weight(model: onnx.ModelProto) -> None:
    tensor = next(t for t in model.graph.initializer if t.name == "head/weight")
    array = onnx.numpy_helper.to_array(tensor).copy()
    array[0, 0] += 0.5
    tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))


def drop_sample_input(samples: dict[str, np.ndarray]) -> None:
    samples["input/other"] = samples.pop("input/pixels")


def one_sample_less(samples: dict[str, np.ndarray]) -> None:
    for name in samples:
        samples[name] = samples[name][:2]


def no_outputs(samples: dict[str, np.ndarray]) -> None:
    for name in [name for name in samples if name.startswith("output/")]:
        del samples[name]


def set_shape(kind: str, index: int, shape: list[int]) -> Callable[[Path], None]:
    return lambda folder: edit_manifest(folder, lambda m: m["graph"][kind][index].update(shape=shape))


BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "no files": ({"after": lambda f: [p.unlink() for p in f.rglob("*") if p.is_file()]}, "SHA256SUMS is missing"),
    "flipped bit": ({"after": flip_a_bit}, "has SHA-256"),
    "file missing": ({"after": lambda f: (f / "graphs" / "model.onnx").unlink()}, "is missing"),
    "manifest is no JSON": ({"files": lambda f: (f / "manifest.json").write_text("{")}, "Invalid JSON"),
    "another schema": (
        {"after": lambda f: edit_manifest(f, lambda m: m.update(schema="ddl.bundle/2"))},
        "schema: Input should be 'ddl.bundle/1'",
    ),
    "unknown field": ({"after": lambda f: edit_manifest(f, lambda m: m.update(extra=1))}, "extra"),
    "another name": ({"manifest": lambda m: m.update(name="other")}, "the manifest says 'other'"),
    "graph is not ONNX": (
        {"files": lambda f: (f / "graphs" / "model.onnx").write_bytes(b"x" * 99)},
        "cannot be opened",
    ),
    "golden is no safetensors": (
        {"files": lambda f: (f / "golden" / "samples.safetensors").write_bytes(b"x" * 99)},
        "cannot be read",
    ),
    "wrong weight": ({"graph": wrong_weight}, "from the recorded samples"),
    "golden of another input": ({"golden": drop_sample_input}, "do not fit"),
    "golden with fewer samples": ({"golden": one_sample_less}, "for 3 samples"),
    "golden without outputs": ({"golden": no_outputs}, "do not fit"),
    "golden of another type": (
        {"golden": lambda g: g.update({"input/pixels": g["input/pixels"].astype(np.float64)})},
        "could not be run",
    ),
    "promised label count": (
        {"after": lambda f: edit_manifest(f, lambda m: m["task"].update(labels=["a", "b", "c"]))},
        "like labels",
    ),
    "promised image size": (
        {"after": lambda f: edit_manifest(f, lambda m: m["task"]["image"].update(width=13))},
        "has one input",
    ),
    "mean per channel": (
        {"after": lambda f: edit_manifest(f, lambda m: m["task"]["image"].update(mean=[0, 0, 0]))},
        "one per channel",
    ),
    "std of zero": (
        {"after": lambda f: edit_manifest(f, lambda m: m["task"]["image"].update(std=[0]))},
        "must be positive",
    ),
    "promised grid": (
        {"after": lambda f: edit_manifest(f, lambda m: m["gates"]["positions"].update(grid=[3, 3]))},
        "carries beta",
    ),
    "promised output shape": ({"after": set_shape("outputs", 1, [-1, 9])}, "in the manifest"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_bundle_is_refused_with_a_reason_and_the_others_go_on(
    case: str, tmp_path: Path, maker: BundleMaker, caplog: pytest.LogCaptureFixture
) -> None:
    changes, reason = BROKEN[case]
    maker.write(tmp_path)
    folder = maker.write(tmp_path, "broken", **changes)
    repository = opened(tmp_path)
    with pytest.raises(ModelNotReady) as caught:
        repository.get("broken")
    entry = repository.entry("broken")
    assert entry.state == "refused"
    assert reason in entry.reason
    assert entry.reason in str(caught.value)
    assert f"{folder}/" not in entry.reason
    assert repository.get("tiny").name == "tiny"
    refused = [record for record in caplog.records if record.message == "model refused"]
    assert len(refused) == 1
    assert refused[0].__dict__["fields"]["reason"] == entry.reason


def test_in_the_place_of_a_broken_newest_version_an_older_one_answers(tmp_path: Path, maker: BundleMaker) -> None:
    maker.write(tmp_path, version="1")
    maker.write(tmp_path, version="2", after=flip_a_bit)
    repository = opened(tmp_path)
    assert repository.get("tiny").version == "1"
    assert repository.unready() == {}
    with pytest.raises(ModelNotReady, match=r"version 2 is not ready: .*has SHA-256"):
        repository.get("tiny", "2")


def test_a_surprise_while_loading_refuses_that_model_alone(
    tmp_path: Path, maker: BundleMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    maker.write(tmp_path)
    maker.write(tmp_path, "other")
    real = opening.read_bundle

    def surprising(folder: Path) -> Any:
        if "other" in str(folder):
            raise RuntimeError("no memory")
        return real(folder)

    monkeypatch.setattr(opening, "read_bundle", surprising)
    repository = opened(tmp_path)
    assert repository.entry("other").reason == "loading failed: RuntimeError: no memory"
    assert repository.get("tiny").version == "1"


def test_a_device_that_is_not_there_refuses_the_model(tmp_path: Path, maker: BundleMaker) -> None:
    maker.write(tmp_path)
    assert "CUDAExecutionProvider" in opened(tmp_path, device=Device(CUDA)).entry("tiny").reason


class SkewedSession(OrtSession):
    """A session whose kernels answer something else."""

    def __init__(self, *args: Any, kernel: KernelChoice, **options: Any) -> None:
        super().__init__(*args, kernel=plain("opened plain"), **options)
        self.kernel = kernel

    def run(self, feeds: Any, outputs: Any, **options: Any) -> dict[str, np.ndarray]:
        values = super().run(feeds, outputs, **options)
        return {n: v + 0.01 for n, v in values.items()} if self.kernel.path == "kernel" else values


def test_a_kernel_with_other_numbers_yields_to_the_plain_body_loudly(
    tmp_path: Path, maker: BundleMaker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    maker.write(tmp_path)
    choice = KernelChoice("kernel", "fast and wrong", Path("/lib/fast.so"))
    monkeypatch.setattr(opening, "choose_kernel", lambda *_: choice)
    monkeypatch.setattr(opening, "OrtSession", SkewedSession)
    model = opened(tmp_path).get("tiny")
    assert model.session.kernel.path == "plain"
    assert "/lib/fast.so is not used: with its kernels" in model.session.kernel.reason
    (record,) = (r for r in caplog.records if r.message == "model ready")
    assert record.levelno == logging.WARNING
    assert record.__dict__["fields"]["kernel_path"] == "plain"
