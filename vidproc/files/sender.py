"""What all senders of files have in common: threads do the work, and the result is told once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPushProducer, ITransport
from twisted.python.failure import Failure
from zope.interface import implementer

from vidproc.files.threads import WorkerThreads

TransportT = TypeVar("TransportT", bound=ITransport)


class TransferStopped(Exception):
    """A transfer ended early because the other side disconnected."""


@implementer(IPushProducer)
class Sender(Generic[TransportT]):
    """Sends bytes `start` to `end` of the open file `fd` to a transport.

    `on_progress` gets the number of bytes sent each time. `result` fires with None when the last
    byte has been handed over, or fails with the `OSError` of a read or with `TransferStopped`. It
    never fires while a thread is using the file, because the owner closes it next.
    """

    def __init__(
        self,
        threads: WorkerThreads,
        fd: int,
        start: int,
        end: int,
        transport: TransportT,
        on_progress: Callable[[int], None] = lambda _: None,
    ) -> None:
        self.result: Deferred[None] = Deferred()
        self.blocked = False
        """Whether it is waiting for the client to read. If the transport itself waits, that tells
        its producer, and this stays False."""
        self._threads = threads
        self._fd = fd
        self._position = start
        self._end = end
        self._transport = transport
        self._on_progress = on_progress
        self._paused = False
        self._in_thread = False
        self._over = False
        self._outcome: BaseException | None = None

    def start(self) -> None:
        """Start; call it once."""
        raise NotImplementedError

    def pauseProducing(self) -> None:
        """Send nothing more for now."""
        self._paused = True

    def resumeProducing(self) -> None:
        """Continue."""
        raise NotImplementedError

    def stopProducing(self) -> None:
        """The connection is lost."""
        self._finish(TransferStopped("the connection was lost"))

    def _finish(self, outcome: BaseException | None) -> None:
        if not self._over:
            self._over = True
            self.blocked = False
            self._outcome = outcome
            if not self._in_thread:
                self._fire()

    def _fire(self) -> None:
        """Tell the result, once no thread is at work."""
        if self._outcome is None:
            self.result.callback(None)
        else:
            self.result.errback(self._outcome)

    def _failed(self, failure: Failure) -> None:
        """Note that the work of a thread has failed."""
        self._in_thread = False
        if self._over:
            self._fire()
        else:
            self._finish(failure.value or OSError("the file can't be sent"))
