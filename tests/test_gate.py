"""The gate that every frontend obeys, and its rules."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any

import psutil
from twisted.internet.address import IPv4Address
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from support.server_process import PlainClient, ServerProcess, receive, send, wait_for
from tests.rig import Rig
from vidproc.errors import ErrorCode, ServiceError
from vidproc.frontends.gate import Gate
from vidproc.frontends.pacing import Pacing
from vidproc.frontends.peers import Peers
from vidproc.frontends.refusals import Refusals, TurnedAway
from vidproc.frontends.throttle import LEAST_RATE, IngestThrottle
from vidproc.frontends.tokens import Tokens
from vidproc.tasks.settings import Caller


class StubConnection:
    """A connection that records what the gate does to it."""

    def __init__(self) -> None:
        self.transport: Any = StringTransport()
        self.transferring = False
        self.closed = self.aborted = False

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.aborted = True


class GateTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()

    def gate(self, **options: Any) -> Gate:
        return Gate(self.clock, **options)

    def enter(self, gate: Gate, peer: str = "192.0.2.1") -> StubConnection:
        connection = StubConnection()
        gate.connected(connection)
        gate.met(connection, peer)
        return connection

    def refused(self, gate: Gate, peer: str = "192.0.2.1") -> ErrorCode:
        error: ServiceError = self.assertRaises(ServiceError, self.enter, gate, peer)
        return error.code

    def test_connections_and_clients_are_counted(self) -> None:
        """Two connections of one client count as one peer."""
        gate = self.gate()
        first, _ = self.enter(gate), self.enter(gate)
        self.enter(gate, "192.0.2.2")
        self.assertEqual((gate.connections, gate.peers), (3, 2))
        first.transferring = True
        self.assertEqual(gate.transferring, 1)
        gate.disconnected(first)
        self.assertEqual((gate.connections, gate.peers, gate.transferring), (2, 2, 0))

    def test_a_refused_connection_takes_no_place(self) -> None:
        """While it lingers, all places are left for admitted connections."""
        gate = self.gate(max_connections=2, max_connections_per_ip=1)
        welcome = self.enter(gate)
        self.assertEqual(self.refused(gate), ErrorCode.TOO_MANY)
        self.enter(gate, "192.0.2.2")
        self.assertEqual(self.refused(gate, "192.0.2.3"), ErrorCode.UNAVAILABLE)
        gate.disconnected(welcome)
        self.enter(gate)

    def test_a_flood_is_turned_away_beyond_the_budget(self) -> None:
        """Without an answer. The gate is shut until a refused connection has ended."""
        gate = self.gate(max_connections=1, refusals=Refusals(most=2))
        self.enter(gate)
        lingering = []
        for _ in range(2):
            self.assertFalse(gate.shut)
            connection = StubConnection()
            self.assertRaises(ServiceError, gate.connected, connection)
            lingering.append(connection)
        self.assertTrue(gate.shut)
        late = StubConnection()
        self.assertRaises(TurnedAway, gate.connected, late)
        gate.disconnected(late)
        self.assertTrue(gate.shut)
        gate.disconnected(lingering[0])
        self.assertFalse(gate.shut)

    def test_a_token_names_the_caller(self) -> None:
        """Without tokens, only the address is known."""
        self.assertEqual(self.gate().caller("192.0.2.1", "x"), Caller("192.0.2.1"))
        gate = self.gate(tokens=Tokens({"ann": "s3cret"}))
        self.assertEqual(gate.caller("192.0.2.1", "s3cret"), Caller("192.0.2.1", "ann"))
        self.assertRaises(ServiceError, gate.caller, "192.0.2.1", None)

    def test_a_fault_is_logged_under_the_reference_that_the_client_gets(self) -> None:
        """The client gets no other details."""
        error = self.gate().fault(Failure(RuntimeError("/secret/path")))
        self.assertEqual(error.code, ErrorCode.INTERNAL)
        self.assertNotIn("secret", error.description)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    def test_a_drain_ends_who_transfers_nothing_and_waits_for_the_others(self) -> None:
        """Refused connections end by themselves."""
        gate = self.gate()
        idle, busy = self.enter(gate), self.enter(gate)
        busy.transferring = True
        drained = gate.drain(30.0)
        self.assertTrue(gate.draining and gate.shut)
        self.assertEqual((idle.closed, busy.closed), (True, False))
        gate.disconnected(idle)
        self.assertNoResult(drained)
        gate.disconnected(busy)
        self.successResultOf(drained)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_drain_ends_with_its_grace(self) -> None:
        """The remaining connections are closed at once, refused ones as well."""
        gate = self.gate(max_connections=1)
        busy, refused = self.enter(gate), StubConnection()
        busy.transferring = True
        self.assertRaises(ServiceError, gate.connected, refused)
        gate.drain(30.0)
        self.clock.advance(30.0)
        self.assertTrue(busy.aborted and refused.aborted)

    def test_a_transfer_that_ends_during_a_drain_ends_its_connection(self) -> None:
        """Otherwise it would serve the next request; a connection with a transfer still does."""
        gate = self.gate()
        first, second = self.enter(gate), self.enter(gate)
        gate.settled(first)
        self.assertFalse(first.closed)
        first.transferring = second.transferring = True
        gate.drain(30.0)
        second.transferring = False
        gate.settled(first)
        gate.settled(second)
        self.assertEqual((first.closed, second.closed), (False, True))

    def test_an_empty_gate_is_drained_at_once(self) -> None:
        """There is nothing to wait for."""
        self.successResultOf(self.gate().drain(30.0))


class PeersTests(SynchronousTestCase):
    def test_a_client_that_leaves_is_forgotten(self) -> None:
        """Memory does not grow with the number of earlier addresses."""
        peers = Peers(10, 1)
        for _ in range(2):
            peers.enter("a")
            peers.leave("a")
        self.assertEqual(len(peers), 0)

    def test_a_refused_client_does_not_count(self) -> None:
        """Its next connection is admitted as soon as another has ended."""
        peers = Peers(10, 1)
        peers.enter("a")
        self.assertRaises(ServiceError, peers.enter, "a")
        peers.leave("a")
        peers.enter("a")


class RefusalsTests(SynchronousTestCase):
    def test_one_client_leaves_answers_for_others(self) -> None:
        """It gets only a part of the budget."""
        refusals = Refusals(most=4, most_of_peer=2)
        refusals.enter("a")
        refusals.enter("a")
        self.assertRaises(TurnedAway, refusals.enter, "a")
        refusals.enter("b")
        refusals.leave("a")
        refusals.enter("a")


class TokensTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.path = Path(self.mktemp())
        self.path.write_text("ann s3cret\n")

    def test_the_file_is_read_again(self) -> None:
        """Removed tokens are no longer accepted."""
        tokens = Tokens.read(self.path)
        self.path.write_text("# new\nbob t0ken\n")
        tokens.reload()
        self.assertEqual(tokens.check("t0ken"), "bob")
        self.assertRaises(ServiceError, tokens.check, "s3cret")

    def test_a_wrong_file_keeps_the_old_tokens(self) -> None:
        """A missing, malformed or empty one, or one that is not UTF-8."""
        tokens = Tokens.read(self.path)
        for content in (None, b"ann\n", b"", b"ann \xff\n"):
            if content is None:
                self.path.unlink()
            else:
                self.path.write_bytes(content)
            self.assertRaises((OSError, ValueError), tokens.reload)
            self.assertEqual(tokens.check("s3cret"), "ann")

    def test_what_is_wrong_is_named_without_its_text(self) -> None:
        """The line may contain a token."""
        self.path.write_text("ann one two\n")
        error = self.assertRaises(ValueError, Tokens.read, self.path)
        self.assertIn("line 1", str(error))
        self.assertNotIn("two", str(error))

    def test_no_tokens_are_needed_without_a_file(self) -> None:
        """There is nothing to reload."""
        tokens = Tokens()
        tokens.reload()
        self.assertFalse(tokens.needed)
        self.assertIsNone(tokens.check("anything"))

    def test_any_text_may_be_a_wrong_token(self) -> None:
        """Even a lone surrogate does not lead to an exception."""
        tokens = Tokens({"ann": "s3cret"})
        for text in ("", "\ud800", "ä" * 1000):
            self.assertRaises(ServiceError, tokens.check, text)


class ThrottleTests(SynchronousTestCase):
    def test_nobody_waits_without_a_limit(self) -> None:
        """However much arrives."""
        self.assertEqual(IngestThrottle(Clock()).take(1 << 40), 0.0)

    def test_all_uploads_together_wait_for_the_limit(self) -> None:
        """Twice as many bytes as fit into a second must wait for about another second."""
        clock = Clock()
        throttle = IngestThrottle(clock)
        throttle.limit(2 * LEAST_RATE)
        self.assertLess(abs(throttle.take(int(2 * LEAST_RATE)) - 1.0), 0.03)
        self.assertLess(abs(throttle.take(int(2 * LEAST_RATE)) - 2.0), 0.03)
        clock.advance(2.0)
        self.assertLess(abs(throttle.take(int(LEAST_RATE)) - 0.5), 0.03)

    def test_no_limit_falls_below_the_promise(self) -> None:
        """5,000 packets a second are always allowed."""
        throttle = IngestThrottle(Clock())
        throttle.limit(1.0)
        self.assertEqual(throttle.rate, LEAST_RATE)


class PacingTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.throttle = IngestThrottle(self.clock)
        self.throttle.limit(LEAST_RATE)
        self.events: list[int | str] = []

    def pacing(self) -> Pacing:
        return Pacing(
            self.clock, self.throttle, lambda: self.events.append("pause"), self.events.append
        )

    def test_who_is_ahead_pauses_until_it_is_its_turn(self) -> None:
        """It gets the size of the read before the pause; later reads do not count."""
        pacing = self.pacing()
        pacing.took(int(LEAST_RATE))
        pacing.took(int(LEAST_RATE))
        self.assertTrue(pacing.paused)
        self.assertEqual(self.events, ["pause"])
        self.clock.advance(1.0)
        self.assertFalse(pacing.paused)
        self.assertEqual(self.events, ["pause", int(LEAST_RATE)])

    def test_nothing_happens_without_a_limit(self) -> None:
        """However much arrives."""
        self.throttle.limit(None)
        self.pacing().took(1 << 40)
        self.assertEqual(self.events, [])

    def test_a_connection_that_ends_is_not_resumed(self) -> None:
        """Its timer ends with it."""
        pacing = self.pacing()
        pacing.took(int(LEAST_RATE))
        pacing.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])


class LimitedMMPTests(SynchronousTestCase):
    """The limits, as MMP clients see them."""

    def rig(self, **options: Any) -> Rig:
        rig = Rig(Path(self.mktemp()), **options)
        self.addCleanup(rig.close)
        return rig

    def test_a_flood_of_one_address_is_closed_without_an_answer(self) -> None:
        """The first few get a reason."""
        rig = self.rig(max_connections_per_ip=1, refusals=Refusals(most_of_peer=3))
        rig.connect()
        flood = [rig.connect() for _ in range(10)]
        answered = [client for client in flood if client.transport.value()]
        self.assertEqual(len(answered), 3)
        self.assertTrue(all(client.transport.aborted for client in flood[3:]))
        self.assertFalse(rig.connect("192.0.2.9").transport.ended)

    def test_no_connection_is_accepted_when_there_is_no_place_even_to_refuse_it(self) -> None:
        """The socket is closed before any object is created for it."""
        rig = self.rig(max_connections=1, refusals=Refusals(most=1))
        rig.connect()
        rig.connect()
        self.assertIsNone(rig.factory.buildProtocol(IPv4Address("TCP", "192.0.2.3", 1)))


class FloodTests(SynchronousTestCase):
    """A real server, flooded."""

    def server(self, *options: str) -> ServerProcess:
        server = ServerProcess(Path(self.mktemp()), *options).start()
        self.addCleanup(server.stop)
        return server

    def test_a_flood_of_connections_leaves_descriptors(self) -> None:
        """Refused connections stay within their budget; afterwards others are served again."""
        server = self.server("--max-connections=20")
        process, client = psutil.Process(server.pid), PlainClient(server.port)
        before = process.num_fds()
        flood = [client.connect() for _ in range(300)]
        highest = 0
        for connection in flood:
            connection.settimeout(60)
            highest = max(highest, process.num_fds())
        for connection in flood[150:]:
            try:
                connection.recv(2000)  # an answer, or the end
            except ConnectionResetError:
                pass
        self.assertLessEqual(max(highest, process.num_fds()), before + 20 + 64 + 30)
        for connection in flood:
            connection.close()
        wait_for(lambda: _is_served(client))

    def test_running_out_of_descriptors_ends_no_service(self) -> None:
        """New connections wait; the server neither ends nor spins."""
        server = self.server()
        process, client = psutil.Process(server.pid), PlainClient(server.port)
        kept = client.connect()
        self.addCleanup(kept.close)
        wait_for(lambda: _is_served(client))
        limits = process.rlimit(psutil.RLIMIT_NOFILE)
        process.rlimit(psutil.RLIMIT_NOFILE, (4, limits[1]))
        waiting = [client.connect() for _ in range(20)]
        wait_for(lambda: "no descriptor is left" in server.log())
        spent, since = sum(process.cpu_times()[:2]), time.monotonic()
        time.sleep(2)  # what is measured is the time itself
        share = (sum(process.cpu_times()[:2]) - spent) / (time.monotonic() - since)
        process.rlimit(psutil.RLIMIT_NOFILE, limits)
        self.assertLess(share, 0.3)
        for connection in waiting:
            self.addCleanup(connection.close)
            connection.settimeout(30)
            send(connection, {"action": "info"})
            self.assertEqual(receive(connection)[0]["status"], "ok")
        self.assertEqual(server.log().count("no descriptor is left"), 1)

    def test_sighup_reads_the_token_file_again(self) -> None:
        """A wrong file keeps the old tokens, and the log says so."""
        path = Path(self.mktemp()).absolute()
        path.write_text("ann s3cret\n")
        server = self.server(f"--token-file={path}")
        client, pid = PlainClient(server.port), server.pid
        info = {"action": "info", "token": "t0ken"}
        self.assertIn("error", client.request(info)[0])
        path.write_text("bob t0ken\n")
        psutil.Process(pid).send_signal(signal.SIGHUP)
        wait_for(lambda: client.request(info)[0].get("status") == "ok")
        path.write_text("nonsense\n")
        psutil.Process(pid).send_signal(signal.SIGHUP)
        wait_for(lambda: "the token file stays as it was" in server.log())
        self.assertEqual(client.request(info)[0]["status"], "ok")


def _is_served(client: PlainClient) -> bool:
    try:
        return client.request({"action": "info"})[0].get("status") == "ok"
    except OSError:
        return False
