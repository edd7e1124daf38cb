"""The port number of a listening port."""

from __future__ import annotations

from twisted.internet.address import IPv4Address
from twisted.internet.interfaces import IListeningPort


def port_of(listening: IListeningPort) -> int:
    """Return the TCP port of a loopback listener."""
    address = listening.getHost()
    assert isinstance(address, IPv4Address)
    return address.port
