"""Addresses: which ones are this machine, and what a proxy in front says about its client."""

from collections.abc import Callable, Sequence
from ipaddress import ip_address, ip_network

_FORWARDED = b"x-forwarded-for"


def is_loopback(host: str) -> bool:
    """Say whether a host name or address can only be reached from this machine."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


class TrustedProxies:
    """Believes `X-Forwarded-For` from these addresses and networks, and from nobody else."""

    def __init__(self, networks: Sequence[str]) -> None:
        """Take addresses (`10.0.0.7`) and networks (`10.0.0.0/8`).

        Raises:
            ValueError: one of them is neither.
        """
        self._networks = tuple(ip_network(network, strict=False) for network in networks)

    def client(self, headers: Callable[[bytes], bytes | None], address: str) -> str:
        """Return the nearest address of the chain that is no trusted proxy; what stands before it may be invented."""
        if not self._trusted(address):
            return address
        chain = (headers(_FORWARDED) or b"").decode("latin-1").split(",")
        for hop in reversed(chain):
            hop = hop.strip()
            try:
                ip_address(hop)
            except ValueError:
                return address
            address = hop
            if not self._trusted(hop):
                return hop
        return address

    def _trusted(self, address: str) -> bool:
        try:
            parsed = ip_address(address)
        except ValueError:
            return False
        return any(parsed in network for network in self._networks)
