"""The page's files as they are sent: policy, caching, size."""

import gzip
import re

import pytest

from service.api.page import INDEX, assets
from tests.service.conftest import Client


def test_the_root_is_the_page_under_a_policy_that_lets_nothing_else_in(client: Client) -> None:
    response = client.get("/")
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    policy = dict(rule.split(" ", 1) for rule in response.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert "unsafe" not in str(policy)
    assert response.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("name", sorted(assets()))
def test_each_file_has_its_type_and_is_not_sent_twice(client: Client, name: str) -> None:
    response = client.get(f"/page/{name}", headers={"accept-encoding": "identity"})
    types = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
    assert response.headers["content-type"].startswith(types[name.rpartition(".")[2]])
    assert "content-encoding" not in response.headers
    assert response.content == assets()[name].body
    again = client.get(f"/page/{name}", headers={"if-none-match": f'"other", W/{response.headers["etag"]}'})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == response.headers["etag"]


def test_it_is_compressed_for_those_who_can_read_that(client: Client) -> None:
    for accepted, coded in (("br, gzip;q=0.5", True), ("gzip;q=0", False), ("br", False)):
        response = client.get("/page/main.js", headers={"accept-encoding": accepted})
        assert (response.headers.get("content-encoding") == "gzip") == coded
        assert response.content == assets()["main.js"].body  # the client has decoded it
    assert response.headers["vary"] == "Accept-Encoding"


def test_nothing_but_the_page_is_served_from_its_folder(client: Client) -> None:
    for name in ("page.py", "..%2fapp.py", "nothing.js"):
        assert client.get(f"/page/{name}").status_code == 404


def test_the_files_stay_small() -> None:
    bodies = [asset.body for asset in assets().values()]
    assert sum(map(len, bodies)) <= 250_000
    assert sum(len(gzip.compress(body, 9)) for body in bodies) <= 60_000


def test_no_file_names_another_host_and_every_name_is_there() -> None:
    for name, asset in assets().items():
        text = asset.body.decode()
        hosts = set(re.findall(r"https?://[^\"'\s)]+", text))
        assert hosts <= {"http://www.w3.org/2000/svg"}, name
        used = re.findall(r"from \"\./([^\"]+)\"", text) + re.findall(r"\"/page/([^\"]+)\"", text)
        assert set(used) <= set(assets()), name
    assert INDEX in assets()
