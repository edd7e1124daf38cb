"""The queue: which task is processed when.

Whatever happens to a task after it was claimed, its place becomes free in the end: `_see_through`
runs an attempt and catches everything, and notifying others (`Watches`) never raises.
"""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Coroutine, Sequence
from typing import Any

from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.task import deferLater

from vidproc.errors import ServiceError
from vidproc.files.threads import when_fired
from vidproc.request_id import within
from vidproc.runners.interface import Runner
from vidproc.tasks.closing import FREE, STORE_RETRY, Closing
from vidproc.tasks.endings import Ending, ending_of, fault_with_reference
from vidproc.tasks.entries import Entries, Entry
from vidproc.tasks.execution import Attempt, StopReason
from vidproc.tasks.foundation import Foundation
from vidproc.tasks.model import TERMINAL, InvalidTransition, State, Task
from vidproc.tasks.orders import Order
from vidproc.tasks.output_space import reserve_output
from vidproc.tasks.places import Places
from vidproc.tasks.results import Results
from vidproc.tasks.space_waiting import SpaceWaiting
from vidproc.tasks.store.attempt_rows import LEASE
from vidproc.tasks.store_errors import explain_store_error
from vidproc.tasks.views import TaskView, view_of_ended
from vidproc.tasks.watches import Watches
from vidproc.topics import Topic, TopicLogger


