"""The states of an MMP connection.

    Ready ──▶ Answering ──▶ Ready                      a request is answered
                        ├─▶ Uploading ──▶ Finishing ──▶ Ready
                        ├─▶ Sending ──▶ Ready          a result is sent
                        └─▶ Watching ──▶ Ready         until its task ends, or the next request
    any of them ──▶ Ending ──▶ Lost

`leave` ends what a state was doing; it is called whenever another state follows.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IReactorTime

from vidproc.answers import RequestId
from vidproc.frontends import receiving, sending
from vidproc.frontends.mmp.watching import Watching as Watch
from vidproc.frontends.slow_clients import Waiting
from vidproc.frontends.timer import Timer

DISCARD_TIME = 30.0
"""Seconds for which the payload of a refused request is read and discarded."""
LINGER_TIME = 5.0
"""Seconds for which an ending connection is still read, so that its last answer arrives."""


class Ready:
    """Waits for a request, or reads the rest of the last one's payload."""

    waiting = Waiting.CLIENT
    """Whom the connection is waiting for, while the client reads what we write."""
    waiting_to_write = Waiting.CLIENT_BLOCKS
    """The same while the client does not read."""
    takes_requests = True
    """Whether the next event may be processed."""
    transferring = False
    """Whether a file is being transferred, in or out."""
    over = False
    """Whether no further requests are served."""
    request_id: RequestId = None
    """The id of the current request."""

    @property
    def held(self) -> bool:
        """Whether the client must be paused because the server lags."""
        return False

    @property
    def blocked(self) -> bool:
        """Whether the client does not read a file that bypasses the transport's buffer."""
        return False

    def take(self, data: bytes | memoryview) -> None:
        """Discard bytes of a payload that nobody needs."""

    def client_blocks(self) -> None:
        """The client does not read: write nothing more."""

    def client_reads(self) -> None:
        """The client reads again."""

    def leave(self) -> None:
        """Another state follows."""


class Answering(Ready):
    """A request is being answered; further ones have to wait."""

    waiting = Waiting.US
    takes_requests = False

    def __init__(self, request_id: RequestId = None) -> None:
        self.request_id = request_id


class Uploading(Ready):
    """The payload of an upload arrives."""

    waiting = Waiting.CLIENT_SENDS
    transferring = True

    def __init__(self, upload: receiving.Receiving, request_id: RequestId = None) -> None:
        self.upload = upload
        self.request_id = request_id

    @property
    def held(self) -> bool:
        return self.upload.held

    def take(self, data: bytes | memoryview) -> None:
        self.upload.write(data)

    def leave(self) -> None:
        # Has no effect once the session is being finished.
        self.upload.abort()


class Finishing(Answering):
    """A complete upload is being stored safely."""

    transferring = True


class Sending(Answering):
    """A result is being sent."""

    waiting_to_write = Waiting.CLIENT_BLOCKS_FILE
    transferring = True

    def __init__(self, result: sending.Sending, request_id: RequestId = None) -> None:
        super().__init__(request_id)
        self.result = result

    @property
    def blocked(self) -> bool:
        return self.result.blocked

    def client_blocks(self) -> None:
        self.result.pause()

    def client_reads(self) -> None:
        self.result.resume()

    def leave(self) -> None:
        self.result.stop()


class Watching(Ready):
    """A task is watched until it ends or the next request arrives."""

    waiting = Waiting.US

    def __init__(self, watch: Watch, request_id: RequestId = None) -> None:
        self.watch = watch
        self.request_id = request_id

    def client_reads(self) -> None:
        self.watch.catch_up()

    def leave(self) -> None:
        self.watch.end()


class Ending(Ready):
    """The last answer was written. What the client still sends is discarded, for `LINGER_TIME`.

    Closing with unread bytes would make the kernel reset the connection, and the client would lose
    the answer.
    """

    takes_requests = False
    over = True

    def __init__(self, clock: IReactorTime, abort: Callable[[], None]) -> None:
        self._lingering = Timer(clock, abort)
        self._lingering.start(LINGER_TIME)

    def leave(self) -> None:
        self._lingering.stop()


class Lost(Ready):
    """The connection is lost."""

    takes_requests = False
    over = True
