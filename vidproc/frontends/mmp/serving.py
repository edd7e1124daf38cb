"""Serves the requests of one connection: answers each and determines the next state.

It knows requests and tasks; `protocol.py` knows bytes, flow control and the connection's end.
"""

from __future__ import annotations

from typing import Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from vidproc.answers import Answer
from vidproc.errors import ServiceError
from vidproc.files.sender import TransferStopped
from vidproc.frontends.interface import Backend
from vidproc.frontends.mmp import states
from vidproc.frontends.mmp.reports import status_report
from vidproc.frontends.mmp.requests import (
    answer_request,
    download_answer,
    submission_of,
    upload_answer,
)
from vidproc.frontends.mmp.watching import Watching
from vidproc.frontends.receiving import Receiving
from vidproc.frontends.sending import Sending
from vidproc.frontends.slow_clients import SlowClientWatch
from vidproc.mmp import messages
from vidproc.mmp.codec import MessageStarted
from vidproc.tasks.results import Result
from vidproc.tasks.settings import Caller
from vidproc.tasks.uploads.refusals import taken_over
from vidproc.tasks.uploads.session import AcceptedTask, Ended
from vidproc.tasks.views import TaskView
from vidproc.topics import Topic, TopicLogger
from vidproc.transport import IStreamTransport


class ServedConnection(Protocol):
    """The connection that the requests come from."""

    transport: IStreamTransport
    clock: IReactorTime
    state: states.Ready
    slow_client: SlowClientWatch
    write_blocked: bool
    """Whether the client does not read."""

    def enter(self, state: states.Ready) -> None:
        """Change the state while a request is being answered."""

    def go_on(self, state: states.Ready) -> None:
        """Enter the state that follows an answer."""

    def send(
        self, answer: Answer, media_type: str = "", payload_size: int = 0, *, detail: bool = False
    ) -> None:
        """Send an answer; the payload follows it."""

    def adjust_reading(self) -> None:
        """Pause or resume reading, depending on the state."""

    def end(self) -> None:
        """End the connection gracefully."""

    def abort(self) -> None:
        """Close the connection at once."""


class RequestServer:
    """Answers the requests of `connection`. Its coroutines return the next state, or raise
    `ServiceError`, or `TransferStopped` if the connection has ended."""

    log = TopicLogger(Topic.CONNECTIONS)

    def __init__(self, connection: ServedConnection, backend: Backend) -> None:
        self._connection = connection
        self._backend = backend
        self._gate = backend.gate
        self._tasks = backend.tasks

    async def serve(
        self, request: messages.Request, head: MessageStarted, caller: Caller
    ) -> states.Ready:
        """Answer a request."""
        match request:
            case messages.Upload():
                return await self._upload(request, head, caller)
            case messages.Download():
                return await self._download(request, caller)
            case messages.Watch():
                return await self._watch(request, caller)
        answer, long = await answer_request(request, caller, self._backend)
        self._answer(answer, detail=long)
        return states.Ready()

    def _answer(self, answer: Answer, *, detail: bool = False) -> None:
        """Send an answer with the request's id."""
        answer.id = self._connection.state.request_id
        self._connection.send(answer, detail=detail)

    # --- uploads -------------------------------------------------------------------------------

    async def _upload(
        self, request: messages.Upload, head: MessageStarted, caller: Caller
    ) -> states.Ready:
        admitted = await self._tasks.admit(submission_of(request, head), caller)
        if isinstance(admitted, AcceptedTask):
            self._answer(upload_answer(admitted))
            return states.Ready()
        if admitted.over:  # a newer connection has taken over
            raise taken_over()
        if self._connection.state.over:
            admitted.abort()
            return states.Ready()
        upload = Receiving(
            admitted, self._connection.transport, self._upload_held, self._upload_broken
        )
        self._connection.slow_client.forgive()
        return states.Uploading(upload, request.id)

    async def tell_upload(self, finished: Deferred[Ended]) -> states.Ready:
        """Answer the request of an upload that is being finished."""
        self._answer(upload_answer(await finished))
        return states.Ready()

    def _upload_held(self) -> None:
        """The upload starts or stops waiting for the disk or for space."""
        self._connection.slow_client.forgive()
        self._connection.adjust_reading()

    def _upload_broken(self, error: ServiceError) -> None:
        """The session cannot continue: tell the client at once, and discard the rest."""
        state = self._connection.state
        if isinstance(state, states.Uploading):
            self._connection.send(messages.error_answer(error, state.request_id))
            self._connection.go_on(states.Ready())

    # --- downloads -----------------------------------------------------------------------------

    async def _download(self, request: messages.Download, caller: Caller) -> states.Ready:
        result = await self._tasks.result(request.task_id, caller)
        try:
            if not self._connection.state.over:
                await self._send_result(request, result)
        finally:
            result.close()
            self._tasks.note_sent(result, request.offset, request.offset + result.sent)
        return states.Ready()

    async def _send_result(self, request: messages.Download, result: Result) -> None:
        connection = self._connection
        answer = download_answer(request, result)
        connection.send(answer, result.media_type, result.size - request.offset)
        connection.slow_client.forgive()
        sending = Sending(
            self._backend.disk, result, request.offset, connection.transport, self._sent
        )
        if connection.write_blocked:
            sending.pause()
        connection.enter(states.Sending(sending, request.id))
        try:
            await sending.run()
        except OSError as error:
            # The header announced bytes that will not follow, so only closing can tell the client.
            self.log.error(
                "result of task {task_id} can't be read: {error}",
                task_id=request.task_id,
                error=error,
            )
            connection.abort()
            raise TransferStopped from error

    def _sent(self, size: int) -> None:
        self._connection.slow_client.sent(size)
        self._gate.traffic.sent += size

    # --- watching ------------------------------------------------------------------------------

    async def _watch(self, request: messages.Watch, caller: Caller) -> states.Ready:
        connection = self._connection

        def send(view: TaskView) -> bool:
            if not connection.write_blocked:
                connection.send(status_report(view, request), detail=request.detail)
            return not connection.write_blocked

        def failed(watch: Watching) -> None:
            # The task's status cannot be sent because of an internal error.
            connection.send(messages.error_answer(self._gate.fault(Failure()), request.id))
            connection.end()

        watch = Watching(connection.clock, request.interval, send, self._watch_ended, failed)
        view, subscription = await self._tasks.watch(request.task_id, caller, watch.show)
        if subscription is not None:
            watch.begin(subscription)
        if not connection.state.over:
            watch.show(view)
        return states.Ready() if watch.over else states.Watching(watch, request.id)

    def _watch_ended(self, watch: Watching) -> None:
        """The watched task has ended, and its last status was sent."""
        state = self._connection.state
        if isinstance(state, states.Watching) and state.watch is watch:
            self._connection.go_on(states.Ready())
