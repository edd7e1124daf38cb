"""The server's uploads: started, taken over, finished, abandoned.

A session's slot is a row in state `UPLOADING`; whatever ends the session frees it.
`accepted` is a promise: the input is on the disk (fsync, rename, fsync of the folder) and the row
committed before the session's `finish` returns it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable
from typing import TypeVar

from twisted.internet.defer import DeferredLock

from vidproc.errors import ServiceError
from vidproc.files.data_folder import input_key, upload_key
from vidproc.files.file_writer import FileWriter, keep_large_blocks
from vidproc.files.threads import WorkerThreads
from vidproc.files.write_budget import WriteBudget
from vidproc.request_id import current_request_id
from vidproc.tasks.foundation import Foundation
from vidproc.tasks.model import State, Task
from vidproc.tasks.orders import Order
from vidproc.tasks.results import Results
from vidproc.tasks.settings import Caller
from vidproc.tasks.store_errors import explain_store_error
from vidproc.tasks.uploads.admission import Admission, Admitted
from vidproc.tasks.uploads.broken import BrokenUploads
from vidproc.tasks.uploads.known import KnownUploads, UploadView
from vidproc.tasks.uploads.refusals import (
    abandoned,
    has_become_a_task,
    require_offset,
    require_owner,
    require_same,
    require_same_checksum,
    wrong_checksum,
)
from vidproc.tasks.uploads.session import AcceptedTask, Ended, PartialUpload, UploadSession
from vidproc.tasks.uploads.submission import Submission, check_submission
from vidproc.text import escape
from vidproc.topics import Topic, TopicLogger

T = TypeVar("T")

SYNC_EVERY = 64 << 20
"""A resumable upload is synced each time that so many more bytes were written. At most twice as
many have to be sent again after a power cut."""


class Uploads:
    """Admits uploads and turns them into queued tasks.

    `on_accepted` is called with the queued task and its order before the client is told; `results`
    can make space.
    """

    log = TopicLogger(Topic.UPLOADS)

    def __init__(
        self,
        foundation: Foundation,
        writers: WorkerThreads,
        *,
        on_accepted: Callable[[Task, Order], None],
        results: Results,
    ) -> None:
        self.settings = foundation.settings
        self._reactor = foundation.reactor
        self._data_folder = foundation.data_folder
        self._disk = foundation.disk
        self._writers = writers
        self._store = foundation.store
        self._store_thread = foundation.store_thread
        self._on_accepted = on_accepted
        self._write_budget = WriteBudget()
        self._sessions: set[UploadSession] = set()
        self._by_upload_id: dict[str, UploadSession] = {}
        self._locks: dict[str, DeferredLock] = {}
        self.known = KnownUploads(
            self._reactor,
            self.settings,
            self._store,
            self._store_thread.call,
            lambda key: self._disk.call(self._data_folder.size, key),
            self._written,
        )
        self.broken = BrokenUploads(foundation)
        self._admission = Admission(foundation, results, self.broken)
        keep_large_blocks()

    def _written(self, upload_id: str) -> int | None:
        session = self._by_upload_id.get(upload_id)
        return None if session is None else session.kept

    @property
    def active(self) -> int:
        """Uploads in progress."""
        return len(self._sessions)

    # --- the beginning -------------------------------------------------------------------------

    async def admit(self, submission: Submission, caller: Caller) -> UploadSession | AcceptedTask:
        """Check a submission, take a slot and space for it, and start the upload.

        Returns `AcceptedTask` if the upload is complete already. Raises `ServiceError`
        400, 409, 413, 415, 422, 429, 503 or 507.
        """
        task, order = self._check(submission, caller)
        if task.upload_id is None:
            return self._begin(await self._admission.admit(task, order))
        # Two connections with one upload_id must not interleave here.
        return await self._locked(
            task.upload_id, lambda: self._admit_resumable(task, order, submission, caller)
        )

    async def create(self, submission: Submission, caller: Caller) -> UploadView:
        """Create an upload before its first byte. It holds no slot and no space.

        The frontend chooses the `upload_id`; with `length_follows` the length is set later. Doing
        so again changes nothing. Raises `ServiceError` 400, 409, 413, 415 or 422.
        """
        task, _ = self._check(submission, caller)
        if task.upload_id is None:
            raise ValueError("an upload that is created needs an upload_id")
        return await self._locked(task.upload_id, lambda: self.known.announce(task, caller))

    def _check(self, submission: Submission, caller: Caller) -> tuple[Task, Order]:
        return check_submission(
            submission, caller, max_upload=self.settings.max_upload, now=self._reactor.seconds()
        )

    async def _admit_resumable(
        self, task: Task, order: Order, submission: Submission, caller: Caller
    ) -> UploadSession | AcceptedTask:
        assert task.upload_id is not None
        offset = None if submission.restart else submission.offset
        provisional = submission.provisional
        older = self._by_upload_id.get(task.upload_id)
        if older is not None and caller.owns(older.task, self.settings.owner_only):
            await older.take_over()
        known = await self._store_thread.call(self._store.uploads.by_upload_id, task.upload_id)
        if known is None:
            require_offset(offset or 0, 0)
            return self._begin(await self._admission.admit(task, order), provisional=provisional)
        require_owner(known, caller, self.settings.owner_only)
        require_same(known, task)
        require_same_checksum(known, task)
        if known.state not in (State.UPLOADING, State.PARTIAL):
            return AcceptedTask(known.task_id)
        admitted = await self._admission.resume(known, task, order, offset, provisional=provisional)
        return self._begin(admitted, provisional=provisional)

    def _begin(self, admitted: Admitted, *, provisional: bool = False) -> UploadSession:
        task, offset = admitted.task, admitted.offset
        writer = FileWriter(
            self._disk,
            self._data_folder.path(upload_key(task.task_id)),
            offset=offset,
            hashed=task.upload_sha256 is not None,
            writers=self._writers,
            budget=self._write_budget,
            sync_every=None if task.upload_id is None else SYNC_EVERY,
            on_synced=lambda size: self.broken.note_synced(task, size),
        )
        session = UploadSession(
            task,
            admitted.order,
            writer,
            admitted.space,
            max_upload=self.settings.max_upload,
            provisional=provisional,
            finishing=self._finish,
            aborting=self._abort,
            reverting=self._revert,
        )
        self._sessions.add(session)
        if task.upload_id is not None:
            self._by_upload_id[task.upload_id] = session
        self.log.info(
            "upload for task {task_id} starts: {type}, {size} bytes from {offset}, peer {peer},"
            " filename {filename}",
            task_id=task.task_id,
            type=task.type,
            size=session.size,
            offset=offset,
            peer=task.peer,
            filename=None if task.filename is None else escape(task.filename),
        )
        return session

    # --- what the store knows ------------------------------------------------------------------

    async def status(self, upload_id: str, caller: Caller) -> AcceptedTask | PartialUpload:
        """Return how far a resumable upload is; raises `ServiceError` 404."""
        view = await self.known.describe(upload_id, caller)
        return PartialUpload(view.offset) if view.task_id is None else AcceptedTask(view.task_id)

    async def abandon(self, upload_id: str, caller: Caller) -> None:
        """Delete an upload.

        Raises `ServiceError` 404, and 409 if it is complete; its task can be cancelled.
        """
        await self._locked(upload_id, lambda: self._abandon(upload_id, caller))

    async def _abandon(self, upload_id: str, caller: Caller) -> None:
        task = await self.known.find(upload_id, caller)
        session = self._by_upload_id.get(upload_id)
        if session is not None and not session.over:
            session.on_broken(abandoned())
            await session.abort()
        if not await self._store_thread.call(self._store.uploads.delete_upload, task.task_id):
            raise has_become_a_task(task.task_id)
        await self._disk.call(self._data_folder.remove, upload_key(task.task_id))
        self.log.info("upload of task {task_id} was abandoned", task_id=task.task_id)

    async def _locked(self, upload_id: str, work: Callable[[], Awaitable[T]]) -> T:
        lock = self._locks.setdefault(upload_id, DeferredLock())
        await lock.acquire()
        try:
            return await work()
        finally:
            lock.release()
            if not lock.locked and not lock.waiting:
                self._locks.pop(upload_id, None)

    # --- the end of a session ------------------------------------------------------------------

    async def abort_all(self) -> None:
        """End all uploads for a shutdown; resumable ones can continue later."""
        for session in list(self._sessions):
            session.writer.hurry()
            await session.abort()

    async def _finish(self, session: UploadSession) -> Ended:
        """Store safely what a session has received; queue its task if it is complete."""
        task = session.task
        try:
            # A small upload may be complete before there was time to reserve its space.
            while session.space.allowed < session.received:
                await session.space.take_step(session.size)
        except ServiceError:
            await session.writer.close()
            await self.broken.put_away(task)
            self._end(session)
            raise
        try:
            if session.received < session.size:
                await session.writer.finish(digest=False)
                await self.broken.put_away(task)
                return PartialUpload(session.received)
            digest = await session.writer.finish()
            if task.upload_sha256 is not None and digest != task.upload_sha256:
                raise wrong_checksum()
            queued = await self._publish(task, session.size)
        except (OSError, sqlite3.Error) as error:
            self.log.error(
                "upload of task {task_id}: {error}", task_id=task.task_id, error=str(error)
            )
            await self._disk.call(
                self._data_folder.take_back, input_key(task.task_id), upload_key(task.task_id)
            )
            await self.broken.put_away(task)
            raise explain_store_error(error) from error
        except BaseException:
            await self.broken.forget(task)
            raise
        finally:
            self._end(session)
        self._data_folder.space.stored(task.task_id, session.size)
        self._on_accepted(queued, session.order)
        self.log.info(
            "task {task_id} accepted: {type}, {size} bytes, peer {peer}",
            task_id=task.task_id,
            type=task.type,
            size=session.size,
            peer=task.peer,
        )
        return AcceptedTask(task.task_id)

    async def _publish(self, task: Task, size: int) -> Task:
        """Give an upload's file its final name, and queue its task."""
        key = input_key(task.task_id)
        await self._disk.call(self._data_folder.publish, upload_key(task.task_id), key)
        return await self._store_thread.call(
            self._store.move,
            task.task_id,
            State.QUEUED,
            input_key=key,
            input_size=size,
            queued_at=self._reactor.seconds(),
            verified=None,
            request_id=current_request_id() or task.request_id,
        )

    async def _abort(self, session: UploadSession) -> None:
        """Keep or delete what a session has received. Never raises."""
        task = session.task
        try:
            await session.writer.close()
        except OSError as error:
            self.log.warn(
                "upload of task {task_id}: {error}",
                task_id=task.task_id,
                error=str(error),
                request_id=task.request_id,
            )
        await self.broken.put_away(task)
        self._end(session)
        self.log.info(
            "upload of task {task_id} broke off at {received} of {size} bytes",
            task_id=task.task_id,
            request_id=task.request_id,
            received=session.received,
            size=session.size,
        )

    async def _revert(self, session: UploadSession) -> None:
        """Forget what a session has received, and put away what was there before it."""
        key = upload_key(session.task.task_id)
        try:
            await session.writer.close()
            await self._disk.call(self._data_folder.cut, key, session.began_at)
        except OSError as error:
            # What can't be cut off may not count as received.
            self.log.error(
                "upload of task {task_id}: {error}", task_id=session.task.task_id, error=str(error)
            )
            await self.broken.forget(session.task)
        else:
            await self.broken.put_away(session.task)
        self._end(session)

    def _end(self, session: UploadSession) -> None:
        self._sessions.discard(session)
        upload_id = session.task.upload_id
        if upload_id is not None and self._by_upload_id.get(upload_id) is session:
            del self._by_upload_id[upload_id]
