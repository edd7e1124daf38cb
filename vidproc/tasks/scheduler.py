"""The tasks' life after their upload: queue, attempts, watchers, results.

Doors (MMP today) call `admit`, `upload_status`, `status`, `watch`, `result`, `cancel` and
`describe`, and know nothing else. All of them may raise `ServiceError`.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.task import deferLater
from twisted.logger import Logger

from vidproc.errors import ErrorCode, ServiceError
from vidproc.files.data_folder import DataFolder, work_key
from vidproc.files.threads import WorkerThreads, when_fired
from vidproc.operations.base import Capabilities
from vidproc.operations.parameters import Gif, WebM, parse_parameters
from vidproc.operations.registry import get_operation
from vidproc.runners.failures import is_shortage
from vidproc.runners.interface import Runner
from vidproc.tasks.execution import Attempt, AttemptStopped, Outcome
from vidproc.tasks.model import (
    ACTIVE,
    TERMINAL,
    Failure,
    InvalidTransition,
    State,
    Task,
)
from vidproc.tasks.settings import Caller, Settings
from vidproc.tasks.store import LEASE, TaskStore
from vidproc.tasks.uploads import (
    AcceptedTask,
    PartialUpload,
    Submission,
    Uploads,
    UploadSession,
    estimate_output,
    explain_write_error,
)
from vidproc.units import format_duration

ROW_RETENTION = 30 * 86400.0
"""Seconds for which a task is remembered after its files are gone."""
LONG = 15.0
"""Seconds after which a running task counts as long."""
SHORT_CLIP = 30.0
"""Seconds of a GIF or WebM up to which it counts as short."""
SHORT_FILM = 16 << 20
"""Bytes of a film up to which the operations on all of it count as short."""
SHORT_SOUND = 1 << 30
"""The same for `extract_audio`."""
RETRY_DELAY = 1.0
"""Seconds to wait after a first fault of ours, twice as long after the second."""
SHORTAGE_DELAY = 5.0
"""Seconds to wait when no process could be started for lack of descriptors or memory. That is no
failure of the task: it is tried for as long as it takes."""
MAX_FAILURES = 3
"""Attempts that may end in a fault of ours before the task fails."""
_STORE_RETRY = 2.0

_CANCELLED = "cancelled"
_TIMED_OUT = "timed out"
_STOPPING = "stopping"


@dataclass(frozen=True, slots=True)
class TaskView:
    """A task as somebody outside sees it. `progress` 0 to 1, `eta` in seconds, `speed` times real
    time, `queue_position` from 1."""

    task: Task
    stage: str | None = None
    progress: float = 0.0
    eta: float | None = None
    speed: float | None = None
    queue_position: int | None = None
    warnings: tuple[str, ...] = ()
    input: dict[str, Any] = field(default_factory=dict)

    @property
    def terminal(self) -> bool:
        """Whether the task has ended."""
        return self.task.state in TERMINAL


@dataclass(slots=True)
class Result:
    """A finished task's file, open for reading at descriptor `fd`; `close` it when done."""

    task: Task
    fd: int
    size: int
    sha256: str
    media_type: str
    _closed: Callable[[], None]

    def close(self, *, downloaded: bool = False) -> None:
        """Close the file; `downloaded` tells that its last byte was sent."""
        os.close(self.fd)
        self._closed()


class Subscription:
    """A watch on a task: `listener` is called with a `TaskView` on every change, last of all with
    a terminal one."""

    def __init__(
        self, scheduler: Scheduler, task_id: str, listener: Callable[[TaskView], None]
    ) -> None:
        self.task_id = task_id
        self.listener = listener
        self._scheduler = scheduler

    def current(self) -> TaskView | None:
        """Return the task as it is now; None when it has ended and the listener knows."""
        return self._scheduler.view_active(self.task_id)

    def stop(self) -> None:
        """Stop listening. May be called twice."""
        self._scheduler.unwatch(self)


