"""JSON web tokens of an OpenID Connect issuer (extra `oidc`): signature, issuer, audience, times, then scopes."""

import hashlib
import logging
from collections import OrderedDict
from collections.abc import Callable
from time import monotonic, time
from typing import Any

import jwt

from service.errors import Unauthenticated
from service.security.caller import SCOPES, Allowance, Caller
from service.security.jwks import JwksSource, JwksUnavailable

_logger = logging.getLogger(__name__)

# No secret is shared with the issuer, so a token signed by one (HS256), or by nobody, is forged.
ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")

_LEEWAY_SECONDS = 30
_REFRESH_SECONDS = 300.0
_LEAST_SECONDS_BETWEEN = 30.0
_MOST_REMEMBERED = 4096


class TokenIssuer:
    """Takes the tokens of one issuer; `refresh` fetches its keys, `find` never waits for them."""

    def __init__(
        self,
        source: JwksSource,
        *,
        issuer: str,
        audience: str,
        scope_claim: str = "scope",
        scope_prefix: str = "",
        allowance: Allowance = Allowance(),  # noqa: B008 - frozen
        clock: Callable[[], float] = monotonic,
        wall_clock: Callable[[], float] = time,
    ) -> None:
        """Know no keys yet; `refresh` fetches them."""
        self._source = source
        self._issuer = issuer
        self._audience = audience
        self._claim = scope_claim
        self._prefix = scope_prefix
        self._allowance = allowance
        self._clock = clock
        self._wall_clock = wall_clock
        self._keys: dict[str | None, jwt.PyJWK] = {}
        self._fetched: float | None = None
        self._wanted = False
        self._trouble: JwksUnavailable | None = None
        self._remembered: OrderedDict[bytes, tuple[Caller, float]] = OrderedDict()

    def find(self, secret: bytes) -> Caller | None:
        """Return the subject of a token; None if it is no JSON web token at all.

        Raises:
            Unauthenticated: the token is not valid; the message says why, without repeating it.
        """
        if secret.count(b".") != 2:
            return None
        digest = hashlib.sha256(secret).digest()
        if (known := self._remembered.get(digest)) is not None:
            caller, expires = known
            if self._wall_clock() < expires:
                return caller
            del self._remembered[digest]
        claims = self._verify(secret)
        caller = Caller(f"sub:{claims['sub']}", _name(claims["sub"]), self._scopes(claims), self._allowance)
        self._remembered[digest] = (caller, float(claims["exp"]) + _LEEWAY_SECONDS)
        if len(self._remembered) > _MOST_REMEMBERED:
            self._remembered.popitem(last=False)
        return caller

    def refresh(self) -> None:
        """Fetch the issuer's keys if they are old, or if a token named one that is not among them.

        Raises:
            JwksUnavailable: they cannot be had; the old keys stay.
        """
        now = self._clock()
        age = None if self._fetched is None else now - self._fetched
        if age is not None and age < (_LEAST_SECONDS_BETWEEN if self._wanted or not self._keys else _REFRESH_SECONDS):
            if self._trouble is not None:
                raise self._trouble
            return
        self._fetched, self._wanted = now, False
        try:
            keys = {key.key_id: key for key in self._source.fetch()}
        except JwksUnavailable as error:
            self._trouble = error
            raise
        self._trouble = None
        if set(keys) != set(self._keys):
            _logger.info("issuer keys", extra={"fields": {"issuer": self._issuer, "keys": len(keys)}})
        # A key that was withdrawn must not live on in the tokens that it signed.
        self._keys, self._remembered = keys, OrderedDict()

    def _verify(self, secret: bytes) -> dict[str, Any]:
        try:
            header = jwt.get_unverified_header(secret)
        except jwt.PyJWTError as error:
            raise Unauthenticated("the token is not a JSON web token") from error
        key = self._keys.get(header.get("kid")) or (next(iter(self._keys.values())) if len(self._keys) == 1 else None)
        if header.get("alg") not in ALGORITHMS:
            raise Unauthenticated("the token is signed by an algorithm that is not taken here")
        if key is None or (header.get("kid") is not None and header["kid"] not in self._keys):
            self._wanted = True
            raise Unauthenticated("the token is signed by a key that the issuer does not publish, as far as known here")
        try:
            claims: dict[str, Any] = jwt.decode(
                secret,
                key,
                algorithms=[key.algorithm_name],
                audience=self._audience,
                issuer=self._issuer,
                leeway=_LEEWAY_SECONDS,
                options={"require": ["exp", "iss", "aud", "sub"]},
            )
        except jwt.PyJWTError as error:
            raise Unauthenticated(f"the token is not valid: {_reason(error)}") from error
        return claims

    def _scopes(self, claims: dict[str, Any]) -> frozenset[str]:
        """Read the scopes as OAuth writes them (words in one string) or as a list."""
        value = claims.get(self._claim, "")
        words = value.split() if isinstance(value, str) else value if isinstance(value, list) else []
        wanted = {self._prefix + scope: scope for scope in SCOPES}
        return frozenset(wanted[word] for word in words if isinstance(word, str) and word in wanted)


def _reason(error: jwt.PyJWTError) -> str:
    """Say which check failed, in words that hold nothing of the token."""
    reasons: dict[type[jwt.PyJWTError], str] = {
        jwt.ExpiredSignatureError: "it has expired",
        jwt.ImmatureSignatureError: "its time has not come",
        jwt.InvalidAudienceError: "it is for another audience",
        jwt.InvalidIssuerError: "it is from another issuer",
        jwt.MissingRequiredClaimError: "a claim of exp, iss, aud, sub is missing",
        jwt.InvalidSignatureError: "its signature does not fit",
    }
    return reasons.get(type(error), "it is malformed")


def _name(subject: object) -> str:
    """Make a subject fit for a line of the log."""
    return "".join(letter if letter.isprintable() else "?" for letter in str(subject)[:64])


__all__ = ["ALGORITHMS", "JwksUnavailable", "TokenIssuer"]
