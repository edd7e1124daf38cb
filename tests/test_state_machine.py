"""The service's invariants hold for any order of events by clients, FFmpeg, the clock and crashes.

Hypothesis chooses the order. Store, data folder, uploads, queue, watches and results are real, with
the in-memory runner of `tests.rig`. The order is the same in every run.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from twisted.internet.defer import ensureDeferred
from twisted.trial.unittest import SynchronousTestCase

from tests.rig import Rig, StubCommand, complete_step
from vidproc.errors import ServiceError
from vidproc.ffmpeg.command import FailureKind, Progress
from vidproc.tasks.model import ACTIVE, TERMINAL, State
from vidproc.tasks.recovery import recover
from vidproc.tasks.results import Result
from vidproc.tasks.settings import Caller, Settings
from vidproc.tasks.uploads.session import AcceptedTask, PartialUpload, UploadSession
from vidproc.tasks.uploads.submission import Submission
from vidproc.tasks.views import TaskView
from vidproc.tasks.watches import Subscription

STEPS = 10_000
"""The least number of steps in a run."""
PEERS = ("192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4")
FILM = b"a film of thirty-two bytes, whole"
GIF = {"start_time": 0, "duration": 1}
LIMIT = 1 << 30
SETTINGS = Settings(
    max_concurrent=2,
    queue_size=3,
    retention=2000.0,
    min_retention=100.0,
    upload_retention=1000.0,
    job_timeout=300.0,
)

peers = st.sampled_from(PEERS)
places = st.integers(min_value=0, max_value=7)


class Boom(Exception):
    """An exception of a listener, or an internal error."""


@dataclass
class Sending:
    """A connection that sends a film, from byte `started` on."""

    session: UploadSession
    upload_id: str | None
    sent: int
    broken: bool = False


@dataclass
class Watching:
    """A connection that watches a task."""

    task_id: str
    raises: bool
    views: list[TaskView] = field(default_factory=list)
    subscription: Subscription | None = None
    stopped: bool = False

    def show(self, view: TaskView) -> None:
        self.views.append(view)
        if self.raises:
            self.stopped = True  # one that raises loses its watch
            raise Boom


class ServiceMachine(RuleBasedStateMachine):
    """A service and its clients."""

    steps = 0

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(dir="."))
        self.sendings: list[Sending] = []
        self.watchings: list[Watching] = []
        self.downloads: list[Result] = []
        self.uploads: dict[str, str] = {}  # the address of each upload_id
        self.accepted: dict[str, str] = {}  # the address of each accepted task
        self.ended: dict[str, State] = {}
        self.now = 0.0
        self.age = 0  # steps since the last start
        self.rig = self.start()

    # --- the server ----------------------------------------------------------------------------

    def start(self) -> Rig:
        rig = Rig(self.root, settings=SETTINGS, limit=LIMIT)
        rig.clock.advance(self.now)
        # There are no power cuts here.
        rig.store.database.connection.execute("PRAGMA synchronous = OFF")
        recover(rig.store, rig.storage, rig.clock.seconds())
        rig.tasks.start(rig.store.in_states([State.QUEUED]))
        return rig

    def restart(self) -> None:
        """Clients lose their connections. They have seen a task's end only if there was one."""
        self.now = self.rig.clock.seconds() - 1_700_000_000
        for sending in self.sendings:
            fd = sending.session.writer._fd
            if fd is not None:
                os.close(fd)
                sending.session.writer._fd = None
        for result in self.downloads:
            os.close(result.fd)
        self.sendings, self.downloads = [], []
        for watching in self.watchings:
            watching.stopped = True
        self.rig.close()
        self.rig = self.start()
        self.age = 0

    def teardown(self) -> None:
        """When all clients have disconnected and all tasks have ended, nothing is left."""
        rig = self.rig
        for sending in self.sendings:
            self.do(sending.session.abort())
        for result in self.downloads:
            result.close()
        for task_id, peer in self.accepted.items():
            self.do(ensureDeferred(rig.tasks.cancel(task_id, Caller(peer))), allowed=(404,))
        rig.clock.advance(SETTINGS.upload_retention + 1)
        self.do(ensureDeferred(rig.tasks.upkeep()))
        self.look()
        assert rig.store.in_states([*ACTIVE, State.PARTIAL]) == []
        assert rig.storage.space.reserved == 0, rig.storage.space.reserved
        assert rig.runner.running == []
        assert (rig.tasks.queue.queued, rig.tasks.queue.running) == (0, 0)
        for folder in ("inputs", "uploads", "work", "results"):
            assert os.listdir(self.root / folder) == [], folder
        assert len(rig.tasks.queue.watches) == 0
        self.now = 0
        rig.close()
        shutil.rmtree(self.root)

    @staticmethod
    def do(work: Any, allowed: tuple[int, ...] = ()) -> Any:
        """Return a call's result, or the code of its refusal, which must be an allowed one."""
        outcome: list[Any] = []
        ensureDeferred(work).addBoth(outcome.append)
        assert outcome, "a call does not end"
        found = outcome[0]
        error = getattr(found, "value", None)
        if isinstance(error, ServiceError) and error.code in allowed:
            return int(error.code)
        if isinstance(error, BaseException):
            raise error
        return found

    # --- uploads -------------------------------------------------------------------------------

    @rule(peer=peers, resumable=st.booleans())
    def begin_upload(self, peer: str, resumable: bool) -> None:
        upload_id = str(uuid.UUID(int=len(self.uploads) + 1)) if resumable else None
        if upload_id is not None:
            self.uploads[upload_id] = peer
        self.send(peer, upload_id, 0)

    @precondition(lambda self: self.uploads)
    @rule(number=places)
    def resume_upload(self, number: int) -> None:
        """Resume at the server's offset, perhaps while another connection is sending."""
        upload_id, peer = list(self.uploads.items())[number % len(self.uploads)]
        status = self.do(self.rig.tasks.upload_status(upload_id, Caller(peer)), allowed=(404,))
        if isinstance(status, AcceptedTask):
            assert status.task_id in self.accepted
        elif isinstance(status, PartialUpload):
            self.send(peer, upload_id, status.offset)

    def send(self, peer: str, upload_id: str | None, offset: int) -> None:
        submission = Submission(
            "gif",
            GIF,
            "mp4",
            payload_size=len(FILM) - offset,
            upload_id=upload_id,
            size=len(FILM) if upload_id else None,
            offset=offset,
        )
        admitted = self.do(self.rig.tasks.admit(submission, Caller(peer)), allowed=(409, 429, 503))
        if isinstance(admitted, UploadSession):
            sending = Sending(admitted, upload_id, offset)
            admitted.on_broken = lambda _: setattr(sending, "broken", True)
            self.sendings.append(sending)

    @precondition(lambda self: self.sendings)
    @rule(number=places, size=st.integers(min_value=1, max_value=len(FILM)))
    def send_bytes(self, number: int, size: int) -> None:
        sending = self.sendings[number % len(self.sendings)]
        data = FILM[sending.sent : sending.sent + size]
        sending.sent += len(data)
        sending.session.write(data)

    @precondition(lambda self: self.sendings)
    @rule(number=places)
    def finish_upload(self, number: int) -> None:
        """Send the rest. An accepted task stays accepted, whatever happens later."""
        sending = self.sendings.pop(number % len(self.sendings))
        sending.session.write(FILM[sending.sent :])
        answer = self.do(sending.session.finish(), allowed=(409,) if sending.broken else ())
        if isinstance(answer, AcceptedTask):
            self.accepted[answer.task_id] = sending.session.task.peer
        else:
            assert sending.broken

    @precondition(lambda self: self.sendings)
    @rule(number=places)
    def break_upload(self, number: int) -> None:
        self.do(self.sendings.pop(number % len(self.sendings)).session.abort())

    @rule(peer=peers)
    def upload_whole_film(self, peer: str) -> None:
        before = len(self.sendings)
        self.send(peer, None, 0)
        if len(self.sendings) > before:
            self.finish_upload(before)

    # --- processing ----------------------------------------------------------------------------

    def pick(self, number: int) -> StubCommand:
        running = self.rig.runner.running
        return running[number % len(running)]

    @precondition(lambda self: self.rig.runner.running)
    @rule(number=places)
    def command_ends_well(self, number: int) -> None:
        complete_step(self.pick(number))

    @precondition(lambda self: self.rig.runner.running)
    @rule(number=places)
    def all_commands_of_a_task_end_well(self, number: int) -> None:
        folder = self.pick(number).workspace.folder_key
        while found := [c for c in self.rig.runner.running if c.workspace.folder_key == folder]:
            complete_step(found[0])

    @precondition(lambda self: self.rig.runner.running)
    @rule(number=places, out_time=st.floats(min_value=-1, max_value=5))
    def command_makes_progress(self, number: int, out_time: float) -> None:
        self.pick(number).on_progress(Progress(out_time, 3, 1.0))

    @precondition(lambda self: self.rig.runner.running)
    @rule(number=places, kind=st.sampled_from(list(FailureKind)))
    def command_fails(self, number: int, kind: FailureKind) -> None:
        self.pick(number).fail(kind)

    @precondition(lambda self: self.rig.runner.running)
    @rule(number=places)
    def runner_has_a_fault(self, number: int) -> None:
        self.pick(number).end(Boom())

    @rule(wanted=st.integers(min_value=1, max_value=4))
    def change_concurrency(self, wanted: int) -> None:
        self.rig.tasks.queue.set_concurrency(wanted)

    @precondition(lambda self: self.rig.tasks.queue.held_up() is not None)
    @rule()
    def let_a_short_task_by(self) -> None:
        task = self.rig.tasks.queue.held_up()
        assert task is not None
        self.rig.tasks.queue.let_by(task)

    # --- what clients ask ----------------------------------------------------------------------

    def task(self, number: int) -> tuple[str, Caller]:
        task_id, peer = list(self.accepted.items())[-1 - number % len(self.accepted)]
        return task_id, Caller(peer)

    @precondition(lambda self: self.accepted)
    @rule(number=places)
    def cancel(self, number: int) -> None:
        self.do(self.rig.tasks.cancel(*self.task(number)))

    @precondition(lambda self: self.accepted)
    @rule(number=places, raises=st.booleans())
    def watch(self, number: int, raises: bool) -> None:
        task_id, caller = self.task(number)
        watching = Watching(task_id, raises)
        view, watching.subscription = self.do(self.rig.tasks.watch(task_id, caller, watching.show))
        assert view.terminal == (watching.subscription is None)
        if watching.subscription is not None:
            self.watchings.append(watching)

    @precondition(lambda self: self.watchings)
    @rule(number=places)
    def stop_watching(self, number: int) -> None:
        watching = self.watchings[number % len(self.watchings)]
        assert watching.subscription is not None
        watching.subscription.stop()
        watching.stopped = True

    @precondition(lambda self: State.COMPLETED in self.ended.values())
    @rule(number=places)
    def begin_download(self, number: int) -> None:
        result = self.do(self.rig.tasks.result(*self.task(number)), allowed=(409, 410))
        if isinstance(result, Result):
            assert os.fstat(result.fd).st_size == result.size
            self.downloads.append(result)

    @precondition(lambda self: self.downloads)
    @rule(number=places, whole=st.booleans())
    def end_download(self, number: int, whole: bool) -> None:
        result = self.downloads.pop(number % len(self.downloads))
        if whole:
            self.rig.tasks.note_sent(result, 0, result.size)
        result.close()

    # --- time, and the end of the server -------------------------------------------------------

    @rule(seconds=st.sampled_from([0.5, 1.0, 5.0, 20.0, 150.0, 900.0]))
    def time_passes(self, seconds: float) -> None:
        self.rig.clock.advance(seconds)

    @rule()
    def upkeep(self) -> None:
        for part in (self.rig.tasks.upkeep, self.rig.tasks.queue.look_for_space):
            self.do(part())

    @precondition(lambda self: self.age > 6)
    @rule()
    def crash(self) -> None:
        self.restart()

    @precondition(lambda self: self.age > 6)
    @rule()
    def stop_and_start(self) -> None:
        self.rig.tasks.refuse_new()
        self.do(self.rig.tasks.stop())
        self.do(self.rig.tasks.uploads.abort_all())
        assert self.rig.runner.running == []
        assert self.rig.store.in_states([State.PROCESSING, State.UPLOADING]) == []
        self.restart()

    # --- what always holds ---------------------------------------------------------------------

    @invariant()
    def look(self) -> None:
        type(self).steps += 1
        self.age += 1
        rows = {task.task_id: task for task in self.rig.store.in_states(list(State))}
        self.look_at_tasks(rows)
        self.look_at_slots(rows)
        self.look_at_queue(rows)
        self.look_at_files(rows)
        self.look_at_watches(rows)

    def look_at_tasks(self, rows: dict[str, Any]) -> None:
        """Accepted tasks are known, and ended tasks stay ended."""
        for task_id in self.accepted:
            state = rows[task_id].state
            assert state not in (State.UPLOADING, State.PARTIAL)
            if task_id in self.ended:
                assert state in (self.ended[task_id], State.EXPIRED)
            if state in TERMINAL:
                self.ended[task_id] = state

    def look_at_slots(self, rows: dict[str, Any]) -> None:
        """Nobody has more slots than allowed, and each upload's slot belongs to a session."""
        taken = Counter(task.peer for task in rows.values() if task.state in ACTIVE)
        assert all(count <= SETTINGS.tasks_per_ip for count in taken.values()), taken
        uploading = {t.task_id for t in rows.values() if t.state is State.UPLOADING}
        sessions = {s.session.task.task_id for s in self.sendings if not s.session.over}
        assert uploading == sessions

    def look_at_queue(self, rows: dict[str, Any]) -> None:
        """Memory and store agree, and no task waits that could run."""
        queue = self.rig.tasks.queue
        waiting = {t.task_id for t in rows.values() if t.state is State.QUEUED}
        working = {t.task_id for t in rows.values() if t.state is State.PROCESSING}
        assert (queue.queued, queue.running) == (len(waiting), len(working))
        assert all(queue.get(task_id) is not None for task_id in waiting | working)
        assert len(self.rig.runner.running) == len(working)
        commands = {c.workspace.folder_key.split("/")[1] for c in self.rig.runner.running}
        assert commands == working
        now = self.rig.clock.seconds()
        ready = [
            rows[task_id]
            for task_id in waiting
            if (rows[task_id].not_before or 0) <= now and queue.view(task_id) is not None
        ]
        suspects = any(task.crashes >= 3 for task in rows.values() if task.state in ACTIVE)
        if ready and not suspects:
            assert queue.running >= queue.concurrency, [task.task_id for task in ready]

    def look_at_files(self, rows: dict[str, Any]) -> None:
        """Each file belongs to a row, each row has its files, and the count of bytes is right."""
        folders = {name: set(os.listdir(self.root / name)) for name in ("inputs", "uploads")}
        pending = {t.task_id for t in rows.values() if t.state in (State.QUEUED, State.PROCESSING)}
        assert folders["inputs"] == pending
        for task_id in pending:
            assert (self.root / "inputs" / task_id).read_bytes() == FILM
        coming = {t.task_id for t in rows.values() if t.state in (State.UPLOADING, State.PARTIAL)}
        assert folders["uploads"] <= coming, (folders["uploads"], coming)
        working = {t.task_id for t in rows.values() if t.state is State.PROCESSING}
        assert set(os.listdir(self.root / "work")) <= working
        results = {Path(t.output_key).name for t in rows.values() if t.output_key is not None}
        assert set(os.listdir(self.root / "results")) == results
        space = self.rig.storage.space
        reserved = set(space._reserved)
        assert reserved <= {t.task_id for t in rows.values() if t.state in ACTIVE}, reserved
        assert space.used + space.reserved <= LIMIT

    def look_at_watches(self, rows: dict[str, Any]) -> None:
        """Each watch gets the end once, as its last status, and does not stay after that."""
        live = 0
        for watching in self.watchings:
            ends = [view.terminal for view in watching.views]
            assert sum(ends) <= 1 and not any(ends[:-1])
            over = rows[watching.task_id].state in TERMINAL
            if watching.stopped:
                continue
            assert (sum(ends) == 1) == over
            live += not over
        assert len(self.rig.tasks.queue.watches) == live
        self.watchings = [w for w in self.watchings if not w.stopped and not any_end(w)]


def any_end(watching: Watching) -> bool:
    """Return whether a watch has seen its task's end."""
    return any(view.terminal for view in watching.views)


class StateMachineTests(SynchronousTestCase):
    def test_any_order_of_events_keeps_the_invariants(self) -> None:
        """In at least `STEPS` steps."""
        ServiceMachine.steps = 0
        run_state_machine_as_test(
            ServiceMachine,
            settings=settings(
                max_examples=145,
                stateful_step_count=100,
                derandomize=True,
                database=None,
                deadline=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
        self.flushLoggedErrors()
        self.assertGreaterEqual(ServiceMachine.steps, STEPS)
