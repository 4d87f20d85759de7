import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.requests import Request

from service import errors
from service.api.problems import KINDS, service_problem
from tests.service.conftest import Client, encode
from tests.service.test_predict_api import INFER, VALID, infer_body
from tests.service.tiny_bundle import HEIGHT, WIDTH, BundleMaker


def every_subclass(cls: type) -> set[type]:
    return {cls}.union(*(every_subclass(child) for child in cls.__subclasses__()))


def test_every_error_of_the_domain_has_its_row_in_the_table() -> None:
    defined = {value for value in vars(errors).values() if isinstance(value, type)}
    assert set(KINDS) == every_subclass(errors.ServiceError) == defined


def test_types_are_unique_and_statuses_are_errors() -> None:
    assert len({kind.slug for kind in KINDS.values()}) == len(KINDS)
    assert all(400 <= kind.status < 600 and kind.title for kind in KINDS.values())


def test_the_drawing_of_the_hierarchy_names_every_error() -> None:
    assert errors.__doc__ is not None
    for error in KINDS:
        assert error.__name__ in errors.__doc__


@pytest.mark.parametrize("path", ["/nix", "/v2/nix", "/v1/models/tiny/nix", "/docs/assets/secrets.js"])
def test_an_unknown_path_is_a_problem(client: Client, path: str) -> None:
    response = client.get(path)
    assert response.status_code == 404
    assert response.json()["type"] == "urn:ddl:problem:not-found"
    assert ("error" in response.json()) == path.startswith("/v2")


@pytest.mark.parametrize(
    ("method", "path", "allow"), [("GET", INFER, "POST"), ("DELETE", "/v2", "GET"), ("BREW", "/v2", "GET")]
)
def test_another_method_is_a_problem_that_names_the_right_one(
    client: Client, method: str, path: str, allow: str
) -> None:
    response = client.request(method, path)
    assert response.status_code == 405
    assert response.headers["allow"] == allow
    assert response.json()["type"] == "urn:ddl:problem:method-not-allowed"
    assert allow in response.json()["detail"]


def test_details_cannot_replace_the_standard_members() -> None:
    request = Request({"type": "http", "path": "/", "headers": [], "state": {"request_id": "r1"}})
    answer = service_problem(request, errors.UnknownModel("no such model", status=200, type="x", known=["a"]))
    assert json.loads(answer.body) == {
        "type": "urn:ddl:problem:unknown-model",
        "title": "Unknown model",
        "status": 404,
        "detail": "no such model",
        "request_id": "r1",
        "known": ["a"],
    }


def test_the_request_id_of_the_caller_is_kept_returned_and_logged(
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "service.access"):
        response = client.get("/v2", headers={"X-Request-ID": "trace-42:a.b_c"})
    assert response.headers["x-request-id"] == "trace-42:a.b_c"
    (record,) = (r for r in caplog.records if r.name == "service.access")
    assert record.__dict__["fields"]["request_id"] == "trace-42:a.b_c"
    assert record.__dict__["fields"]["status"] == 200


@pytest.mark.parametrize("given", ["", "a b", "x" * 65, "<script>", "a\tb", "é"])
def test_a_request_id_that_is_not_fit_is_replaced(client: Client, given: str) -> None:
    response = client.get("/v2", headers={"X-Request-ID": given.encode()})
    assert response.headers["x-request-id"] != given
    assert len(response.headers["x-request-id"]) == 32


def test_ids_differ(client: Client) -> None:
    assert client.get("/v2").headers["x-request-id"] != client.get("/v2").headers["x-request-id"]


