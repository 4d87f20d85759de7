"""The Open Inference Protocol's extensions that change the running service: model repository and logging."""

import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.service.conftest import Client
from tests.service.test_predict_api import INFER, infer_body
from tests.service.tiny_bundle import BundleMaker

INDEX = "/v2/repository/index"
LOAD = "/v2/repository/models/tiny/load"
UNLOAD = "/v2/repository/models/tiny/unload"


@pytest.fixture
def client_of(tmp_path: Path, maker: BundleMaker, serve: Any) -> Any:
    """Return a function that serves a repository of its own: `tiny`, two versions, under explicit control."""
    for version in ("1", "2"):
        maker.write(tmp_path, version=version)

    def start(**settings: Any) -> Client:
        client: Client = serve(repository=tmp_path, **{"control": "explicit", **settings})
        return client

    return start


def test_the_index(client_of: Any) -> None:
    client = client_of()
    everything = client.post(INDEX).json()
    assert [(line["name"], line["version"], line["state"]) for line in everything] == [
        ("tiny", "1", "UNAVAILABLE"),
        ("tiny", "2", "READY"),
    ]
    assert client.post(INDEX, json={}).json() == everything
    assert client.post(INDEX, json={"ready": False}).json() == everything
    assert client.post(INDEX, json={"ready": True}).json() == everything[1:]
    assert client.post(INDEX, json={"ready": 7}).status_code == 400
    assert client.post(INDEX, json={"redy": True}).status_code == 400
    assert client.post(INDEX, content=b"{").status_code == 400


def test_unload_and_load(client_of: Any, pixels: np.ndarray) -> None:
    client = client_of()
    assert client.post(UNLOAD).json() == {}
    response = client.post(INFER, json=infer_body(pixels))
    assert (response.status_code, response.json()["type"]) == (503, "urn:ddl:problem:model-not-ready")
    assert client.get("/v2/models/tiny/ready").status_code == 503
    assert client.post(INDEX, json={"ready": True}).json() == []
    assert client.post(LOAD, json={"parameters": {}}).json() == {}
    assert client.post(INFER, json=infer_body(pixels)).status_code == 200


def test_load_with_a_configuration(client_of: Any, pixels: np.ndarray) -> None:
    client = client_of()
    config = json.dumps({"versions": [1], "batching": {"max_rows": 4}})
    assert client.post(LOAD, json={"parameters": {"config": config}}).status_code == 200
    assert client.get("/v2/models/tiny").json()["versions"] == ["1"]
    assert client.post(INFER, json=infer_body(pixels)).json()["model_version"] == "1"
    parameters = client.get("/v2/models/tiny/config").json()
    assert parameters["version_policy"] == {"specific": {"versions": [1]}}
    assert parameters["parameters"]["batch_rows"] == {"string_value": "4"}


@pytest.mark.parametrize(
    ("path", "parameters", "field"),
    [
        (LOAD, {"config": "{"}, "parameters.config"),
        (LOAD, {"config": "[]"}, "parameters.config"),
        (LOAD, {"config": {}}, "parameters.config"),
        (LOAD, {"file:1/model.onnx": "AAAA"}, "parameters.file"),
        (LOAD, {"what": 1}, "parameters.what"),
        (UNLOAD, {"what": 1}, "parameters.what"),
    ],
)
def test_parameters_that_are_not_understood_are_400(client_of: Any, path: str, parameters: Any, field: str) -> None:
    response = client_of().post(path, json={"parameters": parameters})
    assert response.status_code == 400
    assert response.json()["detail"].startswith(field)


def test_a_configuration_that_does_not_fit_is_400(client_of: Any) -> None:
    response = client_of().post(LOAD, json={"parameters": {"config": '{"batching": {"max_rows": 0}}'}})
    assert response.status_code == 400
    assert "batching.max_rows" in response.json()["detail"]


def test_what_cannot_be_loaded_is_503_and_what_was_served_goes_on(
    client_of: Any, tmp_path: Path, pixels: np.ndarray
) -> None:
    client = client_of()
    shutil.copytree(tmp_path / "tiny" / "2", tmp_path / "tiny" / "3")
    (tmp_path / "tiny" / "3" / "graphs" / "model.onnx").write_bytes(b"damaged")
    response = client.post(LOAD)
    assert response.status_code == 503
    assert response.json()["type"] == "urn:ddl:problem:load-failed"
    assert "SHA-256" in response.json()["error"]
    assert client.post(INFER, json=infer_body(pixels)).json()["model_version"] == "2"


def test_unknown_models_are_404(client_of: Any) -> None:
    client = client_of()
    for action in ("load", "unload"):
        assert client.post(f"/v2/repository/models/nix/{action}").status_code == 404


def test_without_explicit_control_loading_is_409(client_of: Any) -> None:
    client = client_of(control="none")
    for path in (LOAD, UNLOAD):
        response = client.post(path)
        assert response.status_code == 409
        assert "control" in response.json()["detail"]
    assert [line["version"] for line in client.post(INDEX, json={"ready": True}).json()] == ["2"]


LOGGING = "/v2/logging"


@pytest.fixture
def root_level() -> Iterator[None]:
    """Keep the tests' own level."""
    level = logging.getLogger().level
    logging.getLogger().setLevel(logging.INFO)
    yield
    logging.getLogger().setLevel(level)


@pytest.mark.usefixtures("root_level")
def test_log_settings(client: Client) -> None:
    usual = client.get(LOGGING).json()
    assert usual == {
        "log_file": "",
        "log_info": True,
        "log_warnings": True,
        "log_errors": True,
        "log_verbose_level": 0,
        "log_format": client.state.settings.log_format,
    }
    assert client.post(LOGGING, json={"log_verbose_level": 1}).json() == {**usual, "log_verbose_level": 1}
    assert logging.getLogger().level == logging.DEBUG
    changed = client.post(LOGGING, json={"log_verbose_level": 0, "log_info": False}).json()
    assert (changed["log_info"], logging.getLogger().level) == (False, logging.WARNING)
    assert client.post(LOGGING, json={"log_warnings": False}).json()["log_warnings"] is False
    assert logging.getLogger().level == logging.ERROR
    assert client.post(LOGGING, json=usual).json() == usual
    assert logging.getLogger().level == logging.INFO


@pytest.mark.usefixtures("root_level")
@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"log_errors": False}, "log_errors"),
        ({"log_warnings": False}, "log_warnings"),
        ({"log_info": False, "log_verbose_level": 1}, "log_info"),
        ({"log_verbose_level": 2}, "log_verbose_level"),
        ({"log_verbose_level": True}, "log_verbose_level"),
        ({"log_info": 1}, "log_info"),
        ({"log_file": "/tmp/log"}, "log_file"),
        ({"log_format": "ISO8601"}, "log_format"),
        ({"log_everything": True}, "log_everything"),
        ([], "body"),
    ],
)
def test_log_settings_that_do_not_fit_are_400_and_change_nothing(client: Client, change: Any, field: str) -> None:
    response = client.post(LOGGING, json=change)
    assert response.status_code == 400
    assert field in response.json()["detail"]
    assert logging.getLogger().level == logging.INFO