class Scheduler:
    """Keeps at most `concurrency` attempts running, oldest task first, and at times a short one
    beside them.

    Tasks that are queued or processing are kept in memory; the store has all of them.
    """

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        settings: Settings,
        *,
        data_folder: DataFolder,
        disk: WorkerThreads,
        writers: WorkerThreads,
        store: TaskStore,
        store_thread: WorkerThreads,
        lookup_thread: WorkerThreads,
        runner: Runner,
        capabilities: Capabilities,
        cores: int,
    ) -> None:
        self.settings = settings
        self.concurrency = settings.max_concurrent or max(2, cores // 2)
        self.owner = secrets.token_hex(8)
        self._reactor = reactor
        self._data_folder = data_folder
        self._disk = disk
        self._store = store
        self._store_thread = store_thread
        self._lookup_thread = lookup_thread
        self._runner = runner
        self._capabilities = capabilities
        self._cores = cores
        self._active: dict[str, Task] = {}
        self._attempts: dict[str, Attempt] = {}
        self._ended: dict[str, Deferred[None]] = {}
        self._subscriptions: dict[str, set[Subscription]] = {}
        self._downloads: dict[str, int] = {}
        self._beside: str | None = None
        self._filling = False
        self._fill_again = False
        self._stopping = False
        self.uploads = Uploads(
            reactor,
            settings,
            data_folder,
            disk,
            writers,
            store,
            store_thread,
            on_accepted=self._enqueue,
            make_room=self.prune,
        )

    # --- what doors call -----------------------------------------------------------------------

    async def admit(self, submission: Submission, caller: Caller) -> UploadSession | AcceptedTask:
        """Begin an upload; see `Uploads.admit`."""
        if self._stopping:
            raise ServiceError(
                ErrorCode.UNAVAILABLE,
                "The server is shutting down.",
                "Try again in a minute.",
            )
        return await self.uploads.admit(submission, caller)

    async def upload_status(self, upload_id: str, caller: Caller) -> AcceptedTask | PartialUpload:
        """Tell how far a resumable upload is."""
        return await self.uploads.status(upload_id, caller)

    async def status(self, task_id: str, caller: Caller) -> TaskView:
        """Return the task as it is now; raises `ServiceError` 404."""
        task = await self._find(task_id, caller)
        return self.view_active(task_id) or _view_of_ended(task)

    async def watch(
        self, task_id: str, caller: Caller, listener: Callable[[TaskView], None]
    ) -> tuple[TaskView, Subscription | None]:
        """Return the task as it is now, and a subscription unless it has ended."""
        task = await self._find(task_id, caller)
        view = self.view_active(task_id)
        if view is None:
            return _view_of_ended(task), None
        subscription = Subscription(self, task_id, listener)
        self._subscriptions.setdefault(task_id, set()).add(subscription)
        return view, subscription

    async def result(self, task_id: str, caller: Caller) -> Result:
        """Open a finished task's file; raises `ServiceError` 404, 409 or 410."""
        task = await self._find(task_id, caller)
        if task.state is State.EXPIRED or (
            task.state is State.COMPLETED and task.output_key is None
        ):
            raise ServiceError(
                ErrorCode.GONE,
                "The result was removed from the server.",
                "Send the video again.",
            )
        if task.state is not State.COMPLETED:
            raise _not_completed(task)
        assert task.output_key is not None
        path = self._data_folder.path(task.output_key)
        self._downloads[task_id] = self._downloads.get(task_id, 0) + 1
        try:
            fd = await self._disk.call(os.open, path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            self._download_ended(task_id)
            if not isinstance(error, FileNotFoundError):
                raise
            raise ServiceError(
                ErrorCode.GONE,
                "The result was removed from the server.",
                "Send the video again.",
            ) from None
        return Result(
            task=task,
            fd=fd,
            size=task.output_size or 0,
            sha256=task.output_sha256 or "",
            media_type=task.output_type or "",
            _closed=lambda: self._download_ended(task_id),
        )

    def note_downloaded(self, task_id: str) -> None:
        """Remember that a result was fetched whole, so that it may be pruned before others."""
        noting = self._store_thread.call(
            self._store.update, task_id, downloaded_at=self._reactor.seconds()
        )
        noting.addErrback(lambda failure: self.log.failure("a download can't be noted", failure))

    async def cancel(self, task_id: str, caller: Caller) -> State:
        """End a task and remove its files; return the state that it has then.

        A task that had ended keeps its state and loses its files.
        """
        task = await self._find(task_id, caller)
        while task_id in self._active:
            attempt = self._attempts.get(task_id)
            if attempt is not None:
                ended = self._ended[task_id]
                attempt.stop(_CANCELLED)
                await when_fired(ended)
            else:
                try:
                    task = await self._store_thread.call(
                        self._store.move,
                        task_id,
                        State.CANCELLED,
                        expected=State.QUEUED,
                        completed_at=self._reactor.seconds(),
                        input_key=None,
                    )
                except InvalidTransition:
                    # It was claimed meanwhile: the claim's answer is on its way to us.
                    await deferLater(self._reactor, 0.01)
                    continue
                except sqlite3.Error as error:
                    self.log.error(
                        "task {task_id} can't be cancelled: {error}",
                        task_id=task_id,
                        error=str(error),
                    )
                    raise explain_write_error(error) from error
                await self._leave(task, self._active[task_id].input_key)
        task = await self._find(task_id, caller)
        await self._remove_result(task)
        self.log.info("task {task_id}: cancel leaves it {state}", task_id=task_id, state=task.state)
        return task.state

    # --- views ---------------------------------------------------------------------------------

    def view_active(self, task_id: str) -> TaskView | None:
        """Return a queued or processing task as it is now; None for any other."""
        task = self._active.get(task_id)
        if task is None:
            return None
        attempt = self._attempts.get(task_id)
        if attempt is None:
            queued = [t.task_id for t in self._active.values() if t.state is State.QUEUED]
            position = queued.index(task_id) + 1 if task_id in queued else None
            return TaskView(task, "queued", queue_position=position, warnings=tuple(task.warnings))
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

    def unwatch(self, subscription: Subscription) -> None:
        """End a subscription."""
        listeners = self._subscriptions.get(subscription.task_id)
        if listeners is not None:
            listeners.discard(subscription)
            if not listeners:
                del self._subscriptions[subscription.task_id]

    @property
    def queued(self) -> int:
        """Tasks waiting."""
        return len(self._active) - len(self._attempts)

    @property
    def running(self) -> int:
        """Tasks being worked on."""
        return len(self._attempts)

    @property
    def watches(self) -> int:
        """Watches under way."""
        return sum(map(len, self._subscriptions.values()))

    # --- start, stop, upkeep -------------------------------------------------------------------

    def start(self, left: Sequence[Task]) -> None:
        """Take up the queued tasks that an earlier run has left, and begin."""
        for task in left:
            self._active[task.task_id] = task
            self._data_folder.restore(task.task_id, estimate_output(task), task.peer)
        if left:
            self.log.info("{count} tasks were left from before", count=len(left))
        self._fill()

    async def stop(self) -> None:
        """Admit nothing more, stop the running attempts and put them back into the queue."""
        self._stopping = True
        for attempt in list(self._attempts.values()):
            attempt.stop(_STOPPING)
        for ended in list(self._ended.values()):
            await when_fired(ended)

    def refuse_new(self) -> None:
        """Answer 503 to uploads from now on, and begin no further attempt."""
        self._stopping = True

    def set_concurrency(self, wanted: int) -> None:
        """Run so many attempts at a time from now on; those running go on."""
        self.concurrency = max(1, wanted)
        self._fill()

    def held_up(self) -> Task | None:
        """Return a short task that waits behind long ones; None when there is none to let by."""
        if self._beside is not None or len(self._attempts) < self.concurrency:
            return None
        now = self._reactor.seconds()
        if any(now - attempt.started_at < LONG for attempt in self._attempts.values()):
            return None
        waiting = (task for task in self._active.values() if task.state is State.QUEUED)
        return next((task for task in waiting if is_short(task)), None)

    def let_by(self, task: Task) -> None:
        """Begin a waiting task now, one more than `concurrency`."""
        self._beside = task.task_id
        self._fill()

    async def renew_leases(self) -> None:
        """Tell other servers on the same store that we are alive."""
        if self._attempts:
            await self._store_thread.call(
                self._store.renew_leases, self.owner, self._reactor.seconds() + LEASE
            )

    async def upkeep(self) -> None:
        """Forget what is past its time: broken uploads, results, and rows without files."""
        now = self._reactor.seconds()
        await self.uploads.prune(now - self.settings.upload_retention)
        await self.prune()
        await self._store_thread.call(self._store.delete_ended, now - ROW_RETENTION)

    async def prune(self, wanted: int = 0) -> list[str]:
        """Remove results past their retention, and others until `wanted` bytes are free.

        Results that are being downloaded stay. Returns the ids of the tasks that expired.
        """
        now = self._reactor.seconds()
        kept = await self._store_thread.call(self._store.results)
        # Fetched ones first, then the oldest: what nobody has seen yet is missed the most.
        kept.sort(key=lambda t: (t.downloaded_at is None, t.completed_at or 0))
        expired = []
        for number, task in enumerate(kept):
            too_old = (task.completed_at or 0) + self.settings.retention <= now
            if not too_old:
                # Nothing is given up for what does not fit anyway.
                most = sum(t.output_size or 0 for t in kept[number:] if not self._downloading(t))
                if not self._data_folder.free() < wanted <= self._data_folder.free() + most:
                    continue
            if not self._downloading(task) and await self._expire(task):
                expired.append(task.task_id)
                self.log.info("task {task_id}: its result was pruned", task_id=task.task_id)
        return expired

    def _downloading(self, task: Task) -> bool:
        return bool(self._downloads.get(task.task_id))

    async def _expire(self, task: Task) -> bool:
        """Remove a result; return whether it was there to be removed."""
        try:
            await self._store_thread.call(
                self._store.move, task.task_id, State.EXPIRED, output_key=None
            )
        except (InvalidTransition, KeyError):
            return False  # somebody else pruned it meanwhile
        except sqlite3.Error as error:
            # A full disk: the file must go for the row to be written. A row without its file
            # answers 410 as well, and is put right the next time.
            self.log.warn("task {task_id}: {error}", task_id=task.task_id, error=str(error))
        await self._remove_file(task.output_key, task.output_size)
        return True

    # --- the queue -----------------------------------------------------------------------------

    def _enqueue(self, task: Task) -> None:
        self._active[task.task_id] = task
        self._fill()

    def _fill(self) -> None:
        """Begin attempts until `concurrency` run or nothing waits."""
        self._fill_again = True
        if not self._filling:
            self._filling = True
            ensureDeferred(self._fill_all()).addErrback(
                lambda failure: self.log.failure("the queue is stuck", failure)
            )

    async def _fill_all(self) -> None:
        try:
            while self._fill_again and not self._stopping:
                self._fill_again = False
                if self._beside is not None and self._beside not in self._attempts:
                    await self._claim(self._beside)
                    if self._beside not in self._attempts:
                        self._beside = None  # cancelled meanwhile
                while self._has_room() and self.queued > 0 and await self._claim():
                    pass
        except Exception:
            self.log.failure("the store can't be read; trying again")
            self._reactor.callLater(_STORE_RETRY, self._fill)
        finally:
            self._filling = False

    def _has_room(self) -> bool:
        return len(self._attempts) - (self._beside in self._attempts) < self.concurrency

    async def _claim(self, only: str | None = None) -> bool:
        """Begin the oldest waiting task, or `only` that one; return whether there was one."""
        now = self._reactor.seconds()
        task = await self._store_thread.call(
            self._store.claim_next, self.owner, now, now + LEASE, only
        )
        if task is None or self._stopping:
            return False
        self._begin(task)
        return True

    def _begin(self, task: Task) -> None:
        self._active[task.task_id] = task
        side_by_side = len(self._attempts) + 1
        attempt = Attempt(
            task,
            get_operation(task.type),
            data_folder=self._data_folder,
            disk=self._disk,
            runner=self._runner,
            capabilities=self._capabilities,
            threads=max(min(self._cores, 2), -(-self._cores // side_by_side)),
            started_at=self._reactor.seconds(),
            on_change=lambda: self._tell(task.task_id),
        )
        self._attempts[task.task_id] = attempt
        self._tell_queue()
        ended = ensureDeferred(self._work(task, attempt))
        self._ended[task.task_id] = ended
        ended.addErrback(
            lambda failure: self.log.failure(
                "task {task_id} has no end", failure, task_id=task.task_id
            )
        )

    async def _work(self, task: Task, attempt: Attempt) -> None:
        """See one attempt through, whatever happens in it."""
        self.log.info(
            "task {task_id} starts: {type}, attempt {attempt}, {threads} threads",
            task_id=task.task_id,
            type=task.type,
            attempt=task.attempt,
            threads=attempt.threads,
        )
        self._tell(task.task_id)
        timer = self._reactor.callLater(self.settings.job_timeout, attempt.stop, _TIMED_OUT)
        try:
            to, fields = await self._perform(task, attempt)
            if to is State.QUEUED and not self._stopping:
                # What hindered us may pass.
                failures = fields.get("failures")
                delay = RETRY_DELAY * failures if failures else SHORTAGE_DELAY
                await attempt.pause(self._reactor, delay)
                to, _ = self._interrupted(attempt)
        finally:
            if timer.active():
                timer.cancel()
        if to in TERMINAL:
            fields = {"completed_at": self._reactor.seconds(), "input_key": None, **fields}
        try:
            moved = await self._move_surely(
                task.task_id, to, {"owner": None, "lease_until": None, **fields}
            )
            await self._remove_file(work_key(task.task_id), 0)
            if to in TERMINAL:
                await self._leave(moved, task.input_key)
            else:
                del self._attempts[task.task_id]
                self._active[task.task_id] = moved
                self._tell(task.task_id)
        finally:
            self._attempts.pop(task.task_id, None)
            self._ended.pop(task.task_id, None)
            if self._beside == task.task_id:
                self._beside = None
            self._fill()

    async def _perform(self, task: Task, attempt: Attempt) -> tuple[State, dict[str, Any]]:
        """Return the state that an attempt ends in, and the fields to set."""
        try:
            outcome = await attempt.perform()
        except AttemptStopped:
            error = ServiceError(
                ErrorCode.TOO_LARGE,
                f"The task took more than {format_duration(self.settings.job_timeout)}.",
                "Send a shorter or smaller film.",
            )
        except ServiceError as refused:
            error = refused
        except Exception as fault:
            if attempt.stop_reason is not None or self._stopping:
                return self._interrupted(attempt)
            if is_shortage(fault):
                self.log.warn(
                    "task {task_id} goes back to the queue: {fault}",
                    task_id=task.task_id,
                    fault=str(fault),
                )
                return State.QUEUED, {}
            reference = secrets.token_hex(4)
            self.log.failure(
                "task {task_id}: fault {reference}", task_id=task.task_id, reference=reference
            )
            failures = task.failures + 1
            if failures < MAX_FAILURES:
                return State.QUEUED, {"failures": failures}
            error = ServiceError(
                ErrorCode.INTERNAL,
                f"The server failed at this task (reference {reference}).",
                "Try again later; if it happens again, tell the server's operator the reference.",
            )
        else:
            return State.COMPLETED, self._completed(task, outcome)
        if attempt.stop_reason in (_CANCELLED, _STOPPING) or self._stopping:
            # A stop reaches FFmpeg in more ways than ours (systemd signals all of them): whatever
            # it made of it is no failure of the task.
            return self._interrupted(attempt)
        seen = {"input": attempt.input, "warnings": attempt.warnings}
        failure = Failure(
            code=int(error.code), description=error.description, solution=error.solution
        )
        self.log.info(
            "task {task_id} failed: {code} {description}",
            task_id=task.task_id,
            code=failure.code,
            description=failure.description,
        )
        return State.FAILED, {"failure": failure, **seen}

    @staticmethod
    def _interrupted(attempt: Attempt) -> tuple[State, dict[str, Any]]:
        if attempt.stop_reason == _CANCELLED:
            return State.CANCELLED, {}
        return State.QUEUED, {}

    def _completed(self, task: Task, outcome: Outcome) -> dict[str, Any]:
        self._data_folder.stored(task.task_id, outcome.output_size)
        self.log.info(
            "task {task_id} completed: {size} bytes after {elapsed:.1f} s",
            task_id=task.task_id,
            size=outcome.output_size,
            elapsed=self._reactor.seconds() - (task.started_at or 0),
        )
        return {name: getattr(outcome, name) for name in outcome.__struct_fields__}

    async def _move_surely(self, task_id: str, to: State, fields: dict[str, Any]) -> Task:
        """Move a task; a store that fails (a full disk) is tried again until it does not."""
        while True:
            try:
                return await self._store_thread.call(self._store.move, task_id, to, **fields)
            except (InvalidTransition, KeyError):
                raise
            except Exception:
                self.log.failure("task {task_id} can't be stored; trying again", task_id=task_id)
                await deferLater(self._reactor, _STORE_RETRY)

    async def _leave(self, task: Task, old_input_key: str | None) -> None:
        """A task has ended, and the store knows: clean up, then tell whoever watches."""
        await self._remove_file(old_input_key, task.input_size)
        self._data_folder.release(task.task_id)
        self._attempts.pop(task.task_id, None)
        self._active.pop(task.task_id, None)
        view = _view_of_ended(task)
        for subscription in self._subscriptions.pop(task.task_id, set()):
            subscription.listener(view)
        self._tell_queue()

    async def _remove_file(self, key: str | None, size: int | None) -> None:
        if key is None:
            return
        try:
            await self._disk.call(self._data_folder.remove, key)
        except OSError:
            self.log.failure("{key} can't be removed", key=key)
        else:
            self._data_folder.removed(size or 0)

    async def _remove_result(self, task: Task) -> None:
        if task.output_key is not None:
            await self._remove_file(task.output_key, task.output_size)
            await self._store_thread.call(self._store.update, task.task_id, output_key=None)

    async def _find(self, task_id: str, caller: Caller) -> Task:
        task = self._active.get(task_id)
        if task is None:
            task = await self._lookup_thread.call(self._store.look_up, task_id)
        # A task may have been queued or have ended while the store was asked.
        task = self._active.get(task_id, task)
        if (
            task is None
            or task.state in (State.UPLOADING, State.PARTIAL)
            or not caller.owns(task, self.settings.owner_only)
        ):
            raise ServiceError(
                ErrorCode.NOT_FOUND,
                "There is no such task.",
                "Check the task id; it is in the answer to the upload.",
            )
        return task

    def _download_ended(self, task_id: str) -> None:
        left = self._downloads.get(task_id, 1) - 1
        if left > 0:
            self._downloads[task_id] = left
        else:
            self._downloads.pop(task_id, None)

    def _tell(self, task_id: str) -> None:
        """Tell whoever watches a task that it changed."""
        listeners = self._subscriptions.get(task_id)
        view = self.view_active(task_id) if listeners else None
        if listeners and view is not None:
            for subscription in list(listeners):
                subscription.listener(view)

    def _tell_queue(self) -> None:
        """Tell whoever watches a queued task that it moved up."""
        for task_id in list(self._subscriptions):
            task = self._active.get(task_id)
            if task is not None and task.state is State.QUEUED:
                self._tell(task_id)


def is_short(task: Task) -> bool:
    """Whether the work on a task is likely to be over within a minute.

    Nothing but the request and the file's size is known of it yet.
    """
    parameters, _ = parse_parameters(task.type, task.parameters)
    if isinstance(parameters, Gif | WebM):
        return parameters.length <= SHORT_CLIP
    return task.input_size <= (SHORT_SOUND if task.type == "extract_audio" else SHORT_FILM)


def _view_of_ended(task: Task) -> TaskView:
    return TaskView(
        task,
        progress=1.0 if task.state in (State.COMPLETED, State.EXPIRED) else 0.0,
        warnings=tuple(task.warnings),
        input=task.input,
    )


def _not_completed(task: Task) -> ServiceError:
    if task.state in ACTIVE:
        return ServiceError(
            ErrorCode.CONFLICT,
            f"The task is {task.state}, not completed yet.",
            "Ask its status, or watch it, and download when it is completed.",
        )
    why = f": {task.failure.description}" if task.failure else "."
    return ServiceError(
        ErrorCode.CONFLICT,
        f"The task has no result, for it {task.state}{why}"
        if task.state is State.FAILED
        else "The task has no result, for it was cancelled.",
        task.failure.solution if task.failure else "Send the video again.",
    )
