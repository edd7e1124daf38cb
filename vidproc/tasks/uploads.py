"""From an upload's first byte to `accepted`: admission, the part file, resumption.

A session's slot is a row in state `UPLOADING`; whatever ends the session gives it back.
`accepted` is a promise: the input is on the disk (fsync, rename, fsync of the folder) and the row
committed before the session's `finish` returns it.
"""

from __future__ import annotations

import errno
import re
import sqlite3
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, DeferredLock, ensureDeferred, fail
from twisted.internet.interfaces import IConsumer, IProducer, IPushProducer
from twisted.python.failure import Failure
from zope.interface import implementer

from vidproc.errors import ErrorCode, ServiceError
from vidproc.files.data_folder import DataFolder, input_key, upload_key
from vidproc.files.space import no_space
from vidproc.files.splice import Spliced, splice_into
from vidproc.files.threads import WorkerThreads, when_fired
from vidproc.files.transfer import FileWriter, keep_large_blocks
from vidproc.operations.parameters import parse_parameters
from vidproc.operations.registry import get_operation
from vidproc.tasks.known_uploads import (
    ANNOUNCED_RETENTION,
    KnownUploads,
    UploadView,
    require_length,
    require_owner,
    require_same,
)
from vidproc.tasks.model import State, Task, new_task_id
from vidproc.tasks.results import Results
from vidproc.tasks.settings import Caller, Settings
from vidproc.tasks.store import TaskStore
from vidproc.text import escape
from vidproc.topics import Topic, TopicLogger
from vidproc.units import format_size

T = TypeVar("T")

ALLOWANCE_AHEAD = 4 << 20
"""Bytes by which the space made for an upload is ahead of what has come, where it can be."""
ALLOWANCE_STEP = 32 << 20
"""Bytes for which space is made at a time while they come."""
PARTIAL_SHARE = 4
"""All partial uploads together keep at most the capacity divided by this; an address half of it."""

SYNC_EVERY = 64 << 20
"""Bytes of a resumable upload after which it is synced while it goes on. Twice as many, at the
most, have to be sent again after a power cut."""
_RETRY = 5.0
"""Seconds after which an upload that could not be forgotten is tried again."""

