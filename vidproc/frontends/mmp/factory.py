"""Connections and peers of the MMP door: who is connected, how many, how much has moved."""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Factory
from twisted.python.failure import Failure

from vidproc.errors import ErrorCode, ServiceError
from vidproc.files.threads import WorkerThreads
from vidproc.frontends.access import Tokens
from vidproc.frontends.mmp.protocol import MMPServerProtocol
from vidproc.frontends.mmp.reports import ServerInfo
from vidproc.frontends.throttle import IngestThrottle
from vidproc.frontends.traffic import Traffic
from vidproc.tasks.facade import Tasks
from vidproc.topics import Topic, TopicLogger


class MMPFactory(Factory):
    """Makes the protocols of one or more ports. Times in seconds."""

    log = TopicLogger(Topic.CONNECTIONS)
    noisy = False

    def __init__(
        self,
        clock: Any,
        tasks: Tasks,
        disk: WorkerThreads,
        server_info: Callable[[], ServerInfo],
        *,
        tokens: Tokens | None = None,
        idle_timeout: float = 60.0,
        max_connections: int = 4096,
        max_connections_per_ip: int = 64,
    ) -> None:
        self.clock = clock
        self.tasks = tasks
        self.disk = disk
        self.server_info = server_info
        self.tokens = tokens or Tokens()
        self.idle_timeout = idle_timeout
        self.traffic = Traffic()
        self.throttle = IngestThrottle(clock)
        self._max_connections = max_connections
        self._max_connections_per_ip = max_connections_per_ip
        self._protocols: set[MMPServerProtocol] = set()
        self._per_peer: Counter[str] = Counter()
        self.draining = False
        self._drained: Deferred[None] | None = None

    def buildProtocol(self, addr: IAddress | None) -> Any:
        return MMPServerProtocol(self)

    @property
    def connections(self) -> int:
        """Connections open now."""
        return len(self._protocols)

    @property
    def peers(self) -> int:
        """Addresses connected now."""
        return len(self._per_peer)

    def connected(self, protocol: MMPServerProtocol) -> ServiceError | None:
        """Note a new connection; return why it is refused, None when it is welcome."""
        self._protocols.add(protocol)
        self.traffic.opened(protocol.transport)
        if len(self._protocols) > self._max_connections:
            return ServiceError(
                ErrorCode.UNAVAILABLE,
                "The server has all the connections that it can hold.",
                "Try again in a minute.",
            )
        return None

    def met(self, protocol: MMPServerProtocol, peer: str) -> ServiceError | None:
        """Note whose a connection is; return why it is refused, None when it is welcome."""
        self._per_peer[peer] += 1
        if self._per_peer[peer] > self._max_connections_per_ip:
            return ServiceError(
                ErrorCode.TOO_MANY,
                f"Your address has {self._max_connections_per_ip} connections already.",
                "Close some, or send requests one after another on one connection.",
            )
        return None

    def disconnected(self, protocol: MMPServerProtocol) -> None:
        """Forget a connection."""
        self.traffic.closed(protocol.transport)
        self._protocols.discard(protocol)
        peer = protocol.peer
        if peer is not None:
            self._per_peer[peer] -= 1
            if self._per_peer[peer] <= 0:
                del self._per_peer[peer]
        if self._drained is not None and not self._protocols:
            drained, self._drained = self._drained, None
            drained.callback(None)

    def count_received(self, size: int) -> None:
        """Note bytes read."""
        self.traffic.received += size

    def count_sent(self, size: int) -> None:
        """Note bytes written."""
        self.traffic.sent += size

    def fault(self, failure: Failure) -> ServiceError:
        """Log a fault of ours under a reference and return what to tell the client."""
        reference = secrets.token_hex(4)
        self.log.failure("fault {reference}", failure, reference=reference)
        return ServiceError(
            ErrorCode.INTERNAL,
            f"The server failed at this request (reference {reference}).",
            "Try again later; if it happens again, tell the server's operator the reference.",
        )

    def drain(self, grace: float) -> Deferred[None]:
        """End the connections, each when its transfer is done, all of them after `grace` seconds.

        The Deferred fires when none is left.
        """
        self.draining = True
        if not self._protocols:
            return succeed(None)
        drained: Deferred[None] = Deferred()
        self._drained = drained
        hurry = self.clock.callLater(grace, self.abort_all)
        drained.addBoth(lambda _: hurry.cancel() if hurry.active() else None)
        for protocol in list(self._protocols):
            if not protocol.transferring:
                protocol.close()
        return drained

    def abort_all(self) -> None:
        """Cut all connections off."""
        for protocol in list(self._protocols):
            protocol.transport.abortConnection()
