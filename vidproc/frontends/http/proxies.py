"""Who the client is behind proxies. Only proxies that the operator trusts are believed."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address

from twisted.internet.address import IPv4Address as TwistedAddress

from vidproc.frontends.http.options import Network
from vidproc.frontends.peers import peer_key

Address = IPv4Address | IPv6Address


class TrustedProxies:
    """The proxies whose ``X-Forwarded-For`` and ``X-Forwarded-Proto`` are believed."""

    def __init__(self, networks: Sequence[Network] = ()) -> None:
        self._networks = tuple(networks)

    def trusts(self, host: str) -> bool:
        """Return whether an address is a trusted proxy's. A UNIX socket's peer ("") is trusted if
        any proxy is."""
        if not self._networks:
            return False
        address = read_address(host)
        return host == "" if address is None else self._contains(address)

    def _contains(self, address: Address) -> bool:
        return any(
            address.version == network.version and address in network for network in self._networks
        )

    def client(self, forwarded: Sequence[str]) -> str | None:
        """Return the client that trusted proxies name in their ``X-Forwarded-For`` headers.

        That is the rightmost entry that is not a trusted proxy, or the leftmost one if all are.
        None if there is no entry, or if one that is not an address comes first.
        """
        entries = [entry for line in forwarded for entry in line.split(",")]
        client = None
        for entry in reversed(entries):
            address = read_address(entry)
            if address is None:
                return client
            client = str(address)
            if not self._contains(address):
                return client
        return client


def key_of(host: str) -> str:
    """Return the key of a client's address, as `peer_key` does."""
    return peer_key(TwistedAddress("TCP", host, 0))


def read_address(text: str) -> Address | None:
    """Return the address in an entry of ``X-Forwarded-For``, which may have a port."""
    text = text.strip().strip('"')
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address
