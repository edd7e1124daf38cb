"""What every frontend obeys: limits on connections, tokens, and draining at a shutdown.

The gate knows all connections of all frontends. It counts them against the limits, checks tokens,
holds the limit on the rate of uploads and the traffic totals, and drains the connections when the
server shuts down. The rules are in modules of their own: `tokens`, `peers`, `refusals`,
`throttle`, `traffic`.
"""

from __future__ import annotations

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
from vidproc.request_id import current_request_id, new_request_id
from vidproc.tasks.settings import Caller
from vidproc.topics import Topic, TopicLogger
from vidproc.transport import IStreamTransport


class Connection(Protocol):
    """One connection, as the gate sees it."""

    transport: IStreamTransport

    @property
    def transferring(self) -> bool:
        """Whether a file is being transferred, in or out. A connection calls `Gate.settled` when
        this becomes false. A stream of events about tasks is not a transfer."""
        ...

    def close(self) -> None:
        """End the connection gracefully, for a shutdown: what was written is still sent.

        A request that is being answered gets its answer first, and a stream of events ends. The
        connection serves no further requests.
        """
        ...

    def abort(self) -> None:
        """Close the connection at once."""
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
        """Open connections, except those that were refused."""
        return len(self._welcome)

    @property
    def peers(self) -> int:
        """Connected clients: IPv4 addresses and IPv6 networks."""
        return len(self._peers)

    @property
    def transferring(self) -> int:
        """Connections with a file transfer, in or out."""
        return sum(connection.transferring for connection in self._welcome)

    @property
    def shut(self) -> bool:
        """Whether the next connection would be closed without an answer; then do not create it."""
        return self.draining or (self._refusals.exhausted and self._peers.full(len(self._welcome)))

    def connected(self, connection: Connection) -> None:
        """Let a new connection in.

        Raises `ServiceError` if it is refused: tell the client, then end the connection. Raises
        `TurnedAway` if so many were refused that this one must be closed at once. Either way, call
        `disconnected` when the connection is lost.
        """
        self.traffic.opened(connection.transport)
        try:
            self._peers.require_place(len(self._welcome))
        except ServiceError:
            self._refuse(connection, None)
            raise
        self._welcome[connection] = None

    def met(self, connection: Connection, peer: str) -> None:
        """Note which client a connection belongs to; raises as `connected` does.

        Behind a proxy this is known later than the connection itself.
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
        """Forget a connection, admitted or refused."""
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
        """Return who sent a request. Raises `ServiceError` 401 if the token is missing or wrong."""
        return Caller(peer, self.tokens.check(token))

    def count_error(self, frontend: str, code: int) -> None:
        """Count a request that a frontend answers with an error."""
        self.errors[frontend, code] += 1

    def fault(self, failure: Failure) -> ServiceError:
        """Log an internal error under a reference, which is the request's id; return the error for
        the client."""
        reference = current_request_id() or new_request_id()
        self.log.failure("fault {reference}", failure, reference=reference)
        return ServiceError(
            ErrorCode.INTERNAL,
            f"The server failed to handle this request (reference {reference}).",
            "Try again later; if it happens again, tell the server's operator the reference.",
        )

    # --- the end -------------------------------------------------------------------------------

    def drain(self, grace: float) -> Deferred[None]:
        """End each connection once its transfer is done; after `grace` seconds abort the rest.

        The Deferred fires when all have ended.
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
        """Note that a connection has answered a request, or finished a transfer.

        Closes it if the server is draining and the connection transfers no file.
        """
        if self.draining and not connection.transferring:
            connection.close()

    def abort_all(self) -> None:
        """Close all connections at once."""
        for connection in [*self._welcome, *self._refused]:
            connection.abort()