_MEDIA_TYPE = re.compile(r"\.?([A-Za-z0-9][A-Za-z0-9_+-]{0,31})?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Submission:
    """What a client wants done with what it is about to send. Sizes in bytes.

    `payload_size` is what this message carries; `size` the whole file of a resumable upload.
    """

    type: str
    parameters: dict[str, Any]
    media_type: str
    payload_size: int
    filename: str | None = None
    upload_id: str | None = None
    size: int | None = None
    offset: int = 0
    sha256: str | None = None
    length_follows: bool = False
    """Whether nobody knows the whole file's size yet; `payload_size` means nothing then."""


@dataclass(frozen=True, slots=True)
class AcceptedTask:
    """The upload is whole and safe, and its task exists."""

    task_id: str


@dataclass(frozen=True, slots=True)
class PartialUpload:
    """A resumable upload stands at `offset` bytes."""

    offset: int


@implementer(IConsumer)
class UploadSession:
    """One connection's part of an upload. Feed it by `write`, end it by `finish` or `abort`.

    Whoever feeds it registers as its producer, which is paused while the disk lags or space has to
    be made. `on_broken` is called when the session can't go on (a disk error, no space, or a newer
    connection took over).
    """

    def __init__(self, uploads: Uploads, task: Task, size: int, writer: FileWriter) -> None:
        self.task = task
        self.size = size
        self.received = writer.written
        self.allowed = size
        """Bytes of the file that may have come before more space must be made."""
        self.making_space = False
        self.length_follows = task.input_size == 0
        """Whether `size` is only the most that may come."""
        self._held_by: set[str] = set()
        self._producer: IPushProducer | None = None
        self.on_broken: Callable[[ServiceError], None] = lambda _: None
        self.writer = writer
        self._uploads = uploads
        self._over: Deferred[Any] | None = None
        writer.on_lag = lambda: self.hold("disk", True)
        writer.on_caught_up = lambda: self.hold("disk", False)
        writer.on_error = self._write_failed

    @property
    def over(self) -> bool:
        """Whether it was finished, aborted or taken over."""
        return self._over is not None

    def write(self, data: bytes | memoryview) -> None:
        """Take the next bytes of the payload; those of a session that is over go nowhere."""
        if self._over is not None:
            return
        self.received += len(data)
        if self.received > self.size:
            self.on_broken(too_long(self.size))
            return
        self.writer.write(data)
        self._uploads.check_allowance(self)

    def take_from(self, transport: Any, size: int) -> Deferred[Spliced]:
        """Take up to `size` bytes of the payload from the transport's socket, past the reactor.

        Nobody else may read the transport until it fires.
        """

        def count(spliced: Spliced) -> Spliced:
            self.received += spliced.size
            self._uploads.check_allowance(self)
            return spliced

        size = min(size, max(1, self.allowed - self.received))
        return splice_into(self.writer, transport, size).addCallback(count)

    @property
    def wants_space(self) -> bool:
        """Whether its bytes come near what it may bring."""
        return self.allowed < self.size and self.received + ALLOWANCE_AHEAD > self.allowed

    def hold(self, reason: str, held: bool) -> None:
        """Ask whoever feeds the session to pause, for one more reason, or one fewer."""
        before = bool(self._held_by)
        (self._held_by.add if held else self._held_by.discard)(reason)
        if bool(self._held_by) != before:
            self._tell_producer()

    def registerProducer(self, producer: IProducer, streaming: bool) -> None:
        """Let a push producer feed the session. Raises `RuntimeError` if one does already."""
        if self._producer is not None or not streaming or not IPushProducer.providedBy(producer):
            raise RuntimeError("an upload has one producer, and it pushes")
        if self.over:
            producer.stopProducing()
            return
        self._producer = producer
        if self._held_by:
            self._producer.pauseProducing()

    def unregisterProducer(self) -> None:
        """Nobody feeds the session any more."""
        self._producer = None

    def _tell_producer(self) -> None:
        if self._producer is not None:
            if self._held_by:
                self._producer.pauseProducing()
            else:
                self._producer.resumeProducing()

    def set_size(self, size: int) -> None:
        """Note the whole file's size, which was not known; raises `ServiceError` 415 or 422."""
        require_length(size, self._uploads.settings)
        if size < self.received or not self.length_follows:
            raise ServiceError(
                ErrorCode.INVALID_PARAMETER,
                f"The upload can't have {size} bytes: {self.received} have come already.",
                "Say the length of the whole file, once.",
            )
        self.size = size
        self.length_follows = False

    def finish(self) -> Deferred[AcceptedTask | PartialUpload]:
        """The payload is whole. Fires with what became of it, or fails with `ServiceError`."""
        if self._over is not None:
            return fail(taken_over())
        result: Deferred[AcceptedTask | PartialUpload] = ensureDeferred(
            self._uploads.finish_session(self)
        )
        self._over = when_fired(result)
        return result

    def abort(self) -> Deferred[None]:
        """The connection was lost, or the client gave up. Gives the slot back."""
        if self._over is None:
            self._over = ensureDeferred(self._uploads.abort_session(self))
        return when_fired(self._over)

    def take_over(self) -> Deferred[None]:
        """Another connection goes on with this upload."""
        if self._over is None:
            self.on_broken(taken_over())
        return self.abort()

    def _write_failed(self, failure: Failure) -> None:
        if self._over is None:
            self.on_broken(explain_write_error(failure.value))


def abandoned() -> ServiceError:
    """Return what to tell a connection whose upload is forgotten."""
    return ServiceError(
        ErrorCode.CONFLICT,
        "The upload was abandoned on another connection.",
        "Draw a new UUID and start again.",
    )


def too_long(most: int) -> ServiceError:
    """Return what to tell a client that sends more than its upload may have."""
    return ServiceError(
        ErrorCode.TOO_LARGE,
        f"The upload has more than the {format_size(most)} that it may have.",
        "Send a smaller file, or a part of it.",
    )


def taken_over() -> ServiceError:
    """Return what to tell a connection whose upload another one goes on with."""
    return ServiceError(
        ErrorCode.CONFLICT,
        "A newer connection goes on with this upload.",
        "Let it; or ask upload_status and go on from there.",
    )


def explain_write_error(error: BaseException | None) -> ServiceError:
    """Return what to tell a client when its file, or a change of its task, can't be stored."""
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    if full or (isinstance(error, sqlite3.Error) and "full" in str(error)):
        return ServiceError(
            ErrorCode.NO_SPACE,
            "The server has run out of room.",
            "Try again later, or ask the server's operator for room.",
        )
    if isinstance(error, OSError) and error.errno == errno.ECANCELED:
        return ServiceError(
            ErrorCode.UNAVAILABLE,
            "The server is shutting down.",
            "Try again in a minute; an upload with an upload_id goes on where it stopped.",
        )
    return ServiceError(
        ErrorCode.INTERNAL,
        "The server could not store that.",
        "Try again later; if it happens again, tell the server's operator.",
    )


class Uploads:
    """Admits uploads and turns them into queued tasks.

    `on_accepted` is called with the queued task before the client is told; `results` can make
    space.
    """

    log = TopicLogger(Topic.UPLOADS)

    def __init__(
        self,
        reactor: Any,
        settings: Settings,
        data_folder: DataFolder,
        disk: WorkerThreads,
        writers: WorkerThreads,
        store: TaskStore,
        store_thread: WorkerThreads,
        on_accepted: Callable[[Task], None],
        results: Results,
    ) -> None:
        self._reactor = reactor
        self.settings = self._settings = settings
        self._data_folder = data_folder
        self._disk = disk
        self._writers = writers
        self._store = store
        self._store_thread = store_thread
        self._on_accepted = on_accepted
        self._results = results
        self._space = data_folder.space
        self._sessions: set[UploadSession] = set()
        self._by_upload_id: dict[str, UploadSession] = {}
        self._locks: dict[str, DeferredLock] = {}
        self.known = KnownUploads(
            reactor,
            settings,
            store,
            store_thread.call,
            lambda key: disk.call(data_folder.size, key),
            self._received,
        )
        keep_large_blocks()

    def _received(self, upload_id: str) -> int | None:
        session = self._by_upload_id.get(upload_id)
        return None if session is None else session.writer.written

    @property
    def active(self) -> int:
        """Uploads under way."""
        return len(self._sessions)

    async def admit(self, submission: Submission, caller: Caller) -> UploadSession | AcceptedTask:
        """Check a submission, take a slot and room for it, and begin.

        Returns `AcceptedTask` when this upload was finished before. Raises `ServiceError`
        400, 409, 413, 415, 422, 429, 503 or 507.
        """
        task, size = self._check(submission, caller)
        if submission.upload_id is None:
            _, allowed = await self._take_slot(task, size, self._store.admit, task)
            return self._begin(task, 0, allowed)
        # Two connections with one upload_id must not interleave here.
        return await self._locked(
            submission.upload_id, lambda: self._admit_resumable(submission, task, size, caller)
        )

    async def create(self, submission: Submission, caller: Caller) -> UploadView:
        """Remember an upload before its first byte; it holds no slot and no space.

        Its `upload_id` is the frontend's to draw; with `length_follows` its length comes later. The
        same again is fine. Raises `ServiceError` 400, 409, 413, 415 or 422.
        """
        task, _ = self._check(submission, caller)
        if task.upload_id is None:
            raise ValueError("an upload that is created needs an upload_id")
        view: UploadView = await self._locked(
            task.upload_id, lambda: self.known.announce(task, caller)
        )
        return view

    async def abandon(self, upload_id: str, caller: Caller) -> None:
        """Forget an upload and what has arrived of it.

        Raises `ServiceError` 404, and 409 when it is whole: its task can be cancelled.
        """
        await self._locked(upload_id, lambda: self._abandon(upload_id, caller))

    async def _abandon(self, upload_id: str, caller: Caller) -> None:
        task = await self.known.find(upload_id, caller)
        session = self._by_upload_id.get(upload_id)
        if session is not None and not session.over:
            session.on_broken(abandoned())
            await session.abort()
        if not await self._store_thread.call(self._store.delete_upload, task.task_id):
            raise ServiceError(
                ErrorCode.CONFLICT,
                "The upload is whole and has become a task.",
                f"Cancel the task {task.task_id} instead.",
            )
        await self._disk.call(self._data_folder.remove, upload_key(task.task_id))
        self.log.info("upload of task {task_id} was abandoned", task_id=task.task_id)

    async def status(self, upload_id: str, caller: Caller) -> AcceptedTask | PartialUpload:
        """Return how far a resumable upload is; raises `ServiceError` 404."""
        view = await self.known.describe(upload_id, caller)
        return PartialUpload(view.offset) if view.task_id is None else AcceptedTask(view.task_id)

    async def abort_all(self) -> None:
        """End every upload under way, for a stop; resumable ones can go on later."""
        for session in list(self._sessions):
            session.writer.hurry()
            await session.abort()

    async def prune(self, before: float) -> int:
        """Forget uploads that broke off before that time; return how many."""
        announced = self._reactor.seconds() - ANNOUNCED_RETENTION
        old = await self._store_thread.call(self._store.delete_parked, before, announced)
        for task_id in old:
            await self._disk.call(self._data_folder.remove, upload_key(task_id))
        return len(old)

    # --- admission ---------------------------------------------------------------------------

    def _check(self, submission: Submission, caller: Caller) -> tuple[Task, int]:
        """Refuse what can be refused from the request alone."""
        _, warnings = parse_parameters(submission.type, submission.parameters)
        if _MEDIA_TYPE.fullmatch(submission.media_type) is None:
            raise ServiceError(
                ErrorCode.BAD_REQUEST,
                "The media type is malformed.",
                "Send the file's extension without the dot, such as mp4.",
            )
        size = submission.offset + submission.payload_size
        if submission.length_follows:
            size = 0
        elif submission.upload_id is not None:
            if submission.size is None:
                raise ServiceError(
                    ErrorCode.BAD_REQUEST,
                    "A resumable upload needs the whole file's size.",
                    'Add "size" in bytes to the request.',
                )
            if size > submission.size:
                raise ServiceError(
                    ErrorCode.INVALID_PARAMETER,
                    f"offset and payload reach {size} bytes, past the size of {submission.size}.",
                    "Send no more than size - offset bytes.",
                )
            size = submission.size
        elif submission.offset:
            raise ServiceError(
                ErrorCode.BAD_REQUEST,
                "An offset needs an upload_id.",
                "Draw a UUID for the upload and send it as upload_id from the start.",
            )
        elif submission.size is not None and submission.size != size:
            raise ServiceError(
                ErrorCode.INVALID_PARAMETER,
                f"The size is {submission.size} but the payload has {size} bytes.",
                "Send the whole file, or an upload_id to send it in parts.",
            )
        if not submission.length_follows:
            require_length(size, self._settings)
        task = Task(
            task_id=new_task_id(),
            type=submission.type,
            parameters=submission.parameters,
            peer=caller.peer,
            principal=caller.principal,
            media_type=submission.media_type.lstrip(".").lower(),
            filename=submission.filename,
            created_at=self._reactor.seconds(),
            input_size=size,
            upload_id=submission.upload_id,
            upload_sha256=submission.sha256.lower() if submission.sha256 else None,
            warnings=warnings,
        )
        return task, size

    async def _take_slot(
        self, task: Task, size: int, method: Callable[..., Any], first: Any
    ) -> tuple[Task, int]:
        """Take a slot by a `method` of the store, then space for `size` bytes and the output.

        Returns the task, and how many of the `size` bytes may come before more space is made.
        """
        try:
            taken: Task | None = await self._store_thread.call(
                method,
                first,
                self._settings.tasks_per_ip,
                self._settings.queue_size,
                tasks_per_token=self._settings.tasks_per_token,
            )
        except sqlite3.Error as error:
            self.log.error("an upload can't be admitted: {error}", error=str(error))
            raise explain_write_error(error) from error
        try:
            allowed = await self._claim_space(task, size)
        except BaseException:
            # Refused before a byte came: no trace of it is left.
            self._space.release(task.task_id)
            await self._surely(self._forget if taken is None else self._park_again, task)
            raise
        return taken or task, allowed

    async def _claim_space(self, task: Task, size: int) -> int:
        """Reserve space for an upload's bytes and its output; return the bytes that may come.

        A claim costs nobody a result that was not fetched: what such results would have to go for
        is reserved when the bytes are there, by `_allow_more`. Raises `ServiceError` 507.
        """
        if not task.input_size:
            size = ALLOWANCE_STEP  # the length follows; the first step of it
        wanted = size + estimate_output(task)
        lacking = self._space.lacking(task.task_id, wanted, task.peer)
        if lacking:
            await self._results.make_space(lacking, unfetched=False)
            lacking = self._space.lacking(task.task_id, wanted, task.peer)
        if not lacking:
            self._space.reserve(task.task_id, wanted, task.peer)
            return size
        if lacking > await self._results.evictable(unfetched=True):
            raise no_space(wanted)
        affordable = self._space.affordable(task.task_id, task.peer)
        self._space.reserve(task.task_id, affordable, task.peer)
        return min(size, affordable)

    def check_allowance(self, session: UploadSession) -> None:
        """Make space for more of an upload whose bytes come near what it may bring."""
        if not session.making_space and session.wants_space:
            session.making_space = True
            session.hold("space", True)
            ensureDeferred(self._allow_more(session))

    async def _allow_more(self, session: UploadSession) -> None:
        refusal: ServiceError | None = None
        try:
            await self._take_step(session)
        except ServiceError as error:
            refusal = error
        except Exception:
            self.log.failure("no space can be made for {id}", id=session.task.task_id)
            refusal = no_space(ALLOWANCE_STEP)
        session.making_space = False
        session.hold("space", False)
        if session.over:
            return
        if refusal is not None:
            session.on_broken(refusal)
        else:
            self.check_allowance(session)

    async def _take_step(self, session: UploadSession) -> None:
        """Make space for the next bytes of an upload; raises `ServiceError` 507."""
        task = session.task
        step = min(session.size - session.allowed, ALLOWANCE_STEP)
        wanted = self._space.reserved_for(task.task_id) + step
        lacking = self._space.lacking(task.task_id, wanted, task.peer)
        await self._results.make_space(lacking, unfetched=True)
        self._space.reserve(task.task_id, wanted, task.peer)
        session.allowed += step

    def _begin(self, task: Task, offset: int, allowed: int) -> UploadSession:
        size = task.input_size or self._settings.max_upload
        writer = FileWriter(
            self._disk,
            self._data_folder.path(upload_key(task.task_id)),
            offset=offset,
            hashed=task.upload_sha256 is not None,
            writers=self._writers,
            sync_every=None if task.upload_id is None else SYNC_EVERY,
            on_synced=lambda size: self._note_synced(task, size),
        )
        session = UploadSession(self, task, size, writer)
        session.allowed = offset + allowed
        self._sessions.add(session)
        if task.upload_id is not None:
            self._by_upload_id[task.upload_id] = session
        self.log.info(
            "upload for task {task_id} starts: {type}, {size} bytes from {offset}, peer {peer},"
            " filename {filename}",
            task_id=task.task_id,
            type=task.type,
            size=size,
            offset=offset,
            peer=task.peer,
            filename=None if task.filename is None else escape(task.filename),
        )
        return session

    async def _admit_resumable(
        self, submission: Submission, task: Task, size: int, caller: Caller
    ) -> UploadSession | AcceptedTask:
        assert task.upload_id is not None
        older = self._by_upload_id.get(task.upload_id)
        if older is not None and caller.owns(older.task, self._settings.owner_only):
            await older.take_over()
        known = await self._store_thread.call(self._store.by_upload_id, task.upload_id)
        if known is None:
            self._require_offset(submission.offset, 0)
            _, allowed = await self._take_slot(task, size, self._store.admit, task)
            return self._begin(task, 0, allowed)
        require_owner(known, caller, self._settings.owner_only)
        require_same(known, task)
        promised = known.upload_sha256
        if None not in (promised, task.upload_sha256) and promised != task.upload_sha256:
            raise ServiceError(
                ErrorCode.INVALID_PARAMETER,
                "This upload_id was begun with another sha256.",
                "Send the same file again, or draw a new UUID for a new upload.",
            )
        if known.state is State.UPLOADING:
            raise ServiceError(
                ErrorCode.UNAVAILABLE,
                "The last part of this upload is still being put away.",
                "Ask upload_status in a few seconds and go on from there.",
            )
        if known.state is not State.PARTIAL:
            return AcceptedTask(known.task_id)
        offset = await self._disk.call(self._data_folder.size, upload_key(known.task_id))
        self._require_offset(submission.offset, offset)
        if size and not known.input_size:
            await self._store_thread.call(self._store.update, known.task_id, input_size=size)
        size = known.input_size = known.input_size or size
        resume = partial(self._store.resume, sha256=task.upload_sha256)
        try:
            resumed, allowed = await self._take_slot(
                known, max(0, size - offset), resume, known.task_id
            )
        except KeyError:  # forgotten meanwhile
            self._require_offset(submission.offset, 0)
            _, allowed = await self._take_slot(task, size, self._store.admit, task)
            return self._begin(task, 0, allowed)
        return self._begin(resumed, offset, allowed)

    @staticmethod
    def _require_offset(given: int, right: int) -> None:
        if given != right:
            raise ServiceError(
                ErrorCode.CONFLICT,
                f"The offset is {given}, but the upload stands at {right} bytes.",
                f"Go on from offset {right}.",
                offset=right,
            )

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

    async def finish_session(self, session: UploadSession) -> AcceptedTask | PartialUpload:
        """Make what a session received safe; called by `UploadSession.finish`."""
        task = session.task
        try:
            # A small upload may be whole before there was time to make space for it.
            while session.allowed < session.received:
                await self._take_step(session)
        except ServiceError:
            await session.writer.close()
            await self._undo_surely(task)
            self._end(session)
            raise
        try:
            if session.received < session.size:
                await session.writer.finish(digest=False)
                await self._undo_surely(task)
                return PartialUpload(session.received)
            digest = await session.writer.finish()
            if task.upload_sha256 is not None and digest != task.upload_sha256:
                raise ServiceError(
                    ErrorCode.INVALID_PARAMETER,
                    "The file's SHA-256 is not the one that was promised.",
                    "The bytes changed on the way: send the file again.",
                )
            key = input_key(task.task_id)
            await self._disk.call(self._data_folder.publish, upload_key(task.task_id), key)
            queued = await self._store_thread.call(
                self._store.move,
                task.task_id,
                State.QUEUED,
                input_key=key,
                input_size=session.size,
                queued_at=self._reactor.seconds(),
            )
        except (OSError, sqlite3.Error) as error:
            self.log.error(
                "upload of task {task_id}: {error}", task_id=task.task_id, error=str(error)
            )
            await self._disk.call(
                self._data_folder.take_back, input_key(task.task_id), upload_key(task.task_id)
            )
            await self._undo_surely(task)
            raise explain_write_error(error) from error
        except BaseException:
            await self._forget_surely(task)
            raise
        finally:
            self._end(session)
        self._data_folder.space.stored(task.task_id, session.size)
        self._on_accepted(queued)
        self.log.info(
            "task {task_id} accepted: {type}, {size} bytes, peer {peer}",
            task_id=task.task_id,
            type=task.type,
            size=session.size,
            peer=task.peer,
        )
        return AcceptedTask(task.task_id)

    async def abort_session(self, session: UploadSession) -> None:
        """Give up a session; called by `UploadSession.abort`. Never raises."""
        task = session.task
        try:
            await session.writer.close()
        except OSError as error:
            self.log.warn(
                "upload of task {task_id}: {error}", task_id=task.task_id, error=str(error)
            )
        await self._undo_surely(task)
        self._end(session)
        self.log.info(
            "upload of task {task_id} broke off at {received} of {size} bytes",
            task_id=task.task_id,
            received=session.received,
            size=session.size,
        )

    def _end(self, session: UploadSession) -> None:
        self._sessions.discard(session)
        upload_id = session.task.upload_id
        if upload_id is not None and self._by_upload_id.get(upload_id) is session:
            del self._by_upload_id[upload_id]

    async def _undo_surely(self, task: Task) -> None:
        """Give an upload's slot and room back; what arrived of a resumable one stays."""
        self._data_folder.space.release(task.task_id)
        undo = self._forget if task.upload_id is None else self._park
        await self._surely(undo, task)

    async def _forget_surely(self, task: Task) -> None:
        """Give an upload's slot and room back, and forget what arrived."""
        self._data_folder.space.release(task.task_id)
        await self._surely(self._forget, task)

    async def _surely(self, undo: Callable[[Task], Awaitable[None]], task: Task) -> None:
        """Undo an upload; when the store fails (a full disk), try again later until it does not."""
        try:
            await undo(task)
        except Exception:
            self.log.failure("upload of task {task_id} can't be undone yet", task_id=task.task_id)
            self._reactor.callLater(_RETRY, lambda: ensureDeferred(self._surely(undo, task)))

    def _note_synced(self, task: Task, size: int) -> None:
        """Remember from where an upload can go on after a power cut."""
        self._store_thread.call(self._store.note_synced, task.task_id, size).addErrback(
            lambda failure: self.log.failure(
                "task {task_id}: what is synced can't be noted", failure, task_id=task.task_id
            )
        )

    async def _park(self, task: Task) -> None:
        received = await self._disk.call(self._data_folder.sync, upload_key(task.task_id))
        budget = self._space.capacity() // PARTIAL_SHARE
        forgotten = await self._store_thread.call(
            self._store.park,
            task.task_id,
            self._reactor.seconds(),
            received,
            own_budget=budget // 2,
            budget=budget,
        )
        self._space.parked(received)
        for old in forgotten:
            await self._disk.call(self._data_folder.remove, upload_key(old))

    async def _park_again(self, task: Task) -> None:
        await self._store_thread.call(self._store.park_again, task)

    async def _forget(self, task: Task) -> None:
        if await self._store_thread.call(self._store.delete_upload, task.task_id):
            await self._disk.call(
                self._data_folder.remove, upload_key(task.task_id), input_key(task.task_id)
            )


def estimate_output(task: Task) -> int:
    """Return a guess of the bytes that a task's result will have."""
    parameters, _ = parse_parameters(task.type, task.parameters)
    return get_operation(task.type).estimate_size(parameters, task.input_size)
