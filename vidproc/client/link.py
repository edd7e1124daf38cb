"""A link to a server that outlives single connections: connecting and retrying."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from twisted.internet import error as net_error
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator, IReactorTime
from twisted.internet.protocol import Factory, ServerFactory
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from vidproc.client.answer import Answer
from vidproc.client.connection import Connection
from vidproc.client.errors import (
    ClientError,
    ConnectFailed,
    ConnectionBroken,
    LostForGood,
    Refused,
    Unreachable,
)
from vidproc.client.log import Log
from vidproc.client.requests import request_fields
from vidproc.reactor import IFullReactor

if TYPE_CHECKING:
    from vidproc.client.early import EarlyUpload

T = TypeVar("T")


@dataclass
class RetryPolicy:
    """How often and how fast to retry: `tries` in a row without any progress.

    The pause before try n is `base` seconds times 2 to the n-1, at most `cap`, minus a random
    amount of up to half, so that not all clients of a restarted server return at once.
    """

    tries: int = 5
    base: float = 1.0
    cap: float = 30.0
    jitter: Callable[[], float] = field(default_factory=lambda: random.SystemRandom().random)

    def pause(self, failures: int) -> float:
        """Return the seconds to wait after this many failures in a row (at least 1)."""
        longest = min(self.cap, self.base * 2.0 ** (failures - 1))
        return float(longest * (1 - self.jitter() / 2))


@dataclass(frozen=True)
class Server:
    """Where the server is, and how to speak with it.

    `tls` is what `optionsForClientTLS` returned, or None for plain TCP.
    """

    host: str
    port: int
    tls: IOpenSSLClientConnectionCreator | None = None
    token: str | None = field(default=None, repr=False)

    def __str__(self) -> str:
        return f"{self.host} port {self.port}"


class Link:
    """A link to a server: one connection at a time, replaced when it breaks.

    `notice` is called with a sentence when a connection broke and will be retried. `reached` is
    whether the server has answered another link: then a first connection that fails is tried again
    as well. `early` is an upload that has begun, over what becomes the first connection. Times are
    in seconds.
    """

    def __init__(
        self,
        reactor: IFullReactor,
        server: Server,
        *,
        log: Log,
        notice: Callable[[str], None] = lambda text: None,
        retry: RetryPolicy | None = None,
        connect_timeout: float = 10.0,
        stall_timeout: float = 60.0,
        clock: IReactorTime | None = None,
        reached: bool = False,
        early: EarlyUpload | None = None,
    ) -> None:
        self._reactor = reactor
        self.clock = reactor if clock is None else clock
        self.server = server
        self.log = log
        self.notice = notice
        self._early = early
        self._retry = retry or RetryPolicy()
        self._connect_timeout = connect_timeout
        self._stall_timeout = stall_timeout
        self._connection: Connection | None = None
        self._was_connected = reached
        self._answered = reached
        self._progress = 0

    def advance(self) -> None:
        """Note progress: earlier failures no longer count."""
        self._progress += 1

    def close(self) -> None:
        """Close the connection, if there is one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def fields(self, action: str, **fields: object) -> dict[str, Any]:
        """Return a request's JSON, with the token if there is one."""
        return request_fields(action, self.server.token, **fields)

    async def ask(self, connection: Connection, action: str, **fields: object) -> Answer:
        """Send a request without a payload; return its answer, even an error answer."""
        answer = await connection.request(self.fields(action, **fields))
        self.log.info("%s: %s", action, answer.fields.get("status") or "answered")
        return answer

    async def connected(self) -> Connection:
        """Return the open connection, or a new one. Raises `ConnectFailed`."""
        if self._connection is not None and self._connection.usable:
            return self._connection
        connection = self._adopted() or await self._new_connection()
        self.log.info("connected to %s", self.server)
        self._was_connected = True
        self._connection = connection
        return connection

    def _adopted(self) -> Connection | None:
        """Return the connection of the early upload, the first time; None if it has ended."""
        early, self._early = self._early, None
        if early is None:
            return None
        connection = Connection(self.clock, self._stall_timeout, early)
        factory: Any = ServerFactory.forProtocol(lambda: connection)
        factory.noisy = False
        socket = early.connection
        try:
            self._reactor.adoptStreamConnection(socket.fileno(), socket.family, factory)
        except OSError as problem:
            self.log.info("the early connection has ended: %s", problem)
            return None
        finally:
            socket.close()  # the reactor has a duplicate
        return connection

    async def _new_connection(self) -> Connection:
        from twisted.internet.endpoints import HostnameEndpoint

        endpoint: Any = HostnameEndpoint(
            self._reactor,
            self.server.host,
            self.server.port,
            timeout=self._connect_timeout,
            # localhost is often ::1 first; a server on 127.0.0.1 should not have to wait for that.
            attemptDelay=0.05,
        )
        if self.server.tls is not None:
            from twisted.internet.endpoints import wrapClientTLS

            endpoint = wrapClientTLS(self.server.tls, endpoint)
        factory = Factory.forProtocol(lambda: Connection(self.clock, self._stall_timeout))
        factory.noisy = False
        try:
            connection: Connection = await _cancellable(endpoint.connect(factory))
        except (net_error.ConnectError, net_error.DNSLookupError, OSError, ValueError) as problem:
            raise _not_connected(self.server, problem) from None
        return connection

    async def persist(
        self,
        attempt: Callable[[Connection], Awaitable[T]],
        forgive: Callable[[], bool] = lambda: False,
    ) -> T:
        """Repeat `attempt` until it succeeds, or several tries in a row make no progress.

        `forgive` says whether to retry after a 503, such as in the middle of something that the
        server had accepted. Raises what `attempt` raises, and `LostForGood`.
        """
        failures = 0
        while True:
            before = self._progress
            reused = self._connection is not None and self._connection.usable
            problem: ClientError
            try:
                result = await attempt(await self.connected())
                self._answered = True
                return result
            except ConnectFailed as error:
                if not self._was_connected or not isinstance(error, Unreachable):
                    raise
                problem = error
            except ConnectionBroken as error:
                if reused and not error.answered and before == self._progress and failures == 0:
                    # The server closes after each answer, or after being idle: not a failure yet.
                    self.close()
                    failures = 0
                    continue
                problem = error
            except Refused as error:
                self._answered = True
                if error.code != 503 or not forgive():
                    raise
                problem = error
            self.close()
            failures = 1 if self._progress > before else failures + 1
            self.log.warning("failure %d in a row: %s", failures, problem)
            if failures > self._retry.tries:
                if isinstance(problem, Refused):
                    raise problem
                # A TLS server closes without an answer if the client does not use TLS.
                mute = self.server.tls is None and not self._answered
                raise LostForGood(
                    f"The connection to {self.server} was lost for good: {problem}",
                    "It never answered; if the server uses TLS, add --tls." if mute else "",
                )
            pause = self._retry.pause(failures)
            self.notice(f"{problem} Trying again in {pause:.1f} s.")
            await deferLater(self.clock, pause)


