"""What every frontend obeys: who is let in, who may ask, and how everybody leaves at a stop.

The gate knows all connections of all frontends. It counts them against the limits, checks tokens,
holds the limit on uploads and the totals of traffic, and drains the connections when the server
stops. The rules are in modules of their own: `tokens`, `peers`, `refusals`, `throttle`, `traffic`.
"""

from __future__ import annotations

import secrets
from collections import Counter
from typing import Protocol

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from vidproc.errors import ErrorCode, ServiceError
from vidproc.frontends.peers import Peers
from vidproc.frontends.refusals import Refusals
from vidproc.frontends.throttle import IngestThrottle
from vidproc.frontends.tokens import Tokens
from vidproc.frontends.traffic import Traffic
from vidproc.tasks.settings import Caller
from vidproc.topics import Topic, TopicLogger
from vidproc.transport import IStreamTransport


class Connection(Protocol):
    """One connection, as the gate sees it."""

    transport: IStreamTransport

    @property
    def transferring(self) -> bool:
        """Whether a file is on its way, in or out. A connection calls `Gate.settled` when it
        becomes false. What only tells of tasks, such as a stream of events, is no transfer."""
        ...

    def close(self) -> None:
        """End the connection in good order, for the server stops: what was written still leaves.

        A request that is being answered gets its answer first; a stream of events ends. The
        connection serves no further request.
        """
        ...

    def abort(self) -> None:
        """Cut the connection off."""
        ...


class Gate:
    """The gate of one server. Times in seconds."""

    log = TopicLogger(Topic.CONNECTIONS)

    def __init__(
        self,
        clock: IReactorTime,
        *,
        tokens: Tokens | None = None,
        idle_timeout: float = 60.0,
        max_connections: int = 4096,
        max_connections_per_ip: int = 64,
        refusals: Refusals | None = None,
    ) -> None:
        self.idle_timeout = idle_timeout
        self.tokens = tokens or Tokens()
        self.throttle = IngestThrottle(clock)
        self.traffic = Traffic()
        self.errors: Counter[tuple[str, int]] = Counter()
        """Requests answered with an error so far, by frontend and code."""
        self.draining = False
        self._clock = clock
        self._peers = Peers(max_connections, max_connections_per_ip)
        self._refusals = refusals or Refusals()
        self._welcome: dict[Connection, str | None] = {}
        self._refused: dict[Connection, str | None] = {}
        self._drained: Deferred[None] | None = None

    # --- connections ---------------------------------------------------------------------------

    @property
    def connections(self) -> int:
        """Connections open now, without those that were refused."""
        return len(self._welcome)

    @property
    def peers(self) -> int:
        """Clients connected now: IPv4 addresses and IPv6 networks."""
        return len(self._peers)

    @property
    def transferring(self) -> int:
        """Connections with a file on its way, in or out."""
        return sum(connection.transferring for connection in self._welcome)

    @property
    def shut(self) -> bool:
        """Whether the next connection would be closed without an answer: do not even make it."""
        return self.draining or (self._refusals.exhausted and self._peers.full(len(self._welcome)))

    def connected(self, connection: Connection) -> None:
        """Let a new connection in.

        Raises `ServiceError` when it is refused: tell the client, then end the connection. Raises
        `TurnedAway` when there are so many refused ones that this one must be closed at once.
        Either way `disconnected` must follow when the connection is lost.
        """
        self.traffic.opened(connection.transport)
        try:
            self._peers.require_place(len(self._welcome))
        except ServiceError:
            self._refuse(connection, None)
            raise
        self._welcome[connection] = None

    def met(self, connection: Connection, peer: str) -> None:
        """Note whose a connection is that was let in; raises as `connected` does.

        Behind a proxy that is known later than the connection itself.
        """
        try:
            self._peers.enter(peer)
        except ServiceError:
            del self._welcome[connection]
            self._refuse(connection, peer)
            raise
        self._welcome[connection] = peer

    def _refuse(self, connection: Connection, peer: str | None) -> None:
        self._refusals.enter(peer)
        self._refused[connection] = peer

    def disconnected(self, connection: Connection) -> None:
        """Forget a connection, whatever was said to it."""
        self.traffic.closed(connection.transport)
        if connection in self._welcome:
            peer = self._welcome.pop(connection)
            if peer is not None:
                self._peers.leave(peer)
        elif connection in self._refused:
            self._refusals.leave(self._refused.pop(connection))
        if self._drained is not None and not self._welcome and not self._refused:
            drained, self._drained = self._drained, None
            drained.callback(None)

    # --- requests ------------------------------------------------------------------------------

    def caller(self, peer: str, token: str | None) -> Caller:
        """Return who is asking. Raises `ServiceError` 401 when the token is missing or wrong."""
        return Caller(peer, self.tokens.check(token))

    def count_error(self, frontend: str, code: int) -> None:
        """Count a request that a frontend answers with an error."""
        self.errors[frontend, code] += 1

    def fault(self, failure: Failure) -> ServiceError:
        """Log a fault of ours under a reference and return what to tell the client."""
        reference = secrets.token_hex(4)
        self.log.failure("fault {reference}", failure, reference=reference)
        return ServiceError(
            ErrorCode.INTERNAL,
            f"The server failed at this request (reference {reference}).",
            "Try again later; if it happens again, tell the server's operator the reference.",
        )

    # --- the end -------------------------------------------------------------------------------

    def drain(self, grace: float) -> Deferred[None]:
        """End the connections, each when its transfer is done, all of them after `grace` seconds.

        The Deferred fires when none is left.
        """
        self.draining = True
        if not self._welcome and not self._refused:
            return succeed(None)
        drained: Deferred[None] = Deferred()
        self._drained = drained
        hurry = self._clock.callLater(grace, self.abort_all)
        drained.addBoth(lambda _: hurry.cancel() if hurry.active() else None)
        for connection in list(self._welcome):
            if not connection.transferring:
                connection.close()
        return drained

    def settled(self, connection: Connection) -> None:
        """Note that a connection has answered a request, or that its transfer has ended.

        Closes it if the server drains and no file is on its way.
        """
        if self.draining and not connection.transferring:
            connection.close()

    def abort_all(self) -> None:
        """Cut all connections off."""
        for connection in [*self._welcome, *self._refused]:
            connection.abort()
