"""The queue: which task is worked on when.

Whatever happens between taking a task and ending it gives its place back: an attempt runs inside
`_see_through`, which catches everything, and nothing that is told to others (`Watches`) can raise.
"""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import msgspec
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import deferLater

from vidproc.errors import ServiceError
from vidproc.files.data_folder import DataFolder, work_key
from vidproc.files.space import no_space
from vidproc.files.threads import WorkerThreads, when_fired
from vidproc.operations.base import Operation
from vidproc.operations.parameters import Parameters, parse_parameters
from vidproc.operations.registry import get_operation
from vidproc.runners.interface import Runner
from vidproc.tasks.endings import Ending, ending_of, failure_of, fault_with_reference
from vidproc.tasks.execution import Attempt, StopReason
from vidproc.tasks.model import TERMINAL, InvalidTransition, State, Task
from vidproc.tasks.output_space import reserve_output
from vidproc.tasks.results import Results
from vidproc.tasks.settings import Settings
from vidproc.tasks.store.attempt_rows import LEASE, SUSPECT_AFTER
from vidproc.tasks.store.store import TaskStore
from vidproc.tasks.store_errors import explain_store_error
from vidproc.tasks.views import TaskView, view_of_ended
from vidproc.tasks.watches import Watches
from vidproc.topics import Topic, TopicLogger

LONG = 15.0
"""Seconds after which a running task counts as long."""
SUSPECT_PATIENCE = 600.0
"""Seconds for which a task that must run alone lets others go first."""
_STORE_RETRY = 2.0
_FREE: dict[str, Any] = {"owner": None, "lease_until": None}


@dataclass(slots=True)
class _Entry:
    """A task in memory, with what its request means, and the attempt under way.

    `ended` fires when the attempt has given its place back.
    """

    task: Task
    operation: Operation[Any]
    parameters: Parameters
    attempt: Attempt | None = None
    needs: int = 0
    """Bytes that an attempt has outgrown, doubled: what the next one reserves at least."""
    kills: int = 0
    """Attempts whose program was killed from outside, in this life of the server."""
    waits_for: int = 0
    """Bytes that were not free when an attempt began; 0 when it waits for nothing."""
    ended: Deferred[None] = field(default_factory=Deferred)
    wait_reason: str | None = None

    @property
    def short(self) -> bool:
        return self.operation.is_short(self.parameters, self.task.input_size)


