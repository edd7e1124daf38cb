"""MMP connections: slow and silent clients, limits, flow control, draining."""

from __future__ import annotations

from typing import Any

from tests.mmp_case import UPLOAD, ProtocolTestCase
from tests.rig import message
from vidproc.frontends.mmp.states import LINGER_TIME
from vidproc.frontends.throttle import LEAST_RATE
from vidproc.tasks.settings import Settings


class ConnectionTests(ProtocolTestCase):
    def test_a_finish_that_takes_long_is_not_the_clients_fault(self) -> None:
        """The client is not disconnected while the disk is slow."""
        rig = self.rig(idle_timeout=60.0)
        client = rig.connect()
        disk = rig.disk.hold()
        client.send(message(UPLOAD, b"film", "mp4"))
        rig.clock.pump([60.0] * 5)
        disk.run_all()
        self.assertEqual(client.answer()["status"], "accepted")

    def test_others_are_served_between_one_connections_requests(self) -> None:
        """A thousand requests in one read do not delay others."""
        rig = self.rig()
        client = rig.connect()
        client.send(message({"action": "info"}) * 1000)
        self.assertLess(len(client.answers()), 100)
        rig.clock.pump([0.0] * 100)
        self.assertGreater(len(client.answers()), 800)

    def test_zeros_end_the_connection_with_one_error(self) -> None:
        """Eight of them are the header of an empty message, which nobody sends on purpose."""
        client = self.rig().connect()
        client.send(bytes(1000))
        self.assertEqual([fields["error"]["code"] for fields, _, _ in client.answers()], [400])
        self.assertTrue(client.transport.ended)

    def test_an_idle_connection_is_closed(self) -> None:
        """After the idle timeout; in good order first, so that the client sees no reset."""
        rig = self.rig(idle_timeout=60.0)
        client = rig.connect()
        rig.clock.pump([30.0] * 2)
        self.assertTrue(client.transport.ended)
        self.assertFalse(client.transport.aborted)
        rig.clock.advance(LINGER_TIME)
        self.assertTrue(client.transport.aborted)

    def test_the_idle_timeout_counts_from_the_last_word(self) -> None:
        """Not from when the server checked."""
        rig = self.rig(idle_timeout=60.0)
        client = rig.connect()
        rig.clock.advance(50.0)
        client.send(message({"action": "info"}))
        rig.clock.pump([1.0] * 59)
        self.assertFalse(client.transport.ended)
        rig.clock.advance(1.0)
        self.assertTrue(client.transport.ended)

    def test_a_pause_of_our_own_is_nobodys_silence(self) -> None:
        """An upload may wait for its share for any time."""
        rig = self.rig(idle_timeout=60.0)
        client = rig.connect()
        rig.gate.throttle.limit(LEAST_RATE)
        rig.gate.throttle.take(int(200 * LEAST_RATE))
        data = message(UPLOAD, bytes(100), "mp4")
        client.send(data[:-60])
        client.send(data[-60:-50])
        rig.clock.pump([4.0] * 48)
        self.assertFalse(client.transport.ended)
        client.send(data[-50:])
        self.assertEqual(client.answer()["status"], "accepted")

    def test_a_clock_that_jumps_cuts_nobody_off(self) -> None:
        """The idle time starts again."""
        rig = self.rig(idle_timeout=60.0)
        client = rig.connect()
        rig.clock.advance(3600.0)
        self.assertFalse(client.transport.ended)
        rig.clock.advance(60.0)
        self.assertTrue(client.transport.ended)

    def test_a_stalled_upload_gets_an_error_and_is_closed(self) -> None:
        """Its slot is freed."""
        rig = self.rig(idle_timeout=60.0)
        client = rig.connect()
        client.send(message(UPLOAD, bytes(100), "mp4")[:-50])
        rig.clock.pump([60.0] * 2)
        self.assertEqual(self.code(client.answer()), 400)
        self.assertEqual(rig.tasks.uploads.active, 0)
        self.assertTrue(client.transport.ended)

    def test_a_watching_connection_is_not_idle(self) -> None:
        """It is silent because it has nothing to send."""
        rig = self.rig(idle_timeout=60.0)
        client = rig.connect()
        task_id = self.upload(client)
        client.send(message({"action": "watch", "task_id": task_id, "interval": 3600}))
        rig.clock.pump([30.0] * 10)
        self.assertFalse(client.transport.ended)

    def test_a_head_that_comes_byte_by_byte_is_cut_off(self) -> None:
        """It is never idle, but must arrive in time."""
        rig = self.rig()
        client = rig.connect()
        for byte in message({"action": "info", "id": "x" * 60})[:41]:
            client.send(bytes([byte]))
            rig.clock.advance(0.5)
        self.assertEqual(self.code(client.answer()), 400)
        self.assertTrue(client.transport.ended)

    def test_an_upload_that_trickles_is_cut_off(self) -> None:
        """A few bytes in each idle timeout are not enough to hold a slot."""
        rig = self.rig(idle_timeout=60.0)
        client = rig.connect()
        client.send(message(UPLOAD, bytes(10_000_000), "mp4")[:-9_000_000])
        for _ in range(20):
            client.send(bytes(1000))
            rig.clock.advance(9)
        self.assertEqual(self.code(client.answer()), 400)
        self.assertEqual(rig.tasks.uploads.active, 0)

    def test_a_slow_but_steady_upload_is_taken(self) -> None:
        """Some uplinks have only two kilobytes a second."""
        rig = self.rig(idle_timeout=60.0)
        client = rig.connect()
        data = message(UPLOAD, bytes(1_000_000), "mp4")
        for start in range(0, len(data), 20_000):
            client.send(data[start : start + 20_000])
            rig.clock.advance(9)
        self.assertEqual(client.answer()["status"], "accepted")

    def test_too_many_connections_of_an_address_are_429(self) -> None:
        """Other addresses are admitted."""
        rig = self.rig(max_connections_per_ip=2)
        clients = [rig.connect() for _ in range(3)]
        self.assertEqual(self.code(clients[2].answer()), 429)
        self.assertTrue(clients[2].transport.ended)
        self.assertFalse(rig.connect("192.0.2.9").transport.ended)
        clients[0].lose()
        clients[2].lose()
        self.assertFalse(rig.connect().transport.ended)

    def test_too_many_connections_in_all_are_503(self) -> None:
        """The client gets the error before the connection ends."""
        rig = self.rig(max_connections=1)
        rig.connect()
        self.assertEqual(self.code(rig.connect("192.0.2.9").answer()), 503)

    def test_a_client_that_sends_ahead_is_paused_while_it_waits(self) -> None:
        """Its requests wait in its own buffers, not in ours."""
        rig = self.rig()
        thread = rig.lookup_thread.hold()
        client = rig.connect()
        client.send(message({"action": "status", "task_id": "0" * 32}))
        client.send(message({"action": "info"}) * 5000)
        self.assertEqual(client.transport.producerState, "paused")
        thread.run_all()
        rig.clock.pump([0.0] * 400)
        self.assertEqual(client.transport.producerState, "producing")
        self.assertEqual(len(client.answers()), 5001)

    def test_draining_waits_for_a_transfer_and_no_longer_than_its_grace(self) -> None:
        """Idle connections end at once."""
        rig = self.rig()
        idle, busy = rig.connect(), rig.connect()
        busy.send(message(UPLOAD, bytes(100), "mp4")[:-50])
        drained = rig.gate.drain(30.0)
        self.assertTrue(idle.transport.ended)
        self.assertFalse(busy.transport.ended)
        idle.lose()
        self.assertNoResult(drained)
        rig.clock.advance(30.0)
        self.successResultOf(drained)

    def test_a_fault_that_cannot_be_sent_ends_the_connection(self) -> None:
        """It is logged, together with the fault that it was about."""
        client = self.rig().connect()

        def fail(*arguments: Any, **keywords: Any) -> None:
            raise RuntimeError("no answer")

        self.patch(client.protocol, "send", fail)
        client.send(message({"action": "info"}))
        self.assertTrue(client.transport.aborted)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 2)

    def test_owner_only_hides_a_task_from_other_addresses(self) -> None:
        """They get 404, as for a task that does not exist."""
        rig = self.rig(settings=Settings(owner_only=True))
        client = rig.connect()
        task_id = self.upload(client)
        client.send(message({"action": "status", "task_id": task_id}))
        self.assertEqual(client.answer()["status"], "processing")
        other = rig.connect("192.0.2.9")
        other.send(message({"action": "cancel", "task_id": task_id}))
        self.assertEqual(self.code(other.answer()), 404)