def broken_session(client: Client, error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(client.state.repository.get("tiny").session, "run", fail)


def test_a_model_that_fails_is_500_and_the_service_goes_on(
    serve: Any, pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = serve()
    broken_session(client, errors.ModelFailed("the model could not be run: no memory"), monkeypatch)
    response = client.post(INFER, json=infer_body(pixels))
    assert response.status_code == 500
    assert response.json()["type"] == "urn:ddl:problem:model-failed"
    assert client.get("/v2/health/live").status_code == 200


def test_a_surprise_is_500_without_its_words_and_logged_in_one_line(
    serve: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    client = serve()

    async def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("internal words")

    monkeypatch.setattr(client.state.repository.get("tiny").batcher, "run", fail)
    response = client.post(INFER, json=infer_body(VALID))
    assert response.status_code == 500
    assert response.json()["type"] == "urn:ddl:problem:internal"
    assert "internal words" not in response.text
    (record,) = (r for r in caplog.records if r.name == "service.errors")
    assert record.__dict__["fields"]["request_id"] == response.json()["request_id"]
    assert record.exc_info is not None
    assert 'ddl_http_requests_total{method="POST",route="/v2/models/{name}/infer",status="500"} 1.0' in (
        client.get("/metrics").text
    )


def test_readiness_says_which_bundle_was_refused_and_why(serve: Any, tmp_path: Path, maker: BundleMaker) -> None:
    maker.write(tmp_path)
    maker.write(tmp_path, "broken", after=lambda f: (f / "graphs" / "model.onnx").unlink())
    client = serve(repository=tmp_path)
    assert client.get("/v2/health/live").json() == {"live": True}
    ready = client.get("/v2/health/ready")
    assert ready.status_code == 503
    assert ready.json()["type"] == "urn:ddl:problem:not-ready"
    assert ready.json()["models"] == {"broken": "graphs/model.onnx is missing"}
    for path in ("/v2/models/broken", "/v2/models/broken/ready", "/v1/models/broken/gates/meta"):
        response = client.get(path)
        assert response.status_code == 503
        assert response.json()["type"] == "urn:ddl:problem:model-not-ready"
        assert "graphs/model.onnx is missing" in response.json()["detail"]
    assert client.post("/v2/models/broken/infer", json={}).status_code == 503
    assert client.get("/v2/models/tiny/ready").status_code == 200
    assert client.post("/v1/models/tiny/classify", json={"pixels": [[0] * WIDTH] * HEIGHT}).status_code == 200
    listed = {model["name"]: model for model in client.get("/v1/models").json()["models"]}
    assert (listed["broken"]["state"], listed["tiny"]["state"]) == ("refused", "ready")
    assert listed["broken"]["reason"] == "graphs/model.onnx is missing"
    metrics = client.get("/metrics").text
    assert 'ddl_model_ready{model="broken",version="1"} 0.0' in metrics
    assert 'ddl_model_ready{model="tiny",version="1"} 1.0' in metrics


def test_readiness_says_yes_when_every_model_answers_and_no_while_draining(serve: Any) -> None:
    client = serve()
    assert client.get("/v2/health/ready").json() == {"ready": True}
    client.state.draining = True
    response = client.get("/v2/health/ready")
    assert response.status_code == 503
    assert "shutting down" in response.json()["detail"]
    assert client.get("/v2/health/live").status_code == 200
    assert client.get("/v2/models/tiny").status_code == 200


def test_readiness_says_no_while_models_are_loaded(serve: Any) -> None:
    client = serve()
    client.state.loaded = False
    assert client.get("/v2/health/ready").status_code == 503


def test_the_list_shows_the_path_of_the_rewrites(serve: Any) -> None:
    (model,) = serve(kernel_library="off").get("/v1/models").json()["models"]
    ops = [{"name": "DeltaRewrite", "version": 2, "nodes": 2, "path": "plain"}]
    assert model["kernel"] == {"path": "plain", "reason": "switched off", "isa": None, "ops": ops}
    assert (model["name"], model["version"], model["provider"]) == ("tiny", "1", "CPUExecutionProvider")
    assert model["labels"] == ["boot", "bag", "coat", "dress"]
    assert model["gates"] is True


def test_an_image_body_does_not_reach_the_log(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    from PIL import Image

    data = encode(Image.new("L", (5, 5)))
    with caplog.at_level(logging.DEBUG, "service"):
        client.post("/v1/models/tiny/classify?top=1", content=data, headers={"content-type": "image/png"})
    for record in caplog.records:
        assert "IHDR" not in str(record.__dict__)
