"""Who asks: what a key, a token or nobody's name allows."""

from dataclasses import dataclass
from typing import Literal, get_args

Scope = Literal["public", "infer", "gates", "metrics", "admin"]
"""What a route asks of its caller; `public` asks nothing."""

SCOPES: tuple[str, ...] = tuple(scope for scope in get_args(Scope) if scope != "public")
"""The scopes that a key or a token can have; none of them contains another."""


@dataclass(frozen=True, slots=True)
class Allowance:
    """How often a caller may ask; 0 means as often as it likes.

    `rate` is requests per second over time, `burst` how many may come at once, `daily` how many per day (UTC).
    """

    rate: float = 0.0
    burst: int = 0
    daily: int = 0


@dataclass(frozen=True, slots=True)
class Caller:
    """One who asks, after the guard has looked.

    `account` is what limits are counted for: a key's id, a token's subject, or an address. `name` is for logs, where
    nothing secret may stand; `anonymous` says that no credentials were shown.
    """

    account: str
    name: str
    scopes: frozenset[str]
    allowance: Allowance = Allowance()
    anonymous: bool = False


NOBODY = Caller("-", "anonymous", frozenset(), anonymous=True)
"""The caller of a public path, who was not asked for a name."""
