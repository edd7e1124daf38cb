"""One connection's part of an upload: bytes are written to it, then it is finished or aborted."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeAlias

from twisted.internet.defer import Deferred, ensureDeferred, fail
from twisted.internet.interfaces import IConsumer, IProducer, IPushProducer, ITransport
from twisted.python.failure import Failure
from zope.interface import implementer

from vidproc.errors import ServiceError
from vidproc.files.file_writer import FileWriter
from vidproc.files.space import no_space
from vidproc.files.splice import Spliced, splice_into
from vidproc.files.threads import when_fired
from vidproc.tasks.model import Task
from vidproc.tasks.orders import Order
from vidproc.tasks.store_errors import explain_store_error
from vidproc.tasks.uploads.refusals import length_contradicts, taken_over, too_long
from vidproc.tasks.uploads.space import STEP, UploadSpace
from vidproc.tasks.uploads.submission import require_length
from vidproc.topics import Topic, TopicLogger


@dataclass(frozen=True, slots=True)
class AcceptedTask:
    """The upload is complete and safely stored, and its task exists."""

    task_id: str


@dataclass(frozen=True, slots=True)
class PartialUpload:
    """`offset` bytes of a resumable upload were received."""

    offset: int


Ended: TypeAlias = AcceptedTask | PartialUpload


@implementer(IConsumer)
class UploadSession:
    """One connection's part of an upload. Feed it with `write`, end it with `finish` or `abort`.

    Whoever feeds it registers as its producer, which is paused while the disk lags or space has to
    be made. `on_broken` is called when the session can't continue (a disk error, no space, or a
    newer connection took over). One of `finishing`, `aborting` and `reverting` is called once, at
    its end: to store what was received, to keep it for later, or to drop it.
    """

    log = TopicLogger(Topic.UPLOADS)

    def __init__(
        self,
        task: Task,
        order: Order,
        writer: FileWriter,
        space: UploadSpace,
        *,
        max_upload: int,
        provisional: bool = False,
        finishing: Callable[[UploadSession], Coroutine[Any, Any, Ended]],
        aborting: Callable[[UploadSession], Coroutine[Any, Any, None]],
        reverting: Callable[[UploadSession], Coroutine[Any, Any, None]],
    ) -> None:
        self.task = task
        self.order = order
        self.size = task.input_size or max_upload
        self.length_follows = task.input_size == 0
        """Whether `size` is only an upper limit."""
        self.began_at = self.received = writer.written
        self.provisional = provisional
        """Whether what arrives still has to fit a checksum. It counts as received only once the
        session is finished; `abort` drops it."""
        self.space = space
        self.writer = writer
        self.on_broken: Callable[[ServiceError], None] = lambda _: None
        self._max_upload = max_upload
        self._finishing = finishing
        self._aborting = aborting
        self._reverting = reverting
        self._making_space = False
        self._held_by: set[str] = set()
        self._producer: IPushProducer | None = None
        self._over: Deferred[None] | None = None
        writer.on_lag = lambda: self.hold("disk", True)
        writer.on_caught_up = lambda: self.hold("disk", False)
        writer.on_error = self._write_failed

    @property
    def over(self) -> bool:
        """Whether it was finished, aborted or taken over."""
        return self._over is not None

    @property
    def kept(self) -> int:
        """Bytes of the file that the client need not send again, but for a power cut."""
        return self.began_at if self.provisional else self.writer.written

    # --- its bytes -----------------------------------------------------------------------------

    def write(self, data: bytes | memoryview) -> None:
        """Take the next bytes of the payload; a session that is over drops them."""
        if self._over is not None:
            return
        self.received += len(data)
        if self.received > self.size:
            self.on_broken(too_long(self.size))
            return
        self.writer.write(data)
        self._check_space()

    def take_from(self, transport: ITransport, size: int) -> Deferred[Spliced]:
        """Take up to `size` bytes of the payload from the transport's socket, past the reactor.

        Nobody else may read the transport until it fires.
        """

        def count(spliced: Spliced) -> Spliced:
            self.received += spliced.size
            self._check_space()
            return spliced

        size = min(size, max(1, self.space.allowed - self.received))
        return splice_into(self.writer, transport, size).addCallback(count)

    def set_size(self, size: int) -> None:
        """Note the whole file's size, once. Raises `ServiceError` 413, 415 or 422."""
        require_length(size, self._max_upload)
        if size < self.received or not self.length_follows:
            raise length_contradicts(size, self.received)
        self.size = size
        self.length_follows = False

    def _check_space(self) -> None:
        """Make more space when the bytes received come near the allowed ones."""
        if not self._making_space and self.space.runs_low(self.received, self.size):
            self._making_space = True
            self.hold("space", True)
            ensureDeferred(self._make_space())

    async def _make_space(self) -> None:
        refusal: ServiceError | None = None
        try:
            await self.space.take_step(self.size)
        except ServiceError as error:
            refusal = error
        except Exception:
            self.log.failure("no space can be made for {id}", id=self.task.task_id)
            refusal = no_space(STEP)
        self._making_space = False
        self.hold("space", False)
        if self.over:
            return
        if refusal is not None:
            self.on_broken(refusal)
        else:
            self._check_space()

    def _write_failed(self, failure: Failure) -> None:
        if self._over is None:
            self.on_broken(explain_store_error(failure.value))

    # --- who feeds it --------------------------------------------------------------------------

    def hold(self, reason: str, held: bool) -> None:
        """Set or clear a reason to pause the producer, which is paused while there is any."""
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
        """Forget the producer."""
        self._producer = None

    def _tell_producer(self) -> None:
        if self._producer is not None:
            if self._held_by:
                self._producer.pauseProducing()
            else:
                self._producer.resumeProducing()

    # --- its end -------------------------------------------------------------------------------

    def finish(self) -> Deferred[Ended]:
        """End the session: its payload is complete. Fires with the outcome or a `ServiceError`."""
        if self._over is not None:
            return fail(taken_over())
        result = ensureDeferred(self._finishing(self))
        self._over = when_fired(result)
        return result

    def abort(self) -> Deferred[None]:
        """End the session: the connection was lost, the client gave up, or its bytes are wrong.

        Frees the slot. A `provisional` session drops what it received.
        """
        if self._over is None:
            end = self._reverting if self.provisional else self._aborting
            self._over = ensureDeferred(end(self))
        return when_fired(self._over)

    def take_over(self) -> Deferred[None]:
        """End the session: another connection takes over the upload."""
        if self._over is None:
            self.on_broken(taken_over())
        return self.abort()
