"""Connecting, and trying again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from twisted.internet import reactor, task
from twisted.internet.defer import maybeDeferred
from twisted.internet.protocol import Protocol, ServerFactory
from twisted.trial.unittest import TestCase

from tests.client_harness import (
    TASK,
    FakeTransport,
    ServerCase,
)
from tests.ports import port_of
from vidproc.client.connection import Connection
from vidproc.client.errors import (
    ConnectFailed,
    ConnectionBroken,
    LostForGood,
)
from vidproc.client.link import RetryPolicy
from vidproc.transport import IStreamTransport


class ConnectingTests(ServerCase):
    """Getting a connection, and losing it."""

    def closed_port(self) -> int:
        listening = reactor.listenTCP(0, ServerFactory(), interface="127.0.0.1")
        port = port_of(listening)
        self.addCleanup(lambda: None)
        self.closing = maybeDeferred(listening.stopListening)
        return port

    async def test_a_refused_first_connection_is_final_and_says_how_to_start_a_server(self) -> None:
        """There is no second try; the error names host and port."""
        port = self.closed_port()
        await self.closing
        problem = await self.fails(ConnectFailed, self.client(port=port).request("info"))
        self.assertIn(f"127.0.0.1 port {port}", str(problem))
        self.assertIn(f"twistd -n vidproc --port {port}", problem.advice)
        self.assertEqual(self.notices, [])

    async def test_a_connection_that_always_breaks_is_given_up(self) -> None:
        """After five more tries without progress it is lost for good."""
        self.server.cut_always = True
        problem = await self.fails(LostForGood, self.client().request("status", task_id=TASK))
        self.assertIn("add --tls", problem.advice)
        self.assertEqual(len(self.server.requests), 6)
        self.assertEqual(len(self.notices), 5)

    async def test_a_peer_that_is_no_mmp_server_is_named_as_such(self) -> None:
        """Bytes that are not MMP end it at once; the error says what to check: HTTP, or a missing
        --tls."""
        http = b"HTTP/1.1 400 Bad Request\r\n\r\n" + b"x" * 100
        await self.meet_foreigner(http, "speaks HTTP, not the vidproc protocol")
        for said in (b"+OK ready\r\n", bytes.fromhex("15030300020246")):
            await self.meet_foreigner(said, "does not speak the vidproc protocol")

    async def meet_foreigner(self, said: bytes, expected: str) -> None:
        class Foreign(Protocol):
            transport: IStreamTransport

            def connectionMade(self) -> None:
                factory.peers.add(self)
                self.transport.write(said)

            def connectionLost(self, reason: Any = None) -> None:
                factory.peers.discard(self)

        class ForeignFactory(ServerFactory):
            protocol = Foreign
            peers: ClassVar[set[Foreign]] = set()

        factory = ForeignFactory()
        client = self.client(port=self.listen(factory))
        problem = await self.fails(ConnectFailed, client.request("info"))
        self.assertIn(expected, str(problem))
        self.assertIn("--tls", problem.advice)

    async def test_a_server_that_closes_after_each_answer_is_connected_to_again(self) -> None:
        """Each request gets its own connection, as old servers want; this is not a failure."""
        self.server.closes_after_answer = True
        client = self.client()
        for _ in range(3):
            await client.request("status", task_id=TASK)
        self.assertEqual(self.notices, [])

    async def test_requests_share_a_connection_that_stays_open(self) -> None:
        """One connection carries any number of requests."""
        client = self.client()
        await client.request("info")
        await client.request("cancel", task_id=TASK)
        self.assertEqual(len(self.server.peers), 1)

    async def test_a_silent_server_is_given_up_by_the_clock(self) -> None:
        """A connection without a byte for the stall time counts as broken."""
        clock = task.Clock()
        connection = Connection(clock, 30.0)
        transport = FakeTransport()
        connection.makeConnection(transport)
        waiting = connection.request({"action": "info"})
        clock.advance(29)
        self.assertNoResult(waiting)
        connection.dataReceived(b"\0")
        clock.advance(29)
        self.assertNoResult(waiting)
        clock.advance(1)
        self.failureResultOf(waiting, ConnectionBroken)
        self.assertTrue(transport.aborted)
        self.assertEqual(clock.getDelayedCalls(), [])


class RetryPolicyTests(TestCase):
    """How long to wait before the next try."""

    def pauses(self, jitter: Callable[[], float]) -> list[float]:
        policy = RetryPolicy(base=1.0, cap=10.0, jitter=jitter)
        return [policy.pause(failures) for failures in range(1, 7)]

    def test_pauses_grow_to_a_limit(self) -> None:
        """1, 2, 4, 8 seconds and then the cap."""
        self.assertEqual(self.pauses(lambda: 0.0), [1, 2, 4, 8, 10, 10])

    def test_a_random_part_spreads_them(self) -> None:
        """Each pause is shortened by a random part of up to half."""
        self.assertEqual(self.pauses(lambda: 1.0), [0.5, 1, 2, 4, 5, 5])
