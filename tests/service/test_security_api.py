"""The guard, the headers and cross-origin rules as a client of the application meets them."""

import asyncio
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.api.problems import MEDIA_TYPE
from service.api.routes import HIDDEN, ROUTES, Route
from service.app import create_app
from service.security.caller import SCOPES
from service.security.headers import SECURITY_HEADERS
from service.security.keys import KeyFile, new_key, write_keys
from service.settings import InvalidSettings, Settings
from tests.service.conftest import Client


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """Return a file with one key for each scope, and the keys by scope."""
    made = {scope: new_key(f"{scope}-only", [scope]) for scope in SCOPES}
    path = tmp_path / "keys.json"
    write_keys(path, KeyFile(keys=tuple(record for _, record in made.values())))
    return path, {scope: key for scope, (key, _) in made.items()}


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def call(client: Client, route: Route, **options: Any) -> Any:
    path = re.sub(r"\{[a-z_]+\}", "x", route.path)
    if path == "/debug/profile":
        path += "?seconds=0.01"
    return client.request(route.method, path, **options)


def test_every_path_needs_exactly_its_scope(serve: Callable[..., Client], keys: tuple[Path, dict[str, str]]) -> None:
    client = serve(api_keys=keys[0])
    for route in ROUTES:
        assert (call(client, route).status_code == 401) == (route.scope != "public"), route.path
        for scope, key in keys[1].items():
            status = call(client, route, headers=bearer(key)).status_code
            assert status != 401, route.path
            assert (status == 403) == (route.scope not in ("public", scope)), (route.path, scope)


def test_what_is_hidden_from_the_table_shows_nothing_of_the_models(
    serve: Callable[..., Client], keys: tuple[Path, dict[str, str]]
) -> None:
    client = serve(api_keys=keys[0])
    for path, _ in HIDDEN:
        response = client.get(path.replace("{name}", "swagger-ui.css").replace("{file}", "main.js"))
        assert response.status_code in (200, 307)
        assert "tiny" not in response.text


def test_a_refusal_is_a_problem_with_the_header_that_clients_look_for(
    serve: Callable[..., Client], keys: tuple[Path, dict[str, str]]
) -> None:
    client = serve(api_keys=keys[0])
    response = client.get("/v1/models")
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == 'Bearer realm="ddl-serve"'
    assert response.json()["type"] == "urn:ddl:problem:unauthenticated"
    response = client.get("/v1/models", headers=bearer(keys[1]["gates"]))
    assert response.status_code == 403
    assert response.json()["scope"] == "infer"
    text = client.get("/metrics", headers=bearer(keys[1]["metrics"])).text
    assert 'ddl_refusals_total{reason="Unauthenticated"} 1.0' in text
    assert 'ddl_refusals_total{reason="Forbidden"} 1.0' in text


def test_a_request_is_refused_before_its_body_is_read(
    serve: Callable[..., Client], keys: tuple[Path, dict[str, str]]
) -> None:
    client = serve(api_keys=keys[0], max_body_bytes=1024)
    response = client.post("/v2/models/tiny/infer", content=b"x" * 5000)
    assert response.status_code == 401


def test_rates_are_429_with_the_time_to_wait(serve: Callable[..., Client]) -> None:
    client = serve(rate_limit=0.01, rate_burst=2)
    assert [client.get("/v1/models").status_code for _ in range(3)] == [200, 200, 429]
    refused = client.get("/v1/models")
    assert 1 <= int(refused.headers["retry-after"]) <= 100
    assert refused.json()["type"] == "urn:ddl:problem:rate-limited"
    assert client.get("/v2/health/live").status_code == 200