def _cancellable(connecting: Deferred[Connection]) -> Deferred[Connection]:
    """Return a Deferred that fails with `CancelledError` when it is cancelled.

    An endpoint's own says then what it was at, such as an unknown host: worth another try.
    """

    def cancel(outer: Deferred[Connection]) -> None:
        outer.errback(CancelledError())
        connecting.cancel()

    outer: Deferred[Connection] = Deferred(cancel)

    def connected(result: Connection | Failure) -> None:
        if outer.called:
            if isinstance(result, Connection):
                result.close()
        elif isinstance(result, Failure):
            outer.errback(result)
        else:
            outer.callback(result)

    connecting.addBoth(connected)
    return outer


def _not_connected(server: Server, problem: BaseException) -> ConnectFailed:
    if isinstance(problem, net_error.ConnectionRefusedError):
        return Unreachable(
            f"Cannot connect to {server}: the connection was refused.",
            f"Is the server running? Start it with: twistd -n vidproc --port {server.port}",
        )
    if isinstance(problem, net_error.DNSLookupError | net_error.UnknownHostError | ValueError):
        return Unreachable(
            f"Cannot connect to {server}: the host name is not known.",
            "Check --host, for example: --host localhost",
        )
    if isinstance(problem, net_error.TimeoutError):
        return Unreachable(
            f"Cannot connect to {server}: no answer.",
            "Check --host and --port, and that no firewall is in the way.",
        )
    reason = getattr(problem, "osError", None) or getattr(problem, "strerror", None) or problem
    return Unreachable(
        f"Cannot connect to {server}: {reason}.",
        "Check --host and --port, and the network.",
    )
