"""The states of an MMP connection, and the objects that they use."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from twisted.internet.defer import ensureDeferred
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase

from tests.rig import InPlace, Rig, Transport, message
from vidproc.files.file_writer import READ_SIZE
from vidproc.files.sender import TransferStopped
from vidproc.frontends.mmp import states
from vidproc.frontends.mmp.watching import Watching
from vidproc.frontends.receiving import MAX_READ_AHEAD, Receiving
from vidproc.frontends.sending import Sending
from vidproc.frontends.slow_clients import HEAD_TIME
from vidproc.frontends.timer import Timer
from vidproc.tasks.model import State, Task
from vidproc.tasks.results import Result
from vidproc.tasks.uploads.session import UploadSession
from vidproc.tasks.views import TaskView


def view(state: State = State.PROCESSING) -> TaskView:
    return TaskView(
        Task(task_id="t", type="gif", parameters={}, peer="p", state=state, created_at=0.0)
    )


class TimerTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.calls: list[float] = []
        self.timer = Timer(self.clock, lambda: self.calls.append(self.clock.seconds()))

    def test_a_start_does_not_put_it_off(self) -> None:
        """A restart does."""
        self.timer.start(2)
        self.clock.advance(1)
        self.timer.start(2)
        self.clock.advance(1)
        self.assertEqual(self.calls, [2])
        self.timer.start(2)
        self.clock.advance(1)
        self.timer.restart(2)
        self.clock.advance(2)
        self.assertEqual(self.calls, [2, 5])

    def test_a_stopped_one_calls_nobody(self) -> None:
        """Stopping is always allowed."""
        self.timer.stop()
        self.timer.start(1)
        self.assertTrue(self.timer.running)
        self.timer.stop()
        self.clock.advance(2)
        self.assertEqual((self.calls, self.timer.running), ([], False))


class WatchingTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.reads = True
        self.sent: list[TaskView] = []
        self.ended: list[Watching] = []
        self.faults: list[Watching] = []
        self.watching = Watching(self.clock, 5.0, self.send, self.ended.append, self.faults.append)
        self.now = view()
        self.stopped = 0
        self.watching.begin(self)  # type: ignore[arg-type]  # what a subscription offers

    def current(self) -> TaskView:
        return self.now

    def stop(self) -> None:
        self.stopped += 1

    def send(self, shown: TaskView) -> bool:
        if self.reads:
            self.sent.append(shown)
        return self.reads

    def test_it_sends_again_after_each_interval(self) -> None:
        """Counted from the last status."""
        self.watching.show(self.now)
        self.clock.pump([4.0, 1.0, 3.0])
        self.assertEqual(len(self.sent), 2)
        self.watching.show(self.now)
        self.clock.advance(4.0)
        self.assertEqual(len(self.sent), 3)

    def test_the_last_status_ends_it(self) -> None:
        """Subscription and timer end, too."""
        self.watching.show(view(State.COMPLETED))
        self.assertEqual(self.ended, [self.watching])
        self.assertGreaterEqual(self.stopped, 1)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_who_does_not_read_gets_the_newest_later(self) -> None:
        """Only once; `on_end` is called after that."""
        self.reads = False
        self.watching.show(view())
        last = view(State.FAILED)
        self.watching.show(last)
        self.assertEqual((self.sent, self.ended), ([], []))
        self.reads = True
        self.watching.catch_up()
        self.watching.catch_up()
        self.assertEqual((self.sent, self.ended), ([last], [self.watching]))

    def test_a_status_that_cannot_be_sent_is_a_fault(self) -> None:
        """It does not reach the task service."""
        self.patch(self.watching, "_send", lambda _: 1 // 0)
        self.watching.show(view())
        self.assertEqual(self.faults, [self.watching])


class StubWriter:
    hashes = False
    read_size = READ_SIZE


class StubSession:
    """The parts of a session that `Receiving` uses."""

    def __init__(self) -> None:
        self.writer = StubWriter()
        self.taken = b""
        self.aborted = 0

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        self.producer = producer

    def write(self, data: bytes) -> None:
        self.taken += data

    def abort(self) -> None:
        self.aborted += 1


class ReceivingTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.session = StubSession()
        self.transport = Transport()
        self.holds: list[bool] = []
        self.broken: list[object] = []
        self.receiving = Receiving(
            cast(UploadSession, self.session),
            self.transport,
            lambda: self.holds.append(self.receiving.held),
            self.broken.append,
        )

    def test_large_reads_last_as_long_as_the_payload(self) -> None:
        """The size of a read also limits the bytes that wait to be written."""
        self.assertEqual(self.transport.bufferSize, READ_SIZE)
        self.session.writer.read_size = 1000  # others upload as well
        self.receiving.write(b"film")
        self.assertEqual(self.transport.bufferSize, 1000)
        self.receiving.payload_ended()
        self.assertEqual(self.transport.bufferSize, MAX_READ_AHEAD)

    def test_it_is_held_while_the_session_waits(self) -> None:
        """It reports each change."""
        self.session.producer.pauseProducing()
        self.session.producer.resumeProducing()
        self.assertEqual(self.holds, [True, False])

    def test_bytes_go_to_the_session(self) -> None:
        """In order, until it is aborted."""
        self.receiving.write(b"fi")
        self.receiving.write(b"lm")
        self.receiving.abort()
        self.assertEqual((self.session.taken, self.session.aborted), (b"film", 1))

    def test_little_is_not_worth_a_thread(self) -> None:
        """Nor are bytes from a transport that is not a plain socket."""
        self.assertFalse(self.receiving.can_take_directly(10))
        self.assertFalse(self.receiving.can_take_directly(1 << 30))


class SendingTests(SynchronousTestCase):
    def sending(self, offset: int) -> Sending:
        path = Path(self.mktemp())
        path.write_bytes(b"0123456789")
        file = path.open("rb")
        self.addCleanup(file.close)
        task = Task(task_id="t", type="gif", parameters={}, peer="p", created_at=0.0)
        self.result = Result(task, file.fileno(), 10, "", "gif", lambda: None)
        self.transport = StringTransport()
        self.progress: list[int] = []
        threads: Any = InPlace()
        return Sending(threads, self.result, offset, self.transport, self.progress.append)

    def test_it_sends_the_rest_and_counts_it(self) -> None:
        """From the offset to the end."""
        self.successResultOf(self.run_(self.sending(4)))
        self.assertEqual(self.transport.value(), b"456789")
        self.assertEqual((self.result.sent, sum(self.progress)), (6, 6))

    def test_a_lost_connection_ends_it(self) -> None:
        """Its Deferred fails."""
        sending = self.sending(0)
        sending.pause()
        running = self.run_(sending)
        self.assertNoResult(running)
        sending.stop()
        self.failureResultOf(running, TransferStopped)

    def run_(self, sending: Sending) -> Any:
        return ensureDeferred(sending.run())


class StateTests(SynchronousTestCase):
    """The states of a connection from its first request to its end."""

    def setUp(self) -> None:
        self.rig = Rig(Path(self.mktemp()))
        self.addCleanup(self.rig.close)
        self.client = self.rig.connect()

    def assert_state(self, kind: type[states.Ready]) -> None:
        self.assertIs(type(self.client.protocol.state), kind)

    def upload(self) -> str:
        parameters = {"start_time": 0, "duration": 1}
        request = {"action": "upload", "type": "gif", "parameters": parameters}
        data = message(request, b"film", "mp4")
        self.client.send(data[:-2])
        self.assert_state(states.Uploading)
        self.assertTrue(self.client.protocol.transferring)
        disk = self.rig.disk.hold()
        self.client.send(data[-2:])
        self.assert_state(states.Finishing)
        self.assertTrue(self.client.protocol.transferring)
        disk.run_all()
        self.assert_state(states.Ready)
        self.assertFalse(self.client.protocol.transferring)
        return str(self.client.answer()["task_id"])

    def test_an_upload_is_received_then_made_safe(self) -> None:
        """Then the connection is ready for the next request."""
        self.upload()

    def test_a_request_that_waits_is_being_answered(self) -> None:
        """Further requests wait."""
        lookup = self.rig.lookup_thread.hold()
        self.client.send(message({"action": "status", "task_id": "0" * 32, "id": 7}))
        self.assert_state(states.Answering)
        self.client.send(message({"action": "info", "id": 8}))
        self.assertEqual(self.client.answers(), [])
        lookup.run_all()
        self.assert_state(states.Ready)
        self.assertEqual([answer[0]["id"] for answer in self.client.answers()], [7, 8])

    def test_a_watch_lasts_until_the_next_request(self) -> None:
        """Then the task service forgets it."""
        task_id = self.upload()
        self.client.request({"action": "watch", "task_id": task_id})
        self.assert_state(states.Watching)
        self.client.request({"action": "info"})
        self.assert_state(states.Ready)
        self.assertEqual(list(self.rig.tasks.queue.watches.task_ids), [])

    def test_a_refused_payload_is_discarded_in_bounded_time(self) -> None:
        """If the payload ends in time, the connection continues."""
        self.client.send(message({"action": "nonsense"}, bytes(100))[:-1])
        self.assert_state(states.Ready)
        self.rig.clock.advance(states.DISCARD_TIME - 1)
        self.client.send(bytes(1))
        self.rig.clock.advance(2)
        self.assertEqual(self.client.request({"action": "info"})[-1][0]["status"], "ok")
        self.client.send(message({"action": "nonsense"}, bytes(100))[:-1])
        self.rig.clock.advance(states.DISCARD_TIME)
        self.assert_state(states.Lost)

    def test_a_connection_that_ends_lingers(self) -> None:
        """Until its client disconnects, or for a limited time."""
        self.client.send(b"GET / HTTP/1.1\r\n\r\n")
        self.assert_state(states.Ending)
        self.rig.clock.advance(states.LINGER_TIME - 0.1)
        self.assert_state(states.Ending)
        self.rig.clock.advance(0.1)
        self.assert_state(states.Lost)
        self.assertEqual(self.rig.clock.getDelayedCalls(), [])

    def test_a_stop_waits_for_an_answer(self) -> None:
        """The client gets its answer, then its connection ends."""
        lookup = self.rig.lookup_thread.hold()
        self.client.send(message({"action": "status", "task_id": "0" * 32}))
        self.rig.gate.drain(30.0)
        self.assert_state(states.Answering)
        lookup.run_all()
        self.assertEqual(self.client.answer()["error"]["code"], 404)
        self.assert_state(states.Ending)

    def test_an_admission_that_comes_too_late_gives_everything_back(self) -> None:
        """The client has disconnected during its admission."""
        store = self.rig.store_thread.hold()
        parameters = {"start_time": 0, "duration": 1}
        request = {"action": "upload", "type": "gif", "parameters": parameters}
        self.client.send(message(request, b"film", "mp4"))
        self.assert_state(states.Answering)
        self.client.lose()
        store.run_all()
        self.assert_state(states.Lost)
        self.assertEqual(self.rig.tasks.uploads.active, 0)
        self.assertEqual(self.rig.storage.space.reserved, 0)

    def test_an_error_names_no_request_that_was_answered_before(self) -> None:
        """If a head does not arrive in time, there is no ID yet."""
        self.client.request({"action": "info", "id": 7})
        self.client.send(message({"action": "info", "id": 8})[:-1])
        self.rig.clock.advance(HEAD_TIME)
        self.assertNotIn("id", self.client.answer())
