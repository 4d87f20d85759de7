from collections.abc import Callable

import pytest

from service.errors import Forbidden, QuotaExhausted, RateLimited, Unauthenticated
from service.security.addresses import TrustedProxies
from service.security.caller import Allowance, Caller, Scope
from service.security.guard import Guard
from service.security.limits import Limits

ALL = frozenset({"infer", "gates", "metrics", "admin"})
PEER = "192.0.2.1"


def headers(**given: str) -> Callable[[bytes], bytes | None]:
    raw = {name.replace("_", "-").encode(): value.encode() for name, value in given.items()}
    return raw.get


class Known:
    """Knows one secret; another one it knows to be no longer valid."""

    def __init__(self, caller: Caller) -> None:
        self.caller = caller

    def find(self, secret: bytes) -> Caller | None:
        if secret == b"late":
            raise Unauthenticated("the key expired")
        return self.caller if secret == b"right" else None


ANNA = Caller("key:1", "anna", frozenset({"infer"}))


@pytest.fixture
def guard() -> Guard:
    return Guard((Known(ANNA),))


def test_public_paths_ask_nobody(guard: Guard) -> None:
    caller = guard.admit(headers(authorization="Bearer wrong"), "public", PEER)
    assert caller.anonymous
    assert caller.scopes == frozenset()


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_a_known_secret_is_its_caller(guard: Guard, scheme: str) -> None:
    assert guard.admit(headers(authorization=f"{scheme} right"), "infer", PEER) is ANNA


@pytest.mark.parametrize(
    "authorization",
    [
        "",
        "right",
        "Bearer",
        "Bearer ",
        "Bearer wrong",
        "Basic right",
        "Bearer right right",
        "Bearer late",
        "Bearer " + "x" * 10_000,
    ],
)
def test_anything_else_is_refused_without_being_repeated(guard: Guard, authorization: str) -> None:
    with pytest.raises(Unauthenticated) as caught:
        guard.admit(headers(authorization=authorization), "infer", PEER)
    assert "wrong" not in str(caught.value)
    assert "xxx" not in str(caught.value)


def test_no_credentials_are_401_where_anonymous_callers_lack_the_scope(guard: Guard) -> None:
    with pytest.raises(Unauthenticated, match="needs the scope 'infer'"):
        guard.admit(headers(), "infer", PEER)


@pytest.mark.parametrize("scope", ["gates", "metrics", "admin"])
def test_a_scope_that_is_lacking_is_403_and_named(guard: Guard, scope: Scope) -> None:
    with pytest.raises(Forbidden, match=rf"'{scope}'; anna has: infer"):
        guard.admit(headers(authorization="Bearer right"), scope, PEER)


def test_no_scope_contains_another() -> None:
    guard = Guard(anonymous=frozenset({"admin"}))
    with pytest.raises(Forbidden):
        guard.admit(headers(), "infer", PEER)


def test_credentials_are_ignored_where_none_are_configured() -> None:
    guard = Guard(anonymous=ALL)
    assert guard.admit(headers(authorization="Bearer whatever"), "infer", PEER).anonymous


def test_wrong_credentials_do_not_fall_back_to_anonymous() -> None:
    guard = Guard((Known(ANNA),), anonymous=ALL)
    assert guard.admit(headers(), "gates", PEER).anonymous
    with pytest.raises(Unauthenticated):
        guard.admit(headers(authorization="Bearer wrong"), "gates", PEER)


def test_every_refusal_is_counted_by_its_reason() -> None:
    reasons: list[str] = []
    guard = Guard((Known(ANNA),), refused=reasons.append)
    for scope, authorization in (("infer", "Bearer wrong"), ("admin", "Bearer right"), ("infer", "Bearer right")):
        try:
            guard.admit(headers(authorization=authorization), scope, PEER)  # type: ignore[arg-type]
        except (Unauthenticated, Forbidden):
            continue
    assert reasons == ["Unauthenticated", "Forbidden"]


LOCAL = "127.0.0.1"


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"host": "localhost:8000"},
        {"host": "127.0.0.1:8000"},
        {"host": "[::1]:8000", "origin": "http://[::1]:8000"},
        {"host": "localhost:8000", "origin": "http://localhost:8000", "sec_fetch_site": "same-origin"},
        {"host": "localhost:8000", "sec_fetch_site": "none"},
        {"host": "localhost:8000", "origin": "https://tool.example", "sec_fetch_site": "cross-site"},
    ],
)
def test_anonymous_admins_may_be_tools_our_own_page_and_named_pages(given: dict[str, str]) -> None:
    guard = Guard(anonymous=ALL, pages=frozenset({"https://tool.example"}))
    assert guard.admit(headers(**given), "admin", LOCAL).anonymous


