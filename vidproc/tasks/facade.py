"""The calls that frontends make: everything that the task service can do for them.

All calls may raise `ServiceError`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from vidproc.errors import ErrorCode, ServiceError
from vidproc.files.threads import WorkerThreads
from vidproc.runners.interface import Runner
from vidproc.tasks.ended_tasks import EndedTasks
from vidproc.tasks.foundation import Foundation
from vidproc.tasks.model import State, Task
from vidproc.tasks.orders import Order
from vidproc.tasks.queue import Queue
from vidproc.tasks.results import Result, Results
from vidproc.tasks.settings import Caller
from vidproc.tasks.uploads.known import UploadView
from vidproc.tasks.uploads.session import AcceptedTask, PartialUpload, UploadSession
from vidproc.tasks.uploads.submission import Submission
from vidproc.tasks.uploads.uploads import Uploads
from vidproc.tasks.views import TaskView, no_such_task, view_of_ended
from vidproc.tasks.watches import Listener, Subscription

ROW_RETENTION = 30 * 86400.0
"""Seconds for which a task is remembered after its files are gone."""
MOST_LISTED = 100
"""The most tasks in a list."""


class Tasks:
    """The tasks of this server, from the upload to the last download of the result.

    `writers` are threads that write uploads, `lookup_thread` is the one in which the store is read;
    `cores` are those that commands may use.
    """

    def __init__(
        self,
        foundation: Foundation,
        *,
        writers: WorkerThreads,
        lookup_thread: WorkerThreads,
        runner: Runner,
        cores: int,
    ) -> None:
        self.settings = foundation.settings
        self.on_accepted: list[Callable[[Task], None]] = []
        """Called with each task that is accepted. They must not raise."""
        self._reactor = foundation.reactor
        self._space = foundation.data_folder.space
        self._store = foundation.store
        self._store_thread = foundation.store_thread
        self._lookup_thread = lookup_thread
        self._ended = EndedTasks()
        self.results = Results(foundation, self._ended)
        self.queue = Queue(foundation, results=self.results, runner=runner, cores=cores)
        self.uploads = Uploads(
            foundation, writers, on_accepted=self._accepted, results=self.results
        )

    def _accepted(self, task: Task, order: Order) -> None:
        for observe in self.on_accepted:
            observe(task)
        self.queue.enqueue(task, order)

    # --- uploads -------------------------------------------------------------------------------

    async def admit(self, submission: Submission, caller: Caller) -> UploadSession | AcceptedTask:
        """Begin an upload; see `Uploads.admit`."""
        if self.queue.stopping:
            raise ServiceError(
                ErrorCode.UNAVAILABLE,
                "The server is shutting down.",
                "Try again in a minute.",
            )
        return await self.uploads.admit(submission, caller)

    async def upload_status(self, upload_id: str, caller: Caller) -> AcceptedTask | PartialUpload:
        """Return how far a resumable upload is; raises `ServiceError` 404."""
        return await self.uploads.status(upload_id, caller)

    async def create_upload(self, submission: Submission, caller: Caller) -> UploadView:
        """Remember an upload before its first byte; see `Uploads.create`."""
        return await self.uploads.create(submission, caller)

    async def describe_upload(self, upload_id: str, caller: Caller) -> UploadView:
        """Return an upload as it is now; raises `ServiceError` 404."""
        return await self.uploads.known.describe(upload_id, caller)

    async def set_upload_length(self, upload_id: str, length: int, caller: Caller) -> UploadView:
        """Note the length of an upload that was created without; see `KnownUploads.set_length`."""
        return await self.uploads.known.set_length(upload_id, length, caller)

    async def abandon_upload(self, upload_id: str, caller: Caller) -> None:
        """Forget an upload and what has arrived of it; raises `ServiceError` 404 or 409."""
        await self.uploads.abandon(upload_id, caller)

    async def has_room(self) -> bool:
        """Return whether there is any free space, or a result that could be removed for some."""
        return self._space.free() > 0 or await self.results.evictable(unfetched=True) > 0

    # --- tasks ---------------------------------------------------------------------------------

    async def status(self, task_id: str, caller: Caller) -> TaskView:
        """Return the current view of a task; raises `ServiceError` 404."""
        task = await self._find(task_id, caller)
        return self.queue.view(task_id) or view_of_ended(task)

    async def watch(
        self, task_id: str, caller: Caller, listener: Listener, *, progress: bool = False
    ) -> tuple[TaskView, Subscription | None]:
        """Return the task as it is now, and a subscription unless it has ended.

        With `progress` the listener is told each time that work on the task has gone on, too.
        """
        task = await self._find(task_id, caller)
        view = self.queue.view(task_id)
        if view is None:
            return view_of_ended(task), None
        return view, self.queue.watches.add(task_id, listener, progress=progress)

    async def list(self, caller: Caller) -> Sequence[TaskView]:
        """Return the token's own tasks, newest first, at most `MOST_LISTED`.

        Raises `ServiceError` 401 when the caller shows no token.
        """
        if caller.principal is None:
            raise ServiceError(
                ErrorCode.UNAUTHORIZED,
                "Only the owner of a token has a list of tasks.",
                "Show your token; a server without --token-file keeps no lists.",
            )
        tasks = await self._lookup_thread.call(self._store.list_own, caller.principal, MOST_LISTED)
        return [self.queue.view(task.task_id) or view_of_ended(task) for task in tasks]

    async def cancel(self, task_id: str, caller: Caller) -> State:
        """End a task and remove its files; return the state that it has then.

        A task that had ended keeps its state and loses its files.
        """
        await self._find(task_id, caller)
        await self.queue.cancel(task_id)
        task = await self._find(task_id, caller)
        await self.results.remove(task)
        self.queue.log.info(
            "task {task_id}: cancel leaves it {state}", task_id=task.task_id, state=task.state
        )
        return task.state

    # --- results -------------------------------------------------------------------------------

    async def result(self, task_id: str, caller: Caller) -> Result:
        """Open a finished task's file; raises `ServiceError` 404, 409 or 410."""
        return await self.results.open(await self._find(task_id, caller))

    async def linked_result(self, task_id: str) -> Result:
        """Open a finished task's file for whoever has a link to it; raises as `result` does."""
        return await self.results.open(await self._find(task_id, None))

    def note_sent(self, result: Result, start: int, end: int) -> None:
        """Note which bytes of a result were sent. Once all were sent, it counts as fetched."""
        self.results.note_sent(result.task, start, end)

    def note_downloaded(self, task_id: str) -> None:
        """Note that a result was fetched completely, so that it may be evicted before others."""
        self.results.note_downloaded(task_id)

    # --- start, stop, upkeep -------------------------------------------------------------------

    def start(self, left: Sequence[Task]) -> None:
        """Start processing, with the queued tasks of earlier runs first."""
        self.queue.start(left)

    def refuse_new(self) -> None:
        """Refuse uploads with 503 from now on, and start no further attempts."""
        self.queue.refuse_new()

    async def stop(self) -> None:
        """Refuse uploads, stop the running attempts and put their tasks back into the queue."""
        await self.queue.stop()

    async def upkeep(self) -> None:
        """Prune interrupted uploads, results, and rows without files."""
        now = self._reactor.seconds()
        await self.uploads.broken.prune(now - self.settings.upload_retention)
        await self.results.prune()
        if await self._store_thread.call(self._store.results.delete_ended, now - ROW_RETENTION):
            self._ended.forget_all()

    async def _find(self, task_id: str, caller: Caller | None) -> Task:
        """Return a task that is known to `caller`, None for anybody; raises `ServiceError` 404."""
        task = self.queue.get(task_id) or self._ended.get(task_id)
        if task is None:
            changes = self._ended.changes
            task = await self._lookup_thread.call(self._store.look_up, task_id)
            if task is not None:
                self._ended.keep(task, changes)
            if task is not None and task.state in (State.QUEUED, State.PROCESSING):
                # It is changing its state. After the store thread's answer the queue knows it, too.
                task = await self._store_thread.call(self._store.get, task_id)
        # It may have been queued, or have ended, while we waited for the store.
        task = self.queue.get(task_id) or task
        if (
            task is None
            or task.state in (State.UPLOADING, State.PARTIAL)
            or (caller is not None and not caller.owns(task, self.settings.owner_only))
        ):
            raise no_such_task()
        return task
