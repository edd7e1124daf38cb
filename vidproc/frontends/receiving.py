"""Feeds an upload's payload from the connection to its session."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPushProducer, ITransport
from twisted.protocols.policies import ProtocolWrapper
from zope.interface import implementer

from vidproc.errors import ServiceError
from vidproc.files.splice import Spliced, can_splice
from vidproc.tasks.uploads.session import UploadSession

MAX_READ_AHEAD = 64 << 10
"""Bytes that are read at a time when no upload is in progress."""
DIRECT_FROM = 64 << 10
"""The size of a read from which more bytes are expected to be waiting in the socket."""
DIRECT_SHARE = 0.02
"""The most that one upload may take at a time, in seconds at the limit on uploads."""


@implementer(IPushProducer)
class Receiving:
    """Feeds `session` from `transport`.

    `on_hold` is called when `held` changes, `on_broken` when the session cannot continue.
    """

    def __init__(
        self,
        session: UploadSession,
        transport: ITransport,
        on_hold: Callable[[], None],
        on_broken: Callable[[ServiceError], None],
    ) -> None:
        self.session = session
        self.held = False
        """Whether the session waits for the disk or for space."""
        self.direct = True
        """Whether bytes may bypass the connection; not if it has to see them."""
        self._transport = transport
        self._on_hold = on_hold
        session.on_broken = on_broken
        session.registerProducer(self, True)
        self._read_at_a_time(session.writer.read_size)

    def write(self, data: bytes | memoryview) -> None:
        """Take bytes of the payload that the reactor has read."""
        self.session.write(data)
        self._read_at_a_time(self.session.writer.read_size)

    def can_take_directly(self, size: int) -> bool:
        """Whether a thread could move the next `size` bytes of the payload past the reactor.

        A slow payload, or one through TLS, is read by the reactor.
        """
        return (
            self.direct
            and not self.held
            and size >= DIRECT_FROM
            and can_splice(self.session.writer, self._transport)
        )

    def take_directly(self, size: int, rate: float | None) -> Deferred[Spliced]:
        """Let a thread move up to `size` bytes. `rate` is the limit on uploads, if there is one.

        Nobody else may read the transport until the Deferred fires, whatever becomes of the upload.
        """
        if rate is not None:
            size = min(size, max(DIRECT_FROM, int(rate * DIRECT_SHARE)))
        return self.session.take_from(self._transport, size)

    def payload_ended(self) -> None:
        """Note that the payload is complete, so that the session can be finished."""
        self._read_at_a_time(MAX_READ_AHEAD)

    def abort(self) -> None:
        """Abort the session."""
        self.session.abort()

    # The session is a consumer, and this its producer:

    def pauseProducing(self) -> None:
        """The session waits for the disk or for space."""
        self.held = True
        self._on_hold()

    def resumeProducing(self) -> None:
        """The session takes bytes again."""
        self.held = False
        self._on_hold()

    def stopProducing(self) -> None:
        """Do nothing: the connection itself discards further bytes."""

    def _read_at_a_time(self, size: int) -> None:
        """Set the size of reads. It is large only during uploads, because it costs memory."""
        transport: Any = self._transport
        while isinstance(transport, ProtocolWrapper):
            transport = transport.transport  # a wrapper such as TLS; the socket reads
        if hasattr(transport, "bufferSize"):
            transport.bufferSize = size