@pytest.mark.parametrize(
    "given",
    [
        {"host": "localhost:8000", "origin": "https://evil.example"},
        {"host": "localhost:8000", "origin": "null"},
        {"host": "localhost:8000", "sec_fetch_site": "cross-site"},
        {"host": "localhost:8000", "sec_fetch_site": "same-site"},
        {"host": "evil.example:8000"},  # a name that was bent to this address
        {"host": "evil.example:8000", "origin": "http://evil.example:8000", "sec_fetch_site": "same-origin"},
        {"host": "127.0.0.1.evil.example"},
    ],
)
def test_a_foreign_web_page_is_no_admin_without_a_key(given: dict[str, str]) -> None:
    guard = Guard(anonymous=ALL)
    with pytest.raises(Forbidden, match="web page"):
        guard.admit(headers(**given), "admin", LOCAL)
    assert guard.admit(headers(**given), "infer", LOCAL).anonymous


def test_a_key_makes_an_admin_of_any_page() -> None:
    root = Caller("key:2", "root", ALL)
    guard = Guard((Known(root),))
    given = headers(authorization="Bearer right", origin="https://any.example", host="any.example")
    assert guard.admit(given, "admin", PEER) is root


def test_a_key_named_anonymous_is_not() -> None:
    named = Caller("key:3", "anonymous", frozenset({"infer"}))
    guard = Guard((Known(named),))
    with pytest.raises(Forbidden):
        guard.admit(headers(authorization="Bearer right"), "admin", PEER)


def test_limits_are_the_callers_own() -> None:
    fast = Caller("key:4", "fast", ALL, Allowance(rate=1.0))
    guard = Guard((Known(fast),), anonymous=ALL, limits=Limits(clock=lambda: 0.0))
    guard.admit(headers(authorization="Bearer right"), "infer", PEER)
    with pytest.raises(RateLimited) as caught:
        guard.admit(headers(authorization="Bearer right"), "infer", PEER)
    assert caught.value.details == {"retry_after_seconds": 1}
    for _ in range(5):
        guard.admit(headers(), "infer", PEER)


def test_anonymous_callers_are_limited_by_address() -> None:
    guard = Guard(anonymous=ALL, allowance=Allowance(daily=1), limits=Limits(wall_clock=lambda: 0.0))
    guard.admit(headers(), "infer", "192.0.2.1")
    guard.admit(headers(), "infer", "192.0.2.2")
    with pytest.raises(QuotaExhausted):
        guard.admit(headers(), "infer", "192.0.2.1")


def test_a_refused_request_costs_nothing() -> None:
    guard = Guard(anonymous=frozenset({"infer"}), allowance=Allowance(daily=1), limits=Limits(wall_clock=lambda: 0.0))
    for _ in range(3):
        with pytest.raises(Forbidden):
            guard.admit(headers(), "gates", PEER)
    guard.admit(headers(), "infer", PEER)


def test_behind_a_trusted_proxy_the_clients_address_counts() -> None:
    guard = Guard(
        anonymous=ALL,
        allowance=Allowance(daily=1),
        limits=Limits(wall_clock=lambda: 0.0),
        proxies=TrustedProxies(["10.0.0.0/8"]),
    )
    guard.admit(headers(x_forwarded_for="192.0.2.1"), "infer", "10.0.0.1")
    guard.admit(headers(x_forwarded_for="192.0.2.2"), "infer", "10.0.0.1")
    with pytest.raises(QuotaExhausted):
        guard.admit(headers(x_forwarded_for="9.9.9.9, 192.0.2.1"), "infer", "10.0.0.1")
    assert guard.client(headers(x_forwarded_for="192.0.2.7"), "10.0.0.1") == "192.0.2.7"


def test_nobody_else_is_believed_about_addresses() -> None:
    assert Guard().client(headers(x_forwarded_for="1.1.1.1"), PEER) == PEER


@pytest.mark.parametrize(
    ("peer", "chain", "client"),
    [
        ("10.0.0.1", "192.0.2.1", "192.0.2.1"),
        ("10.0.0.1", "1.1.1.1, 192.0.2.1, 10.0.0.2", "192.0.2.1"),
        ("10.0.0.1", "10.0.0.3, 10.0.0.2", "10.0.0.3"),
        ("10.0.0.1", "", "10.0.0.1"),
        ("10.0.0.1", "192.0.2.1, unknown", "10.0.0.1"),
        ("10.0.0.1", "2001:db8::1", "2001:db8::1"),
        ("192.0.2.9", "1.1.1.1", "192.0.2.9"),
        ("", "1.1.1.1", ""),
    ],
)
def test_the_nearest_address_that_is_no_proxy_is_the_client(peer: str, chain: str, client: str) -> None:
    assert TrustedProxies(["10.0.0.0/8"]).client(headers(x_forwarded_for=chain), peer) == client
