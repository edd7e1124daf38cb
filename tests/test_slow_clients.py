"""When slow clients are disconnected, and when silence is not their fault."""

from __future__ import annotations

import os
from pathlib import Path

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.rig import Rig, complete_step, message
from vidproc.frontends.mmp.states import Sending
from vidproc.frontends.slow_clients import HEAD_TIME, MINIMUM_RATE, SlowClientWatch, Waiting


class SlowClientWatchTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.waiting = Waiting.CLIENT
        self.silent: list[bool] = []
        self.slow: list[str] = []
        self.watch = SlowClientWatch(
            self.clock, 60.0, lambda: self.waiting, self.silent.append, self.slow.append
        )

    def move(self, seconds: int, *, received: int = 0, sent: int = 0) -> None:
        """Let time pass, with that many bytes each second."""
        for _ in range(seconds):
            if received:
                self.watch.received(received)
            if sent:
                self.watch.sent(sent)
            self.clock.advance(1.0)

    def test_a_silent_client_is_cut_off_once(self) -> None:
        """After the idle timeout, not before."""
        self.move(59)
        self.assertEqual(self.silent, [])
        self.move(200)
        self.assertEqual(self.silent, [False])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_silence_counts_from_the_last_movement(self) -> None:
        """In either direction."""
        self.move(50)
        self.watch.received(1)
        self.move(50)
        self.watch.stirred()
        self.move(59)
        self.assertEqual(self.silent, [])

    def test_our_own_slowness_is_no_fault_of_the_client(self) -> None:
        """The idle time starts at its end."""
        self.waiting = Waiting.US
        self.move(600)
        self.waiting = Waiting.CLIENT
        self.move(50)
        self.assertEqual(self.silent, [])

    def test_a_client_that_blocks_has_twice_as_long(self) -> None:
        """Its connection may be slow."""
        self.waiting = Waiting.CLIENT_BLOCKS
        self.move(119)
        self.assertEqual(self.silent, [])
        self.move(2)
        self.assertEqual(self.silent, [True])

    def test_an_upload_below_the_rate_is_cut_off(self) -> None:
        """One just above it is not."""
        self.waiting = Waiting.CLIENT_SENDS
        self.move(300, received=MINIMUM_RATE + 1)
        self.assertEqual(self.slow, [])
        self.move(130, received=MINIMUM_RATE // 2)
        self.assertEqual(len(self.slow), 1)

    def test_a_download_below_the_rate_is_cut_off(self) -> None:
        """One just above it is not. The rate of an upload is different."""
        self.waiting = Waiting.CLIENT_BLOCKS_FILE
        self.watch.forgive()
        self.move(600, sent=MINIMUM_RATE + 1)
        self.assertEqual(self.slow, [])
        self.move(250, sent=MINIMUM_RATE // 2)
        self.assertEqual(len(self.slow), 1)
        self.assertEqual(self.silent, [])

    def test_a_pause_of_ours_costs_no_rate(self) -> None:
        """The window in which it happened does not count."""
        self.waiting = Waiting.CLIENT_SENDS
        self.move(90, received=MINIMUM_RATE + 1)
        self.watch.forgive()
        self.move(50)
        self.assertEqual(self.slow, [])

    def test_a_clock_that_jumps_is_nobodys_silence(self) -> None:
        """For example, after the machine slept."""
        self.clock.advance(3600.0)
        self.assertEqual(self.silent, [])
        self.clock.advance(60.0)
        self.assertEqual(self.silent, [False])

    def test_a_head_must_arrive_in_time(self) -> None:
        """Even if bytes keep arriving. Answering a complete one may take any time."""
        for _ in range(3):
            self.watch.time_head(True)
            self.move(int(HEAD_TIME) - 1, received=100)
            self.watch.time_head(False)
            self.move(30, received=2000)
        self.assertEqual(self.slow, [])
        for _ in range(int(HEAD_TIME)):
            self.watch.time_head(True)
            self.move(1, received=2000)
        self.assertEqual(len(self.slow), 1)

    def test_nothing_is_called_after_the_end(self) -> None:
        """No timer is left."""
        self.watch.stop()
        self.watch.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])


class SlowDownloadTests(SynchronousTestCase):
    def test_a_result_that_trickles_out_is_not_held_for_ever(self) -> None:
        """A client that reads a little now and then is disconnected, too."""
        rig = Rig(Path(self.mktemp()))
        self.addCleanup(rig.close)
        client = rig.connect()
        request = {
            "action": "upload",
            "type": "gif",
            "parameters": {"start_time": 0, "duration": 1},
        }
        client.send(message(request, b"film", "mp4"))
        task_id = client.answer()["task_id"]
        while rig.runner.running:
            complete_step(rig.runner.running[0], os.urandom(3_000_000))
        write = client.transport.write

        def block(data: bytes) -> None:
            write(data)
            client.protocol.pauseProducing()

        self.patch(client.transport, "write", block)
        client.send(message({"action": "download", "task_id": task_id}))
        state = client.protocol.state
        assert isinstance(state, Sending)
        for _ in range(60):
            if client.transport.aborted:
                break
            state.result.sent(100)
            rig.clock.advance(10.0)
        self.assertTrue(client.transport.aborted)
        task = rig.store.get(task_id)
        assert task is not None
        self.assertIsNone(task.downloaded_at)
