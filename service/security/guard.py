"""The guard in front of every path: who is it, may they do this, and have they not asked too often?"""

from collections.abc import Callable
from typing import Protocol
from urllib.parse import urlsplit

from service.errors import Forbidden, Unauthenticated
from service.security.addresses import TrustedProxies, is_loopback
from service.security.caller import NOBODY, Allowance, Caller, Scope
from service.security.limits import Limits

__all__ = ["Caller", "Guard", "Headers", "Scope"]

Headers = Callable[[bytes], bytes | None]
"""Returns the value of the header of a lower-case name, or None."""

_BEARER = b"bearer "
_LONGEST_CREDENTIAL = 8192


class Credentials(Protocol):
    """Knows callers by what they hold: a file of keys, an issuer of tokens."""

    def find(self, secret: bytes) -> Caller | None:
        """Return the caller who holds `secret`; None if it is not one of these.

        Raises:
            Unauthenticated: it is one of these, but it is not valid; the message says why.
        """


class Guard:
    """Admits requests or refuses them, the same way for every protocol.

    Belongs to the event loop. `admit` neither waits nor reads files: what changes is put in place by others.
    """

    def __init__(
        self,
        credentials: tuple[Credentials, ...] = (),
        *,
        anonymous: frozenset[str] = frozenset(),
        allowance: Allowance = Allowance(),  # noqa: B008 - frozen
        limits: Limits | None = None,
        proxies: TrustedProxies | None = None,
        pages: frozenset[str] = frozenset(),
        refused: Callable[[str], None] = lambda reason: None,
    ) -> None:
        """Take what the settings say.

        Args:
            credentials: where callers are looked up, in this order; without any, credentials that are sent are ignored.
            anonymous: scopes of callers who send no credentials.
            allowance: how often each address may ask without credentials.
            limits: counters of rates and quotas, a fresh one by default.
            proxies: whose word about the client's address counts; nobody's by default.
            pages: origins of web pages that may use anonymous admin rights.
            refused: told the reason of every refusal, for the metrics.
        """
        self._credentials = credentials
        self._anonymous = anonymous
        self._allowance = allowance
        self._limits = limits or Limits()
        self._proxies = proxies
        self._pages = pages
        self._refused = refused
        self._unlimited = Caller("-", "anonymous", anonymous, anonymous=True)

    def admit(self, headers: Headers, scope: Scope, address: str) -> Caller:
        """Return who asks, and count the request against the caller's limits.

        Args:
            headers: looks a header of the request up by its lower-case name.
            scope: what the route asks for.
            address: the other end of the connection, without port.

        Raises:
            Unauthenticated: credentials are needed, or those given are not known or no longer valid.
            Forbidden: the caller is known, but lacks the scope.
            RateLimited: the caller asked more often than it may; `retry_after_seconds` is in the details.
        """
        if scope == "public":
            return NOBODY
        try:
            caller = self._identify(headers, address)
            if scope not in caller.scopes:
                raise self._lacking(caller, scope)
            if scope == "admin" and caller.anonymous and self._from_foreign_page(headers):
                raise Forbidden(
                    "a web page of another origin may not do this without a key; allow it by the setting cors_origins"
                )
            self._limits.take(caller.account, caller.allowance)
        except Exception as error:
            self._refused(type(error).__name__)
            raise
        return caller

    def client(self, headers: Headers, address: str) -> str:
        """Return the address of the client: that of the connection, or what a trusted proxy says it is."""
        return address if self._proxies is None else self._proxies.client(headers, address)

    def _identify(self, headers: Headers, address: str) -> Caller:
        given = headers(b"authorization") if self._credentials else None
        if given is None:
            if self._allowance == Allowance():
                return self._unlimited
            account = f"address:{self.client(headers, address)}"
            return Caller(account, "anonymous", self._anonymous, self._allowance, anonymous=True)
        if given[:7].lower() != _BEARER or len(given) > _LONGEST_CREDENTIAL:
            raise Unauthenticated("send 'Authorization: Bearer ...' with a key or token of this service")
        secret = given[7:].strip()
        for known in self._credentials:
            if (caller := known.find(secret)) is not None:
                return caller
        raise Unauthenticated("the key or token is not known here, or was revoked")

    def _lacking(self, caller: Caller, scope: Scope) -> Exception:
        if caller.anonymous and self._credentials:
            return Unauthenticated(f"this path needs the scope {scope!r}: send 'Authorization: Bearer ...'")
        held = ", ".join(sorted(caller.scopes)) or "none"
        return Forbidden(f"this path needs the scope {scope!r}; {caller.name} has: {held}", scope=scope)

    def _from_foreign_page(self, headers: Headers) -> bool:
        """Say whether a browser sends this for a page that is not ours, also one whose name was bent to our address."""
        origin = (headers(b"origin") or b"").decode("latin-1")
        if origin in self._pages:
            return False
        if (headers(b"sec-fetch-site") or b"none") not in (b"none", b"same-origin"):
            return True
        if origin and not is_loopback(_host(origin)):
            return True
        host = (headers(b"host") or b"").decode("latin-1")
        return bool(host) and not is_loopback(_host("//" + host))


def _host(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:  # half a bracket, for instance
        return ""
