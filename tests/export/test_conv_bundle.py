"""A convolutional delta network as a bundle: standard operators alone, gates of stages of different size."""

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch

from ddl_model import DeltaResNet, DeltaResNetConfig, Observer, ResidualConfig
from ddl_model.checkpoint import Checkpoint, save_checkpoint
from ddl_model.delta_op import NO_OVERRIDE
from export.graph import override_input
from export.pipeline import ExportError, export_bundle
from export.precision_check import Lowering
from service.bundle import Manifest, read_bundle
from service.manifest.gates import Gates
from tests.model_fixtures import lively

CONFIG = DeltaResNetConfig(labels=("a", "b", "c"), image_height=10, image_width=7, planes=(6, 8), blocks=2)
POSITIONS = (70, 70, 20, 20)


@pytest.fixture(scope="module")
def network() -> DeltaResNet:
    torch.manual_seed(0)
    return lively(DeltaResNet(CONFIG), seed=0)


@pytest.fixture(scope="module")
def bundle(network: DeltaResNet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("conv")
    save_checkpoint(folder / "run", 0, Checkpoint(network.state_dict(), CONFIG, {}, samples={"pixels": pixels(4)}))
    export_bundle(folder / "run", folder / "models" / "conv" / "1")
    return folder / "models" / "conv" / "1"


@pytest.fixture(scope="module")
def manifest(bundle: Path) -> Manifest:
    return read_bundle(bundle).manifest


@pytest.fixture(scope="module")
def gates(manifest: Manifest) -> Gates:
    assert manifest.gates is not None
    return manifest.gates


@pytest.fixture(scope="module")
def session(bundle: Path, manifest: Manifest) -> ort.InferenceSession:
    return ort.InferenceSession(bundle / manifest.graph.file)


def pixels(rows: int) -> torch.Tensor:
    return torch.randn(rows, 1, 10, 7, generator=torch.Generator().manual_seed(rows))


def test_it_is_described_as_one_gate_per_block_and_image(manifest: Manifest, gates: Gates) -> None:
    assert manifest.graph.custom_ops == ()
    assert [site.name for site in gates.sites] == ["0.conv", "1.conv", "2.conv", "3.conv"]
    assert {site.sublayer for site in gates.sites} == {"conv"}
    assert gates.positions.kind == "image"
    assert gates.value_channels == 70
    assert gates.depth is None


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_the_graph_answers_and_tells_its_gates_as_torch_does(
    network: DeltaResNet, session: ort.InferenceSession, gates: Gates, rows: int
) -> None:
    images, observer = pixels(rows), Observer()
    with torch.no_grad():
        expected = network(images, observer)
    names = ["logits", *(name for outputs in gates.outputs.values() for name in outputs)]
    found = dict(zip(names, session.run(names, {"pixels": images.numpy()}), strict=True))
    np.testing.assert_allclose(found["logits"], expected, rtol=0, atol=2e-5)
    fields = {
        "v": "target",
        "proj": "readout",
        "beta": "beta",
        "beta_logit": "gate_logit",
        "k_raw_norm": "direction_norm",
    }
    for quantity, outputs in gates.outputs.items():
        for site, positions, output in zip(gates.sites, POSITIONS, outputs, strict=True):
            torch_values = getattr(observer.rewrites[site.name], fields[quantity]).numpy()
            values = found[output]
            if quantity in ("v", "proj"):
                assert values.shape == (rows, 1, 70)
                assert not values[..., positions:].any()
                values = values[..., :positions]
            np.testing.assert_allclose(values, torch_values, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("rows", [1, 3])
def test_overrides_for_all_images_or_for_each(network: DeltaResNet, session: ort.InferenceSession, rows: int) -> None:
    images = pixels(3)
    values = np.array([NO_OVERRIDE] * rows, np.float32)[:, None]
    values[:, 0, :2] = (0.0, 0.25)
    values[-1, 0, 4] = 0.0
    observer = Observer(overrides={"2.conv": torch.from_numpy(values)})
    with torch.no_grad():
        expected = network(images, observer)
    (found,) = session.run(["logits"], {"pixels": images.numpy(), override_input("2.conv"): values})
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5)
    (untouched,) = session.run(["logits"], {"pixels": images.numpy()})
    assert not np.allclose(found, untouched, atol=1e-3)


def test_the_additive_twin_has_no_gates(tmp_path: Path) -> None:
    config = DeltaResNetConfig(
        labels=("a", "b"), image_height=6, image_width=6, planes=(4,), residual=ResidualConfig(rule="additive")
    )
    save_checkpoint(tmp_path / "run", 0, Checkpoint(DeltaResNet(config).state_dict(), config, {}))
    export_bundle(tmp_path / "run", tmp_path / "models" / "twin" / "1")
    assert read_bundle(tmp_path / "models" / "twin" / "1").manifest.gates is None


def test_half_precision_is_refused_with_the_reason(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="a convolutional network has no float16 form"):
        export_bundle(bundle.parents[2] / "run", tmp_path / "models" / "conv" / "1", how=Lowering(precision="float16"))
