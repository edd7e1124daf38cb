"""Sends a result's bytes to the client."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import ITransport

from vidproc.files.sendfile import make_sender
from vidproc.files.threads import WorkerThreads
from vidproc.tasks.results import Result


class Sending:
    """Sends `result` from byte `offset` on, up to `end` if that is given.

    `on_sent` gets the number of bytes sent each time.
    """

    def __init__(
        self,
        threads: WorkerThreads,
        result: Result,
        offset: int,
        transport: ITransport,
        on_sent: Callable[[int], None],
        end: int | None = None,
    ) -> None:
        self._result = result
        self._on_sent = on_sent
        last = result.size if end is None else end
        self._sender = make_sender(
            threads, result.fd, offset, last, transport, on_progress=self.sent
        )

    @property
    def blocked(self) -> bool:
        """Whether it waits for the client to read."""
        return self._sender.blocked

    async def run(self) -> None:
        """Send it. Returns when the last byte has been handed over.

        Raises `OSError` if the file can't be read, `TransferStopped` if the connection is lost.
        """
        self._sender.start()
        await self._sender.result

    def sent(self, size: int) -> None:
        """Note bytes that were sent."""
        self._result.sent += size
        self._on_sent(size)

    def pause(self) -> None:
        """The client does not read."""
        self._sender.pauseProducing()

    def resume(self) -> None:
        """The client reads again."""
        self._sender.resumeProducing()

    def stop(self) -> None:
        """The connection is lost."""
        self._sender.stopProducing()