def test_the_quota_of_a_key_is_its_own(serve: Callable[..., Client], tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    (small, one), (large, two) = new_key("small", ["infer"], daily=1), new_key("large", ["infer"])
    write_keys(path, KeyFile(keys=(one, two)))
    client = serve(api_keys=path, usage_file=tmp_path / "usage.json")
    assert [client.get("/v1/models", headers=bearer(small)).status_code for _ in range(2)] == [200, 429]
    response = client.get("/v1/models", headers=bearer(small))
    assert response.json()["type"] == "urn:ddl:problem:quota-exhausted"
    assert int(response.headers["retry-after"]) <= 86_400
    assert client.get("/v1/models", headers=bearer(large)).status_code == 200
    client.close()
    assert json.loads((tmp_path / "usage.json").read_text())["used"] == {f"key:{one.id}": 1}
    client.close = lambda: None  # type: ignore[method-assign]  # it is closed


def test_the_callers_name_is_logged_and_its_key_is_not(
    serve: Callable[..., Client], keys: tuple[Path, dict[str, str]], caplog: pytest.LogCaptureFixture
) -> None:
    client = serve(api_keys=keys[0])
    key = keys[1]["infer"]
    with caplog.at_level("DEBUG"):
        client.get("/v1/models", headers=bearer(key))
        client.get("/v1/models", headers=bearer(key + "x"))
    known, unknown = (r.__dict__["fields"] for r in caplog.records if r.name == "service.access")
    assert (known["caller"], unknown["caller"]) == ("infer-only", "anonymous")
    assert key not in str([record.__dict__ for record in caplog.records])


def test_a_trace_of_the_caller_is_in_the_line(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    trace = "0af7651916cd43dd8448eb211c80319c"
    with caplog.at_level("INFO", "service.access"):
        client.get("/v2", headers={"traceparent": f"00-{trace}-b7ad6b7169203331-01"})
    assert caplog.records[0].__dict__["fields"]["trace_id"] == trace


@pytest.mark.parametrize("path", ["/v2", "/nix", "/docs", "/metrics", "/v2/models/nix", "/v2/health/live"])
def test_every_answer_has_the_security_headers_once(client: Client, path: str) -> None:
    headers = client.get(path).headers
    for name, value in SECURITY_HEADERS:
        found = headers.get_list(name.decode())
        assert len(found) == 1
        if not (path == "/docs" and name == b"content-security-policy"):
            assert found[0] == value.decode()
    assert "strict-transport-security" not in headers
    assert "server" not in headers


def test_the_documentation_runs_only_its_own_scripts(client: Client) -> None:
    page = client.get("/docs")
    policy = dict(rule.split(" ", 1) for rule in page.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["frame-ancestors"] == "'none'"
    assert "unsafe" not in policy["script-src"]
    assert re.fullmatch(r"'self' 'sha256-[A-Za-z0-9+/=]{44}'", policy["script-src"])


def test_without_the_setting_no_page_may_read_answers(client: Client) -> None:
    headers = client.get("/v2", headers={"origin": "https://page.example"}).headers
    assert not [name for name in headers if name.startswith("access-control")]
    preflight = {"origin": "https://page.example", "access-control-request-method": "POST"}
    assert client.request("OPTIONS", "/v2/models/tiny/infer", headers=preflight).status_code == 405


def preflight_of(client: Client, headers: dict[str, str]) -> httpx.Response:
    """Ask as browsers do, beside the documented routes."""
    answer: httpx.Response = client.run(client._http.request("OPTIONS", "/v2/models/tiny/infer", headers=headers))
    return answer


def test_a_named_origin_may_call_and_no_other(serve: Callable[..., Client]) -> None:
    client = serve(cors_origins="https://page.example")
    given = {"origin": "https://page.example"}
    assert client.get("/v2", headers=given).headers["access-control-allow-origin"] == "https://page.example"
    asked = {**given, "access-control-request-method": "POST", "access-control-request-headers": "authorization"}
    preflight = preflight_of(client, asked)
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == "https://page.example"
    assert "access-control-allow-credentials" not in preflight.headers
    other = {**asked, "origin": "https://other.example"}
    for refused, reason in (
        (other, "origin"),
        ({**asked, "access-control-request-method": "DELETE"}, "method"),
        ({**asked, "access-control-request-headers": "x-evil"}, "headers"),
    ):
        answer = preflight_of(client, refused)
        assert answer.status_code == 403
        assert answer.headers["content-type"] == MEDIA_TYPE
        assert answer.json()["type"] == "urn:ddl:problem:forbidden"
        assert answer.json()["request_id"] == answer.headers["x-request-id"]
        assert f"because of its {reason}:" in answer.json()["detail"]
        for sent in ("other.example", "DELETE", "x-evil"):
            assert sent not in answer.text
            assert sent not in str(answer.headers)
    assert "access-control-allow-origin" not in client.get("/v2", headers={"origin": other["origin"]}).headers


def test_a_page_on_another_origin_cannot_steer_a_local_service(client: Client) -> None:
    response = client.get("/debug/threads", headers={"origin": "https://evil.example", "host": "localhost:8000"})
    assert response.status_code == 403
    assert client.get("/debug/threads", headers={"host": "localhost:8000"}).status_code == 200


def test_on_other_addresses_nobody_is_admin_without_a_key(serve: Callable[..., Client]) -> None:
    client = serve(host="0.0.0.0")
    local = {"host": "localhost"}
    assert client.get("/debug/versions", headers=local).status_code == 403
    assert client.get("/v1/models", headers=local).status_code == 200


def test_keys_that_cannot_be_read_stop_the_start(tmp_path: Path, repository: Path) -> None:
    with pytest.raises(InvalidSettings, match="cannot be read"):
        create_app(Settings(repository=repository, api_keys=tmp_path / "none.json"))
    with pytest.raises(InvalidSettings, match="does not appear to be an IPv4 or IPv6 network"):
        create_app(Settings(repository=repository, trusted_proxies="proxy.example"))


def test_debug_shows_what_runs_here(client: Client) -> None:
    local = {"host": "localhost"}
    profile = client.get("/debug/profile?seconds=0.05&per_second=100", headers=local)
    assert profile.headers["content-type"].startswith("text/plain")
    assert all(re.fullmatch(r".+ \d+", line) for line in profile.text.splitlines())
    assert "MainThread" in client.get("/debug/threads", headers=local).text
    versions = client.get("/debug/versions", headers=local).json()
    assert "onnxruntime" in {name.partition("-")[0] for name in versions["packages"]}
    assert client.get("/debug/profile?seconds=61", headers=local).status_code in (400, 422)


def test_debug_shows_settings_without_passwords(serve: Callable[..., Client]) -> None:
    client = serve(oidc_issuer="https://user:secret@issuer.example", oidc_audience="a", anonymous_scopes="admin")
    settings = client.get("/debug/settings", headers={"host": "localhost"}).json()["settings"]
    assert set(settings) == set(Settings.model_fields)
    assert settings["oidc_issuer"] == "https://issuer.example"
    assert "secret" not in str(settings)


def test_one_profile_at_a_time(client: Client) -> None:
    async def two() -> list[int]:
        local = {"host": "localhost"}
        both = [client.arequest("GET", "/debug/profile?seconds=0.2", headers=local) for _ in range(2)]
        return sorted([response.status_code for response in await asyncio.gather(*both)])

    assert client.run(two()) == [200, 503]
