"""Build the guard that the settings describe, and what keeps it fresh."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from service.security.addresses import TrustedProxies, is_loopback
from service.security.caller import SCOPES, Allowance
from service.security.guard import Credentials, Guard
from service.security.keeper import Keeper, Refreshed
from service.security.keys import KeyFileInvalid, KeyRing
from service.security.limits import Limits
from service.settings import InvalidSettings, Settings

if TYPE_CHECKING:
    from service.security.tokens import TokenIssuer


def open_guard(
    settings: Settings,
    refused: Callable[[str], None] = lambda reason: None,
    failed: Callable[[], None] = lambda: None,
) -> tuple[Guard, Keeper]:
    """Return the guard of a service and its keeper.

    Args:
        settings: the group Access, and the host.
        refused: told the name of each error that the guard raises.
        failed: told of each refresh of credentials that failed.

    Raises:
        InvalidSettings: the keys cannot be read, an address is none, or the issuer needs a package that is missing.
    """
    allowance = Allowance(settings.rate_limit, settings.rate_burst, settings.daily_quota)
    limits = Limits()
    credentials: list[Credentials] = []
    parts: list[Refreshed] = []
    try:
        if settings.api_keys is not None:
            ring = KeyRing(settings.api_keys, allowance)
            credentials.append(ring)
            parts.append(ring)
        if settings.oidc_issuer is not None:
            issuer = _issuer(settings, settings.oidc_issuer, allowance)
            credentials.append(issuer)
            parts.append(issuer)
        proxies = TrustedProxies(settings.trusted_proxies) if settings.trusted_proxies else None
    except (KeyFileInvalid, ValueError) as error:
        raise InvalidSettings(str(error)) from error
    guard = Guard(
        tuple(credentials),
        anonymous=anonymous_scopes(settings),
        allowance=allowance,
        limits=limits,
        proxies=proxies,
        pages=frozenset(settings.cors_origins),
        refused=refused,
    )
    return guard, Keeper(tuple(parts), limits, settings.usage_file, failed)


def anonymous_scopes(settings: Settings) -> frozenset[str]:
    """Return what callers without credentials may do."""
    if settings.anonymous_scopes != "auto":
        return frozenset(settings.anonymous_scopes)
    if settings.api_keys or settings.oidc_issuer:
        return frozenset()
    every = frozenset(SCOPES)
    return every if is_loopback(settings.host) else every - {"admin"}


def _issuer(settings: Settings, issuer: str, allowance: Allowance) -> "TokenIssuer":
    try:
        from service.security.jwks import JwksSource
        from service.security.tokens import TokenIssuer
    except ImportError as error:
        raise InvalidSettings("oidc_issuer needs the extra oidc: pip install 'deep-delta-serving[oidc]'") from error
    assert settings.oidc_audience is not None  # the settings refuse an issuer without it
    return TokenIssuer(
        JwksSource(issuer, settings.oidc_keys),
        issuer=issuer,
        audience=settings.oidc_audience,
        scope_claim=settings.oidc_scope_claim,
        scope_prefix=settings.oidc_scope_prefix,
        allowance=allowance,
    )
