"""How a connection of any frontend begins: it passes the gate, and its client becomes known."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import ISSLTransport, ITCPTransport
from twisted.protocols.policies import ProtocolWrapper

from vidproc.errors import ServiceError
from vidproc.frontends.gate import Connection, Gate
from vidproc.frontends.peers import peer_key
from vidproc.frontends.refusals import TurnedAway


class Arrival:
    """Takes `connection` through the gate.

    If the gate refuses it, `end` is called: with the error to tell the client before the connection
    is ended, or with None if it must be closed at once. `is_proxy` returns whether a host is a
    proxy, which limits its clients itself; a UNIX socket's host is "".
    """

    def __init__(
        self,
        gate: Gate,
        connection: Connection,
        end: Callable[[ServiceError | None], None],
        is_proxy: Callable[[str], bool] = lambda host: False,
    ) -> None:
        self.peer: str | None = None
        """The client, None until it is known."""
        self.from_proxy = False
        """Whether the client is a proxy, so that each request comes from a client of its own."""
        self._gate = gate
        self._connection = connection
        self._end = end
        self._is_proxy = is_proxy

    def made(self) -> None:
        """Let the connection in. Call this once it has its transport."""
        transport = self._connection.transport
        if ITCPTransport.providedBy(transport):
            transport.setTcpNoDelay(True)
            transport.setTcpKeepAlive(True)
        # A proxy protocol names the client in its first bytes.
        proxied = isinstance(transport, ProtocolWrapper) and not ISSLTransport.providedBy(transport)
        if self._passes(lambda: self._gate.connected(self._connection)) and not proxied:
            self.identify()

    def identify(self) -> None:
        """Find out who the client is, unless that is known. Call this when bytes arrive."""
        if self.peer is not None:
            return
        address = self._connection.transport.getPeer()
        peer = self.peer = peer_key(address)
        self.from_proxy = self._is_proxy(str(getattr(address, "host", "")))
        if not self.from_proxy:
            self._passes(lambda: self._gate.met(self._connection, peer))

    def _passes(self, step: Callable[[], None]) -> bool:
        try:
            step()
        except TurnedAway:
            self._end(None)
        except ServiceError as refusal:
            self._end(refusal)
        else:
            return True
        return False
