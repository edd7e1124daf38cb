"""Which client a connection belongs to, and the limits on connections."""

from __future__ import annotations

from collections import Counter
from ipaddress import IPv6Address, ip_address

from vidproc.errors import ErrorCode, ServiceError


def peer_key(address: object) -> str:
    """Return what one client's connections have in common: an IPv4 address or an IPv6 /64.

    `address` is what a transport's ``getPeer`` returns; with a ``haproxy:`` endpoint that is the
    proxied address.
    """
    host = getattr(address, "host", None)
    if host is None:
        return "local"  # a UNIX socket
    try:
        ip = ip_address(host.partition("%")[0])
    except ValueError:
        return str(host)
    if isinstance(ip, IPv6Address):
        if ip.ipv4_mapped is not None:
            return str(ip.ipv4_mapped)
        network = int(ip) >> 64 << 64
        return f"{IPv6Address(network)}/64"
    return str(ip)


class Peers:
    """The admitted connections, by client."""

    def __init__(self, max_connections: int, max_connections_per_ip: int) -> None:
        self._max_connections = max_connections
        self._max_connections_per_ip = max_connections_per_ip
        self._per_peer: Counter[str] = Counter()

    def __len__(self) -> int:
        """Return the number of connected clients."""
        return len(self._per_peer)

    def full(self, connections: int) -> bool:
        """Return whether the limit does not allow one more connection."""
        return connections >= self._max_connections

    def require_place(self, connections: int) -> None:
        """Raise `ServiceError` 503 if the limit does not allow one more connection."""
        if self.full(connections):
            raise ServiceError(
                ErrorCode.UNAVAILABLE,
                "The server has reached its limit on connections.",
                "Try again in a minute.",
            )

    def enter(self, peer: str) -> None:
        """Count a connection of `peer`; raises `ServiceError` 429 if it has too many."""
        if self._per_peer[peer] >= self._max_connections_per_ip:
            raise ServiceError(
                ErrorCode.TOO_MANY,
                f"Your address already has {self._max_connections_per_ip} connections.",
                "Close some, or send requests one after another on one connection.",
            )
        self._per_peer[peer] += 1

    def leave(self, peer: str) -> None:
        """Forget a connection that `enter` counted."""
        self._per_peer[peer] -= 1
        if self._per_peer[peer] <= 0:
            del self._per_peer[peer]