class Queue:
    """Keeps at most `concurrency` attempts running, oldest task first, and at times a short one
    beside them.

    Tasks that are queued or processing are kept in memory; the store has all of them.
    """

    log = TopicLogger(Topic.TASKS)

    def __init__(
        self,
        reactor: IReactorTime,
        settings: Settings,
        *,
        data_folder: DataFolder,
        disk: WorkerThreads,
        store: TaskStore,
        store_thread: WorkerThreads,
        results: Results,
        runner: Runner,
        cores: int,
    ) -> None:
        self.settings = settings
        self.concurrency = settings.max_concurrent or max(2, cores // 2)
        self.watches = Watches(self.view)
        self._owner = secrets.token_hex(8)
        self._reactor = reactor
        self._data_folder = data_folder
        self._space = data_folder.space
        self._results = results
        self._disk = disk
        self._store = store
        self._store_thread = store_thread
        self._runner = runner
        self._cores = cores
        self._entries: dict[str, _Entry] = {}
        self._beside: str | None = None
        self._filling: Deferred[None] | None = None
        self._fill_again = False
        self._stopping = False
        self._wake: IDelayedCall | None = None

    # --- what it holds -------------------------------------------------------------------------

    def get(self, task_id: str) -> Task | None:
        """Return a queued or processing task; None for any other."""
        entry = self._entries.get(task_id)
        return None if entry is None else entry.task

    def view(self, task_id: str) -> TaskView | None:
        """Return a queued or processing task as it is now; None for any other."""
        entry = self._entries.get(task_id)
        if entry is None:
            return None
        task, attempt = entry.task, entry.attempt
        if attempt is None:
            queued = [other.task_id for other in self._waiting()]
            position = queued.index(task_id) + 1 if task_id in queued else None
            return TaskView(
                task,
                "waiting for storage" if entry.waits_for else "queued",
                queue_position=position,
                wait_reason=entry.wait_reason,
                warnings=tuple(task.warnings),
            )
        elapsed = self._reactor.seconds() - attempt.started_at
        progress = attempt.progress
        eta = elapsed * (1 - progress) / progress if progress > 0.02 else None
        return TaskView(
            task,
            attempt.stage,
            progress=progress,
            eta=eta,
            speed=attempt.speed,
            warnings=tuple(attempt.warnings),
            input=attempt.input,
        )

    def _waiting(self) -> Iterable[Task]:
        return (entry.task for entry in self._entries.values() if entry.task.state is State.QUEUED)

    def _attempts(self) -> list[Attempt]:
        return [entry.attempt for entry in self._entries.values() if entry.attempt is not None]

    @property
    def queued(self) -> int:
        """Tasks waiting."""
        return len(self._entries) - self.running

    @property
    def running(self) -> int:
        """Tasks being worked on."""
        return len(self._attempts())

    @property
    def stopping(self) -> bool:
        """Whether no further attempt begins."""
        return self._stopping

    # --- start, stop, upkeep -------------------------------------------------------------------

    def start(self, left: Sequence[Task]) -> None:
        """Take up the queued tasks that an earlier run has left, and begin."""
        for task in left:
            try:
                entry = self._take_in(task)
            except ServiceError as error:  # of a version that knew other operations
                self._surely(self._refuse(task, error))
                continue
            estimate = entry.operation.estimate_size(entry.parameters, task.input_size)
            self._space.restore(task.task_id, estimate, task.peer)
        if left:
            self.log.info("{count} tasks were left from before", count=len(left))
        self._fill()

    async def stop(self) -> None:
        """Stop the running attempts and put them back into the queue."""
        self.refuse_new()
        for attempt in self._attempts():
            attempt.stop(StopReason.STOPPING)
        if self._filling is not None:  # a claim that is under way puts its task back
            await when_fired(self._filling)
        for entry in list(self._entries.values()):
            if entry.attempt is not None:
                await when_fired(entry.ended)

    def refuse_new(self) -> None:
        """Begin no further attempt."""
        self._stopping = True
        if self._wake is not None and self._wake.active():
            self._wake.cancel()

    def set_concurrency(self, wanted: int) -> None:
        """Run so many attempts at a time from now on; those running go on."""
        self.concurrency = max(1, wanted)
        self._fill()

    def held_up(self) -> Task | None:
        """Return a short task that waits behind long ones; None when there is none to let by."""
        attempts = self._attempts()
        if self._beside is not None or len(attempts) < self.concurrency:
            return None
        if any(suspect(attempt.task) for attempt in attempts):
            return None
        now = self._reactor.seconds()
        if any(now - attempt.started_at < LONG for attempt in attempts):
            return None
        waiting = (e for e in self._entries.values() if e.task.state is State.QUEUED)
        return next((e.task for e in waiting if e.short and not suspect(e.task)), None)

    def let_by(self, task: Task) -> None:
        """Begin a waiting task now, one more than `concurrency`."""
        self._beside = task.task_id
        self._fill()

    async def renew_leases(self) -> None:
        """Note in the store that we are alive."""
        if self.running:
            await self._store_thread.call(
                self._store.attempts.renew_leases, self._owner, self._reactor.seconds() + LEASE
            )

    # --- taking tasks --------------------------------------------------------------------------

    def enqueue(self, task: Task) -> None:
        """Take in a task that has just been accepted. Raises nothing: it is a promise by now."""
        try:
            self._take_in(task)
        except Exception:
            self._surely(self._refuse(task, fault_with_reference("task {task_id}: refused", task)))
        else:
            self._fill()

    def _take_in(self, task: Task) -> _Entry:
        parameters, _ = parse_parameters(task.type, task.parameters)
        entry = _Entry(task, get_operation(task.type), parameters)
        self._entries[task.task_id] = entry
        return entry

    def _fill(self) -> None:
        """Begin attempts until `concurrency` run or nothing waits."""
        self._fill_again = True
        if self._filling is None:
            self._filling = Deferred()
            self._surely(self._fill_all())

    async def _fill_all(self) -> None:
        try:
            while self._fill_again and not self._stopping:
                self._fill_again = False
                await self._fill_places()
        except Exception:
            self.log.failure("the queue can't go on; trying again")
            self._reactor.callLater(_STORE_RETRY, self._fill)
        filled, self._filling = self._filling, None
        if filled is not None:
            filled.callback(None)

    async def _fill_places(self) -> None:
        if self._beside is not None and not self._runs(self._beside):
            await self._claim(self._beside)
            if self._beside is not None and not self._runs(self._beside):
                self._beside = None  # cancelled meanwhile
        while self._has_place() and self.queued > 0 and await self._claim():
            pass

    def _runs(self, task_id: str) -> bool:
        entry = self._entries.get(task_id)
        return entry is not None and entry.attempt is not None

    def _wake_for_delayed(self, now: float) -> None:
        """Look again when the first task that waits for its next try may be tried."""
        due = [task.not_before for task in self._waiting() if task.not_before is not None]
        later = [moment for moment in due if moment > now]
        if later and not self._stopping:
            if self._wake is not None and self._wake.active():
                self._wake.cancel()
            self._wake = self._reactor.callLater(min(later) - now, self._fill)

    def _has_place(self) -> bool:
        if any(suspect(attempt.task) for attempt in self._attempts()):
            return False
        patience_ends = self._reactor.seconds() - SUSPECT_PATIENCE
        if self.running and any(
            suspect(task) and (task.not_before or 0) < patience_ends for task in self._waiting()
        ):
            return False
        beside = self._beside is not None and self._runs(self._beside)
        return self.running - beside < self.concurrency

    async def _claim(self, only: str | None = None) -> bool:
        """Begin the oldest waiting task, or `only` that one; return whether there was one."""
        now = self._reactor.seconds()
        task = await self._store_thread.call(
            self._store.attempts.claim_next,
            self._owner,
            now,
            now + LEASE,
            only,
            alone=self.running == 0,
            but=[task_id for task_id, entry in self._entries.items() if entry.waits_for],
        )
        if task is None:
            self._wake_for_delayed(now)
            return False
        if self._stopping:
            await self._move_surely(task.task_id, State.QUEUED, _FREE)
            return False
        try:
            entry = self._entries.get(task.task_id) or self._take_in(task)
            entry.task, entry.wait_reason, entry.ended = task, None, Deferred()
            entry.attempt = attempt = self._new_attempt(entry)
        except Exception:
            await self._refuse(task, fault_with_reference("task {task_id} can't begin", task))
        else:
            self._surely(self._see_through(entry, attempt))
        return True

    def _new_attempt(self, entry: _Entry) -> Attempt:
        task = entry.task
        side_by_side = self.running + 1
        return Attempt(
            task,
            entry.operation,
            entry.parameters,
            data_folder=self._data_folder,
            disk=self._disk,
            runner=self._runner,
            capabilities=self._runner.capabilities,
            threads=max(min(self._cores, 2), -(-self._cores // side_by_side)),
            started_at=self._reactor.seconds(),
            on_change=lambda: self.watches.changed(task.task_id),
            reserve=lambda size: reserve_output(
                self._space, self._results, task, max(size, entry.needs)
            ),
        )

    def _surely(self, work: Any) -> Deferred[None]:
        """Run a coroutine whose failure is a fault of ours, for the log alone."""
        return ensureDeferred(work).addErrback(
            lambda failure: self.log.failure("a fault in the queue", failure)
        )

    # --- one attempt ---------------------------------------------------------------------------

    async def _see_through(self, entry: _Entry, attempt: Attempt) -> None:
        """See one attempt through, and give its place back whatever happens in it."""
        try:
            await self._attempt_and_move(entry, attempt)
        except Exception:
            await self._put_right(entry.task)
        # Not in a `finally`: a coroutine that is thrown away with its reactor does nothing more.
        if entry.attempt is attempt:
            self._forget(entry.task.task_id)
        if self._beside == entry.task.task_id:
            self._beside = None
        entry.ended.callback(None)
        self._fill()

    async def _attempt_and_move(self, entry: _Entry, attempt: Attempt) -> None:
        task, timeout = entry.task, self.settings.job_timeout
        timer = self._reactor.callLater(timeout, attempt.stop, StopReason.TIMED_OUT)
        try:
            self._announce(entry, attempt)
            ending = await ending_of(attempt, timeout, lambda: self._stopping, entry.kills)
        finally:
            if timer.active():
                timer.cancel()
        if ending.state is State.COMPLETED:
            self._space.stored(task.task_id, ending.fields["output_size"])
        if ending.state in TERMINAL:
            await self._end(task, ending)
        else:
            await self._put_back(entry, ending)

    def _announce(self, entry: _Entry, attempt: Attempt) -> None:
        self.log.info(
            "task {task_id} starts: {type}, attempt {attempt}, {threads} threads",
            task_id=entry.task.task_id,
            type=entry.task.type,
            attempt=entry.task.attempt,
            threads=attempt.threads,
        )
        self._tell_waiting()
        self.watches.changed(entry.task.task_id)

    async def _put_back(self, entry: _Entry, ending: Ending) -> None:
        """Let a task wait for its next attempt."""
        fields = {**_FREE, **ending.fields}
        if ending.delay:
            fields["not_before"] = self._reactor.seconds() + ending.delay
        moved = await self._move_surely(entry.task.task_id, State.QUEUED, fields)
        await self._remove_file(work_key(moved.task_id), 0)
        entry.needs = max(entry.needs, ending.needs)
        entry.kills = max(entry.kills, ending.kills)
        entry.waits_for = ending.waits_for
        if entry.waits_for:  # for as long as it waits, nothing is reserved for it
            self._space.release(moved.task_id)
        entry.task, entry.attempt, entry.wait_reason = moved, None, ending.wait_reason
        self.watches.changed(moved.task_id)

    async def _end(self, task: Task, ending: Ending) -> None:
        """End a task that is queued or processing."""
        last = {**_FREE, "completed_at": self._reactor.seconds(), "input_key": None}
        try:
            moved = await self._move_surely(task.task_id, ending.state, {**last, **ending.fields})
        except (TypeError, ValueError):  # a field that the store can't hold
            error = fault_with_reference("task {task_id} can't be stored", task)
            moved = await self._move_surely(
                task.task_id, State.FAILED, {**last, "failure": failure_of(error)}
            )
        await self._remove_file(work_key(task.task_id), 0)
        await self._leave(moved, task.input_key)

    async def _refuse(self, task: Task, error: ServiceError) -> None:
        """Fail a task that can't be worked on."""
        await self._end(task, Ending(State.FAILED, {"failure": failure_of(error)}))

    async def _put_right(self, task: Task) -> None:
        """Handle an exception that left a task without an end: end it, whatever its row says."""
        error = fault_with_reference("task {task_id}: an attempt has no end", task)
        try:
            row = await self._store_thread.call(self._store.get, task.task_id)
            if row is None:  # somebody else removed it
                lost = {"state": State.FAILED, "failure": failure_of(error)}
                await self._leave(msgspec.structs.replace(task, **lost), task.input_key)
            elif row.state in TERMINAL:
                await self._leave(row, task.input_key)
            else:
                await self._refuse(row, error)
        except Exception:
            self.log.failure("task {task_id} stays as it is", task_id=task.task_id)

    async def _move_surely(self, task_id: str, to: State, fields: dict[str, Any]) -> Task:
        """Move a task; a store that fails (a full disk) is tried again until it does not."""
        while True:
            try:
                return await self._store_thread.call(self._store.move, task_id, to, **fields)
            except (sqlite3.Error, OSError):
                self.log.failure("task {task_id} can't be stored; trying again", task_id=task_id)
                await deferLater(self._reactor, _STORE_RETRY)

    # --- space ---------------------------------------------------------------------------------

    async def look_for_space(self) -> None:
        """Let tasks go on that wait for space, when there is some; for upkeep."""
        waiting = [entry for entry in self._entries.values() if entry.waits_for]
        for entry in waiting:
            lacking = partial(self._lacking, entry)
            if await self._results.make_space(lacking, lacking, unfetched=True) <= 0:
                entry.waits_for, entry.wait_reason = 0, None
                self._fill()
                return  # it reserves first; the others are looked at next time
        if waiting and self.running == 0:
            # Inputs that wait may hold the space that all of them wait for.
            inputs = sum(entry.task.input_size for entry in self._entries.values())
            first = waiting[0]
            if inputs + first.waits_for > self._space.capacity():
                await self._refuse(first.task, no_space(first.waits_for))

    def _lacking(self, entry: _Entry) -> int:
        """Return the bytes that must become free for a task that waits for space."""
        return entry.waits_for - self._space.free()

    async def check_growth(self) -> None:
        """Stop attempts that write more than was reserved for them."""
        for attempt in self._attempts():
            await attempt.check_growth()

    # --- the end of a task ---------------------------------------------------------------------

    async def cancel(self, task_id: str) -> None:
        """End a task if it is queued or processing. Raises `ServiceError` 507 or 500."""
        while (entry := self._entries.get(task_id)) is not None:
            if entry.attempt is not None:
                entry.attempt.stop(StopReason.CANCELLED)
                await when_fired(entry.ended)
            else:
                await self._cancel_waiting(entry)

    async def _cancel_waiting(self, entry: _Entry) -> None:
        task = entry.task
        try:
            moved = await self._store_thread.call(
                self._store.move,
                task.task_id,
                State.CANCELLED,
                expected=State.QUEUED,
                completed_at=self._reactor.seconds(),
                input_key=None,
            )
        except InvalidTransition as error:
            if error.current is not State.PROCESSING:
                await self._put_right(task)  # the row has ended without us
            elif self._filling is not None:
                await when_fired(self._filling)  # it was claimed meanwhile
            else:
                await deferLater(self._reactor, 0.01)
        except KeyError:
            await self._put_right(task)
        except sqlite3.Error as error:
            self.log.error(
                "task {task_id} can't be cancelled: {error}", task_id=task.task_id, error=str(error)
            )
            raise explain_store_error(error) from error
        else:
            await self._leave(moved, task.input_key)

    async def _leave(self, task: Task, old_input_key: str | None) -> None:
        """A task has ended, and the store knows: clean up, then tell whoever watches."""
        try:
            await self._remove_file(old_input_key, task.input_size)
        finally:
            self._forget(task.task_id)
            self.watches.ended(view_of_ended(task))
            self._tell_waiting()

    def _forget(self, task_id: str) -> None:
        self._space.release(task_id)
        entry = self._entries.pop(task_id, None)
        if entry is not None:
            entry.attempt = None
        if not self._entries and self._wake is not None and self._wake.active():
            self._wake.cancel()

    async def _remove_file(self, key: str | None, size: int | None) -> None:
        if key is None:
            return
        try:
            await self._disk.call(self._data_folder.remove, key)
        except OSError:
            self.log.failure("{key} can't be removed", key=key)
        else:
            self._space.removed(size or 0)

    def _tell_waiting(self) -> None:
        """Tell whoever watches a queued task that it moved up."""
        for task_id in self.watches.task_ids:
            task = self.get(task_id)
            if task is not None and task.state is State.QUEUED:
                self.watches.changed(task_id)


def suspect(task: Task) -> bool:
    """Return whether the server crashed so often during this task that it must run alone."""
    return task.crashes >= SUSPECT_AFTER
