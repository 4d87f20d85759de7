"""The whole way with real parts: train briefly, export, serve, and get torch's probabilities and gates."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch

from ddl_model import ImageClassifier, Observer, load_checkpoint
from ddl_model.training.config import TrainConfig
from ddl_model.training.image_data import ImageSet, normalise
from ddl_model.training.image_task import ImageTask
from ddl_model.training.loop import train
from export.pipeline import export_bundle
from service.runtime.kernel_library import BUILT_LIBRARY
from tests.running_service import running_service

TOLERANCE = 1e-5

needs_library = pytest.mark.skipif(
    not BUILT_LIBRARY.is_file(), reason=f"no op library at {BUILT_LIBRARY}: run `make kernels` (needs a C++ compiler)"
)


@pytest.fixture(scope="module")
def trained(
    small_recipe: TrainConfig, small_data: tuple[ImageSet, ImageSet], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Return a repository folder with a bundle of a briefly trained network, its run folder beside it."""
    folder = tmp_path_factory.mktemp("end-to-end")
    config = replace(small_recipe, epochs=2)
    task = ImageTask(small_data, config.data, config.model, config.seed)  # type: ignore[arg-type]
    train(config, task, folder / "run", show_progress=False)
    report = export_bundle(folder / "run", folder / "models" / "clothes" / "1")
    assert report.agrees
    assert [path.name for path in report.paths] == ["plain body", *(["kernel"] if BUILT_LIBRARY.is_file() else [])]
    return folder


@pytest.fixture(params=["off", pytest.param("auto", marks=needs_library)], ids=["plain body", "kernel"])
def client(trained: Path, root: Path, request: pytest.FixtureRequest) -> Iterator[httpx.Client]:
    """Return a client of a running service, with and without the op library."""
    flags = ["--repository", str(trained / "models"), "--kernel-library", request.param]
    with running_service(root, *flags) as base, httpx.Client(base_url=base) as client:
        path = client.get("/v1/models").json()["models"][0]["kernel"]["path"]
        assert path == {"off": "plain", "auto": "kernel"}[request.param]
        yield client


def test_the_service_gives_torchs_probabilities_and_gates(
    trained: Path, small_data: tuple[ImageSet, ImageSet], client: httpx.Client
) -> None:
    model = load_checkpoint(trained / "run")
    assert isinstance(model, ImageClassifier)
    pixels = normalise(small_data[1].images[:6], model.config.pixel_mean, model.config.pixel_std)
    observer = Observer()
    with torch.no_grad():
        probabilities = model(pixels, observer).softmax(-1).numpy()
    tensor = {"shape": list(pixels.shape), "data": pixels.flatten().tolist()}

    answer = client.post(
        "/v2/models/clothes/infer", json={"inputs": [{"name": "pixels", "datatype": "FP32", **tensor}]}
    ).json()
    outputs = {output["name"]: np.array(output["data"]).reshape(output["shape"]) for output in answer["outputs"]}
    assert np.abs(outputs["probabilities"] - probabilities).max() < TOLERANCE

    gates = client.post("/v1/models/clothes/gates", json={"inputs": {"tensor": {"dtype": "f32", **tensor}}}).json()
    assert [site["name"] for site in gates["sites"]] == model.sites
    assert len(gates["results"]) == 6
    for image, result in enumerate(gates["results"]):
        beta = np.array(result["tensors"]["beta"]["data"])
        expected = np.stack([observer.rewrites[site].beta[image].numpy() for site in model.sites])
        assert beta.shape == (4, 49)
        assert np.abs(beta - expected).max() < TOLERANCE
        assert result["prediction"]["top"][0]["index"] == int(probabilities[image].argmax())
