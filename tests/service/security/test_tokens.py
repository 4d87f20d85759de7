import base64
import hmac
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from service.errors import Unauthenticated
from service.security.caller import Allowance
from service.security.jwks import JwksSource, JwksUnavailable
from service.security.tokens import TokenIssuer

ISSUER = "https://issuer.example"
NOW = 1_800_000_000.0


@pytest.fixture(scope="module")
def rsa_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


@pytest.fixture(scope="module")
def other_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def public(key: Any, identity: str, **more: str) -> dict[str, Any]:
    if isinstance(key, rsa.RSAPrivateKey):
        jwk = jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
    elif isinstance(key, ed25519.Ed25519PrivateKey):
        jwk = jwt.algorithms.OKPAlgorithm.to_jwk(key.public_key(), as_dict=True)
    else:
        jwk = jwt.algorithms.ECAlgorithm.to_jwk(key.public_key(), as_dict=True)
    return {**jwk, "kid": identity, **more}


class World:
    """An issuer whose keys lie in a file, and the time."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "jwks.json"
        self.now = NOW
        self.monotonic = 0.0

    def publish(self, *keys: dict[str, Any]) -> None:
        self.path.write_text(json.dumps({"keys": list(keys)}))

    def issuer(self, **options: Any) -> TokenIssuer:
        made = TokenIssuer(
            JwksSource(ISSUER, str(self.path)),
            issuer=ISSUER,
            audience="ddl",
            clock=lambda: self.monotonic,
            wall_clock=lambda: self.now,
            **options,
        )
        made.refresh()
        return made


@pytest.fixture
def world(tmp_path: Path, rsa_key: rsa.RSAPrivateKey, monkeypatch: pytest.MonkeyPatch) -> World:
    made = World(tmp_path)
    made.publish(public(rsa_key, "one"))
    return made


def token(key: Any, algorithm: str = "RS256", kid: str | None = "one", **claims: Any) -> bytes:
    body = {"iss": ISSUER, "aud": "ddl", "sub": "anna", "exp": 4_000_000_000, "scope": "infer gates", **claims}
    headers = {"kid": kid} if kid else {}
    return jwt.encode({k: v for k, v in body.items() if v is not None}, key, algorithm, headers=headers).encode()


def test_a_token_is_its_subject_with_its_scopes(world: World, rsa_key: Any) -> None:
    caller = world.issuer(allowance=Allowance(rate=3.0)).find(token(rsa_key))
    assert caller is not None
    assert (caller.account, caller.name, caller.anonymous) == ("sub:anna", "anna", False)
    assert caller.scopes == {"infer", "gates"}
    assert caller.allowance == Allowance(rate=3.0)


@pytest.mark.parametrize(
    ("options", "claims", "scopes"),
    [
        ({}, {"scope": "openid infer everything"}, {"infer"}),
        ({}, {"scope": None}, set()),
        ({}, {"scope": ["infer", 3, "admin"]}, {"infer", "admin"}),
        ({}, {"scope": {"infer": True}}, set()),
        ({"scope_claim": "roles"}, {"roles": ["metrics"]}, {"metrics"}),
        ({"scope_prefix": "ddl:"}, {"scope": "infer ddl:gates"}, {"gates"}),
    ],
)
def test_scopes_are_read_from_the_configured_claim(
    world: World, rsa_key: Any, options: dict[str, str], claims: dict[str, Any], scopes: set[str]
) -> None:
    caller = world.issuer(**options).find(token(rsa_key, **claims))
    assert caller is not None
    assert caller.scopes == scopes


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"exp": 1_000_000_000}, "it has expired"),
        ({"exp": None}, "a claim of"),
        ({"sub": None}, "a claim of"),
        ({"aud": None}, "a claim of"),
        ({"aud": "other"}, "another audience"),
        ({"iss": "https://evil.example"}, "another issuer"),
        ({"nbf": 3_999_999_999}, "its time has not come"),
        ({"exp": "soon"}, "malformed"),
    ],
)
def test_claims_that_do_not_hold_are_refused(world: World, rsa_key: Any, claims: dict[str, Any], reason: str) -> None:
    with pytest.raises(Unauthenticated, match=reason):
        world.issuer().find(token(rsa_key, **claims))


def _none(key: Any) -> bytes:
    return token(None, "none")


def _confused(key: Any) -> bytes:
    """Sign by HMAC, with the public key as the secret."""
    head, body = ({"alg": "HS256", "kid": "one", "typ": "JWT"}, {"iss": ISSUER, "aud": "ddl", "sub": "x", "exp": 4e9})
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in (head, body)]
    secret = json.dumps(public(key, "one")).encode()
    signature = base64.urlsafe_b64encode(hmac.digest(secret, b".".join(parts), "sha256")).rstrip(b"=")
    return b".".join([*parts, signature])


def _foreign(key: Any) -> bytes:
    return token(rsa.generate_private_key(65537, 2048))


def _changed(key: Any) -> bytes:
    head, _, signature = token(key).split(b".")
    return b".".join([head, token(key, sub="root").split(b".")[1], signature])


def _other_algorithm(key: Any) -> bytes:
    return token(ec.generate_private_key(ec.SECP256R1()), "ES256")


def _unknown_kid(key: Any) -> bytes:
    return token(key, kid="two")


@pytest.mark.parametrize("forge", [_none, _confused, _foreign, _changed, _other_algorithm, _unknown_kid])
def test_forged_tokens_are_refused(world: World, rsa_key: Any, forge: Callable[[Any], bytes]) -> None:
    forged = forge(rsa_key)
    with pytest.raises(Unauthenticated) as caught:
        world.issuer().find(forged)
    assert forged.decode() not in str(caught.value)


@pytest.mark.parametrize("secret", [b"", b"x", b"ddl_ab_cd", b"a.b", b"a.b.c.d"])
def test_what_is_no_token_is_left_to_others(world: World, secret: bytes) -> None:
    assert world.issuer().find(secret) is None


@pytest.mark.parametrize("secret", [b"a.b.c", b"..", b"\xff.\xff.\xff", b"e30.e30.e30"])
def test_rubbish_with_two_dots_is_refused(world: World, secret: bytes) -> None:
    with pytest.raises(Unauthenticated):
        world.issuer().find(secret)


def test_a_token_is_verified_once_until_it_expires(world: World, rsa_key: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    issuer = world.issuer()
    secret = token(rsa_key)
    first = issuer.find(secret)
    with monkeypatch.context() as patched:
        patched.setattr(jwt, "decode", lambda *_, **__: pytest.fail("verified again"))
        assert issuer.find(secret) is first
    world.now = 4_000_000_100.0
    monkeypatch.setattr(issuer, "_verify", lambda secret: (_ for _ in ()).throw(Unauthenticated("expired")))
    with pytest.raises(Unauthenticated):
        issuer.find(secret)


def test_other_kinds_of_keys_are_taken(world: World, other_key: Any) -> None:
    edwards = ed25519.Ed25519PrivateKey.generate()
    world.publish(public(other_key, "ec"), public(edwards, "ed"))
    issuer = world.issuer()
    assert issuer.find(token(other_key, "ES256", "ec")) is not None
    assert issuer.find(token(edwards, "EdDSA", "ed")) is not None


def test_new_keys_are_fetched_when_a_token_names_one_and_not_all_the_time(
    world: World, rsa_key: Any, other_key: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    issuer = world.issuer()
    world.publish(public(other_key, "two"))
    new = token(other_key, "ES256", "two")
    with pytest.raises(Unauthenticated, match="does not publish"):
        issuer.find(new)
    world.monotonic = 29.0
    issuer.refresh()
    with pytest.raises(Unauthenticated):
        issuer.find(new)
    world.monotonic = 31.0
    issuer.refresh()
    assert issuer.find(new) is not None


def test_a_key_that_was_withdrawn_ends_its_tokens(world: World, rsa_key: Any, other_key: Any) -> None:
    issuer = world.issuer()
    secret = token(rsa_key)
    assert issuer.find(secret) is not None
    world.publish(public(other_key, "two"))
    world.monotonic = 301.0
    issuer.refresh()
    with pytest.raises(Unauthenticated):
        issuer.find(secret)


def test_keys_that_cannot_be_fetched_leave_the_old_ones_and_are_said_again(world: World, rsa_key: Any) -> None:
    issuer = world.issuer()
    world.path.write_text("{")
    world.monotonic = 301.0
    with pytest.raises(JwksUnavailable, match="not JSON"):
        issuer.refresh()
    with pytest.raises(JwksUnavailable):  # not tried again yet, but still a trouble
        issuer.refresh()
    assert issuer.find(token(rsa_key)) is not None
    world.publish(public(rsa_key, "one"))
    world.monotonic = 700.0
    issuer.refresh()
    issuer.refresh()


@pytest.mark.parametrize(
    "document",
    [
        "[]",
        "{}",
        '{"keys": {}}',
        '{"keys": []}',
        '{"keys": [{"kty": "oct", "k": "AAAA", "kid": "one"}]}',
        '{"keys": [{}]}',
    ],
)
def test_a_document_without_public_keys_is_refused(tmp_path: Path, document: str) -> None:
    path = tmp_path / "jwks.json"
    path.write_text(document)
    with pytest.raises(JwksUnavailable):
        JwksSource(ISSUER, str(path)).fetch()


def test_keys_for_encryption_do_not_sign(tmp_path: Path, rsa_key: Any) -> None:
    path = tmp_path / "jwks.json"
    path.write_text(json.dumps({"keys": [public(rsa_key, "one", use="enc"), public(rsa_key, "two", use="sig")]}))
    assert [key.key_id for key in JwksSource(ISSUER, str(path)).fetch()] == ["two"]


@pytest.mark.parametrize(
    ("issuer", "location"),
    [("http://issuer.example", None), (ISSUER, "http://issuer.example/jwks"), (ISSUER, "ftp://x/y"), ("me", None)],
)
def test_keys_come_over_tls_only(issuer: str, location: str | None) -> None:
    with pytest.raises(ValueError, match=r"https only|set oidc_keys"):
        JwksSource(issuer, location)


class Issuer(HTTPServer):
    """A small issuer on this machine."""

    answers: dict[str, tuple[int, dict[str, str], bytes]]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Issuer

    def do_GET(self) -> None:
        status, headers, body = self.server.answers.get(self.path, (404, {}, b""))
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def web() -> Iterator[Issuer]:
    server = Issuer(("127.0.0.1", 0), Handler)
    server.answers = {}
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def discovery(web: Issuer, **changed: str) -> tuple[int, dict[str, str], bytes]:
    return 200, {}, json.dumps({"issuer": web.url, "jwks_uri": web.url + "/keys", **changed}).encode()


def test_keys_are_found_by_discovery(web: Issuer, rsa_key: Any) -> None:
    web.answers["/.well-known/openid-configuration"] = discovery(web)
    web.answers["/keys"] = (200, {}, json.dumps({"keys": [public(rsa_key, "one")]}).encode())
    assert [key.key_id for key in JwksSource(web.url, None).fetch()] == ["one"]


def test_discovery_must_name_the_issuer_and_a_safe_place(web: Issuer) -> None:
    for changed in ({"issuer": "https://evil.example"}, {"jwks_uri": "http://evil.example/keys"}):
        web.answers["/.well-known/openid-configuration"] = discovery(web, **changed)
        with pytest.raises(JwksUnavailable):
            JwksSource(web.url, None).fetch()


@pytest.mark.parametrize(
    "answer", [(302, {"Location": "/keys"}, b""), (500, {}, b""), (200, {}, b"{"), (200, {}, b" " * 600_000)]
)
def test_odd_answers_are_refused(web: Issuer, answer: tuple[int, dict[str, str], bytes], rsa_key: Any) -> None:
    web.answers["/jwks"] = answer
    web.answers["/keys"] = (200, {}, json.dumps({"keys": [public(rsa_key, "one")]}).encode())
    with pytest.raises(JwksUnavailable):
        JwksSource(ISSUER, web.url + "/jwks").fetch()