class Queue:
    """Keeps at most `concurrency` attempts running, oldest task first, and sometimes a short one
    in addition.

    Tasks that are queued or processing are kept in memory; the store has all of them.
    """

    log = TopicLogger(Topic.TASKS)

    def __init__(
        self,
        foundation: Foundation,
        *,
        results: Results,
        runner: Runner,
        cores: int,
    ) -> None:
        self.settings = foundation.settings
        self.watches = Watches(self.view)
        self._owner = secrets.token_hex(8)
        self._reactor = foundation.reactor
        self._data_folder = foundation.data_folder
        self._space = foundation.data_folder.space
        self._results = results
        self._disk = foundation.disk
        self._store = foundation.store
        self._store_thread = foundation.store_thread
        self._runner = runner
        self._cores = cores
        self._entries = Entries()
        concurrency = self.settings.max_concurrent or max(2, cores // 2)
        self._places = Places(self._entries, concurrency, self._reactor.seconds)
        self._closing = Closing(foundation, self._task_ended)
        self._space_waiting = SpaceWaiting(
            self._entries, self._space, results, self._closing, self._fill
        )
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
        return self._entries.view(task_id, self._reactor.seconds())

    @property
    def concurrency(self) -> int:
        """Attempts that may run at a time."""
        return self._places.concurrency

    @property
    def queued(self) -> int:
        """Tasks waiting."""
        return len(self._entries) - self.running

    @property
    def running(self) -> int:
        """Tasks being processed."""
        return len(self._entries.attempts())

    @property
    def stopping(self) -> bool:
        """Whether no further attempt starts."""
        return self._stopping

    # --- start, stop, upkeep -------------------------------------------------------------------

    def start(self, left: Sequence[Task]) -> None:
        """Take in the queued tasks that an earlier run left, and start."""
        for task in left:
            try:
                entry = self._entries.take_in(task)
            except ServiceError as error:  # from a version with other operations
                self._surely(self._closing.refuse(task, error))
                continue
            estimate = entry.order.estimate_size(task.input_size)
            self._space.restore(task.task_id, estimate, task.peer)
        if left:
            self.log.info("{count} tasks were left from before", count=len(left))
        self._fill()

    async def stop(self) -> None:
        """Stop the running attempts and put them back into the queue."""
        self.refuse_new()
        for attempt in self._entries.attempts():
            attempt.stop(StopReason.STOPPING)
        if self._filling is not None:  # a claim in progress puts its task back
            await when_fired(self._filling)
        for entry in list(self._entries.values()):
            if entry.attempt is not None:
                await when_fired(entry.ended)

    def refuse_new(self) -> None:
        """Start no further attempts."""
        self._stopping = True
        if self._wake is not None and self._wake.active():
            self._wake.cancel()

    def set_concurrency(self, wanted: int) -> None:
        """Change how many attempts run at a time; those that are running continue."""
        self._places.concurrency = max(1, wanted)
        self._fill()

    def held_up(self) -> Task | None:
        """Return a short task that waits behind long ones, or None if none may start early."""
        return self._places.held_up()

    def let_by(self, task: Task) -> None:
        """Start a waiting task now, in addition to `concurrency`."""
        self._places.beside = task.task_id
        self._fill()

    async def renew_leases(self) -> None:
        """Note in the store that this server is alive."""
        if self.running:
            await self._store_thread.call(
                self._store.attempts.renew_leases, self._owner, self._reactor.seconds() + LEASE
            )

    # --- taking tasks --------------------------------------------------------------------------

    def enqueue(self, task: Task, order: Order) -> None:
        """Take in a task that was just accepted. Never raises, because acceptance is a promise."""
        try:
            self._entries.take_in(task, order)
        except Exception:
            self._surely(
                self._closing.refuse(task, fault_with_reference("task {task_id}: refused", task))
            )
        else:
            self._fill()

    def _fill(self) -> None:
        """Start attempts until `concurrency` of them run or no task waits."""
        self._fill_again = True
        if self._filling is None:
            self._filling = Deferred()
            with within(None):  # whichever request is the occasion, others may begin
                self._surely(self._fill_all())

    async def _fill_all(self) -> None:
        try:
            while self._fill_again and not self._stopping:
                self._fill_again = False
                await self._fill_places()
        except Exception:
            self.log.failure("the queue can't continue; trying again")
            self._reactor.callLater(STORE_RETRY, self._fill)
        filled, self._filling = self._filling, None
        if filled is not None:
            filled.callback(None)

    async def _fill_places(self) -> None:
        places = self._places
        if places.beside is not None and not self._entries.runs(places.beside):
            await self._claim(places.beside)
            if places.beside is not None and not self._entries.runs(places.beside):
                places.beside = None  # cancelled meanwhile
        while places.free and self.queued > 0 and await self._claim():
            pass

    def _wake_when_due(self, asked_at: float) -> None:
        """Set a timer for the next task that was not due yet at `asked_at`."""
        due = self._places.next_due(asked_at)
        if due is not None and not self._stopping:
            if self._wake is not None and self._wake.active():
                self._wake.cancel()
            self._wake = self._reactor.callLater(
                max(0.0, due - self._reactor.seconds()), self._fill
            )

    async def _claim(self, only: str | None = None) -> bool:
        """Start the oldest waiting task, or `only` that one. Return whether there was one."""
        now = self._reactor.seconds()
        task = await self._store_thread.call(
            self._store.attempts.claim_next,
            self._owner,
            now,
            now + LEASE,
            only,
            alone=self.running == 0,
            # One that is put back begins again when what its attempt left has been removed.
            but=[
                task_id
                for task_id, entry in self._entries.items()
                if entry.waits_for or entry.attempt is not None
            ],
        )
        if task is None:
            self._wake_when_due(now)
            return False
        if self._stopping:
            await self._closing.move_surely(task.task_id, State.QUEUED, FREE)
            return False
        try:
            entry = self._entries.get(task.task_id) or self._entries.take_in(task)
            entry.task, entry.wait_reason, entry.ended = task, None, Deferred()
            entry.attempt = attempt = self._new_attempt(entry)
        except Exception:
            await self._closing.refuse(
                task, fault_with_reference("task {task_id} can't begin", task)
            )
        else:
            with within(task.request_id):
                self._surely(self._see_through(entry, attempt))
        return True

    def _new_attempt(self, entry: Entry) -> Attempt:
        task = entry.task
        side_by_side = self.running + 1
        return Attempt(
            task,
            entry.order.operation,
            entry.order.parameters,
            data_folder=self._data_folder,
            disk=self._disk,
            runner=self._runner,
            capabilities=self._runner.capabilities,
            threads=max(min(self._cores, 2), -(-self._cores // side_by_side)),
            started_at=self._reactor.seconds(),
            on_change=lambda: self.watches.changed(task.task_id),
            on_progress=lambda: self.watches.progressed(task.task_id),
            reserve=lambda size: reserve_output(
                self._space, self._results, task, max(size, entry.needs)
            ),
        )

    def _surely(self, work: Coroutine[Any, Any, None]) -> Deferred[None]:
        """Run a coroutine. If it fails, that is a fault of ours and is logged."""
        return ensureDeferred(work).addErrback(
            lambda failure: self.log.failure("a fault in the queue", failure)
        )

    # --- one attempt ---------------------------------------------------------------------------

    async def _see_through(self, entry: Entry, attempt: Attempt) -> None:
        """Run one attempt to its end and free its place, whatever happens."""
        try:
            await self._attempt_and_move(entry, attempt)
        except Exception:
            await self._closing.put_right(entry.task)
        # Not in a `finally`: that would also run in a coroutine discarded with its reactor.
        if entry.attempt is attempt:
            self._forget(entry.task.task_id)
        if self._places.beside == entry.task.task_id:
            self._places.beside = None
        entry.ended.callback(None)
        self._fill()

    async def _attempt_and_move(self, entry: Entry, attempt: Attempt) -> None:
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
            await self._closing.end(task, ending)
        else:
            await self._put_back(entry, ending)

    def _announce(self, entry: Entry, attempt: Attempt) -> None:
        self.log.info(
            "task {task_id} starts: {type}, attempt {attempt}, {threads} threads",
            task_id=entry.task.task_id,
            type=entry.task.type,
            attempt=entry.task.attempt,
            threads=attempt.threads,
        )
        self._tell_waiting()
        self.watches.changed(entry.task.task_id)

    async def _put_back(self, entry: Entry, ending: Ending) -> None:
        """Put a task back into the queue for its next attempt."""
        fields = {**FREE, **ending.fields}
        if ending.delay:
            fields["not_before"] = self._reactor.seconds() + ending.delay
        moved = await self._closing.move_surely(entry.task.task_id, State.QUEUED, fields)
        await self._closing.remove_work(moved.task_id)
        entry.needs = max(entry.needs, ending.needs)
        entry.kills = max(entry.kills, ending.kills)
        entry.waits_for = ending.waits_for
        if entry.waits_for:  # while it waits, nothing is reserved for it
            self._space.release(moved.task_id)
        entry.task, entry.attempt, entry.wait_reason = moved, None, ending.wait_reason
        self.watches.changed(moved.task_id)

    # --- space ---------------------------------------------------------------------------------

    async def look_for_space(self) -> None:
        """Let a task that waits for space continue, if there is some; for upkeep."""
        await self._space_waiting.look()

    async def check_growth(self) -> None:
        """Stop attempts that write more than was reserved for them."""
        for attempt in self._entries.attempts():
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

    async def _cancel_waiting(self, entry: Entry) -> None:
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
                await self._closing.put_right(task)  # it ended without us
            elif self._filling is not None:
                await when_fired(self._filling)  # it was claimed meanwhile
            else:
                await deferLater(self._reactor, 0.01)
        except KeyError:
            await self._closing.put_right(task)
        except sqlite3.Error as error:
            self.log.error(
                "task {task_id} can't be cancelled: {error}", task_id=task.task_id, error=str(error)
            )
            raise explain_store_error(error) from error
        else:
            await self._closing.ended(moved, task.input_key)

    def _task_ended(self, task: Task) -> None:
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

    def _tell_waiting(self) -> None:
        """Tell those who watch queued tasks that these moved up."""
        for task_id in self.watches.task_ids:
            task = self.get(task_id)
            if task is not None and task.state is State.QUEUED:
                self.watches.changed(task_id)
