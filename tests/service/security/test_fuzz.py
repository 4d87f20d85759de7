"""Whatever stands in the headers: a caller, or a refusal; nothing else comes out of the guard."""

import base64
import json

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import given
from hypothesis import strategies as st
from jwt.algorithms import RSAAlgorithm

from service.errors import Forbidden, Unauthenticated
from service.security.addresses import TrustedProxies
from service.security.caller import SCOPES, Allowance
from service.security.guard import Guard
from service.security.jwks import JwksSource
from service.security.keys import KeyFile, KeyRing, new_key, write_keys
from service.security.tokens import TokenIssuer
from service.telemetry.ids import request_id, trace_parent

NAMES = [b"authorization", b"origin", b"host", b"sec-fetch-site", b"x-forwarded-for"]


def encoded(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


JSON = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["alg", "kid", "exp", "crit", "b64"]), inner)
    ),
    max_leaves=8,
)
PARTS = (
    st.binary(max_size=40) | st.binary(max_size=40).map(encoded) | JSON.map(lambda v: encoded(json.dumps(v).encode()))
)
SECRETS = (
    st.binary(max_size=60)
    | st.lists(PARTS, min_size=3, max_size=3).map(b".".join)
    | st.binary(max_size=30).map(lambda rest: b"ddl_" + rest)
)
VALUES = (
    st.binary(max_size=60)
    | SECRETS.map(lambda secret: b"Bearer " + secret)
    | st.sampled_from([b"http://[", b"[", b"[::1", b"http://a:b:c", b"//", b"::1", b"localhost:99999999", b"1.1.1.1,,"])
)


@pytest.fixture(scope="module")
def guards(tmp_path_factory: pytest.TempPathFactory) -> list[Guard]:
    folder = tmp_path_factory.mktemp("guards")
    write_keys(folder / "keys.json", KeyFile(keys=(new_key("anna", ["infer"])[1],)))
    public = RSAAlgorithm.to_jwk(rsa.generate_private_key(65537, 2048).public_key(), as_dict=True)
    (folder / "jwks.json").write_text(json.dumps({"keys": [{**public, "kid": "one"}]}))
    issuer = TokenIssuer(JwksSource("https://i.example", str(folder / "jwks.json")), issuer="i", audience="a")
    issuer.refresh()
    ring = KeyRing(folder / "keys.json", Allowance())
    everything = frozenset(SCOPES)
    return [
        Guard(anonymous=everything, proxies=TrustedProxies(["127.0.0.0/8"]), allowance=Allowance(rate=1e9)),
        Guard((ring, issuer), anonymous=everything),
        Guard((issuer,)),
    ]


@given(headers=st.dictionaries(st.sampled_from(NAMES), VALUES), scope=st.sampled_from(["public", *SCOPES]))
def test_the_guard_knows_only_callers_and_refusals(
    guards: list[Guard], headers: dict[bytes, bytes], scope: str
) -> None:
    for guard in guards:
        assert isinstance(guard.client(headers.get, "127.0.0.1"), str)
        try:
            caller = guard.admit(headers.get, scope, "127.0.0.1")  # type: ignore[arg-type]
        except (Unauthenticated, Forbidden):
            continue
        assert caller.anonymous


@given(st.binary(max_size=100))
def test_ids_are_fit_for_headers_whatever_came(given_bytes: bytes) -> None:
    assert request_id(given_bytes).isascii()
    assert request_id(given_bytes).isprintable()
    parent = trace_parent(given_bytes)
    assert parent is None or len(parent.trace_id) == 32
