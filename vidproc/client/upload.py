"""Resumable uploads: only bytes that the server does not have are sent again."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from vidproc.client.answer import TERMINAL, Answer
from vidproc.client.connection import Connection
from vidproc.client.errors import ConnectFailed, InputChanged
from vidproc.client.link import Link
from vidproc.client.requests import upload_fields
from vidproc.units import format_size


@dataclass(frozen=True, kw_only=True)
class UploadRequest:
    """What to send, and the callbacks. `size` is in bytes.

    `on_progress` gets the number of bytes sent so far. `unchanged` says whether the file is still
    the same as when the upload began. `earlier_id` is the upload_id of an earlier run with the same
    file and request: bytes that the server already has are not sent again. `begun_id` is the
    upload_id with which this run has sent something. `on_upload_id` gets the upload_id before
    anything is sent with it. `sha256` returns the checksum of the whole file, for
    an upload that is resumed.
    """

    operation: str
    parameters: dict[str, Any]
    file: BinaryIO
    size: int
    media_type: str
    filename: str
    on_progress: Callable[[int], None]
    unchanged: Callable[[], bool] = lambda: True
    earlier_id: str | None = None
    begun_id: str | None = None
    on_upload_id: Callable[[str], None] = lambda upload_id: None
    sha256: Callable[[], Awaitable[str]] | None = None


class Upload:
    """One upload over a link. After an interruption it resumes at the server's offset."""

    def __init__(self, link: Link, request: UploadRequest) -> None:
        self._link = link
        self._request = request
        self._state = _UploadState(request.size)
        self._sha256: str | None = None
        if request.begun_id is not None:
            self._state.upload_id = request.begun_id
            self._state.begun = True
        elif request.earlier_id is not None:
            self._state.upload_id = request.earlier_id
            self._state.earlier = True

    async def run(self) -> str:
        """Send the file and return the task ID.

        Raises `Refused`, `ConnectFailed`, `LostForGood` and `InputChanged`.
        """
        answer = await self._link.persist(self._attempt, forgive=lambda: self._state.offset > 0)
        return str(answer.fields.get("task_id"))

    async def _attempt(self, connection: Connection) -> Answer:
        state, request = self._state, self._request
        known = state.begun or state.earlier
        if known and not request.unchanged():
            raise InputChanged("The input file changed while it was being sent.")
        if known and state.resumable and not connection.has_begun:
            answer = await self._link.ask(connection, "upload_status", upload_id=state.upload_id)
            if self._resume_at(answer):
                if not state.earlier or state.begun or await self._worth_having(answer):
                    return answer
                state.start_over()
            connection = await self._link.connected()
        while True:
            answer = await self._send(connection)
            refusal = answer.refusal()
            right = None
            if refusal is not None:
                right = refusal.fields.get("offset") if refusal.code == 409 else None
                if right is None and state.earlier and refusal.for_good:
                    # It belongs to someone else or to another request.
                    self._link.log.info("the earlier upload cannot be resumed: %s", refusal)
                    state.start_over()
                    connection = await self._link.connected()
                    continue
                if refusal.code != 409:
                    raise refusal
            elif "task_id" in answer.fields:
                return answer
            else:
                right = answer.fields.get("offset")
            if not isinstance(right, int) or not 0 <= right <= request.size or not state.may_move():
                if refusal is not None:
                    raise refusal
                raise ConnectFailed("The server's answer to the upload has no task ID.")
            state.offset = right
            connection = await self._link.connected()

    async def _send(self, connection: Connection) -> Answer:
        state, request = self._state, self._request
        if not state.begun:
            request.on_upload_id(state.upload_id)
        state.begun = True
        sent = state.offset

        def moved(count: int) -> None:
            nonlocal sent
            sent += count
            request.on_progress(sent)

        try:
            request.file.seek(state.offset)
        except OSError as error:
            raise InputChanged(f"The input file cannot be read: {error.strerror}") from None
        rest_of = await self._rest_of() if state.offset else {}
        if rest_of:  # reading the file took time: the server may have closed the connection
            connection = await self._link.connected()
        fields = upload_fields(
            self._link.server.token,
            operation=request.operation,
            parameters=request.parameters,
            filename=request.filename,
            size=request.size,
            upload_id=state.upload_id,
            **rest_of,
        )
        self._link.log.info("upload of %d bytes begins at %d", request.size, state.offset)
        request.on_progress(sent)
        rest = request.size - state.offset
        return await connection.upload(fields, request.media_type, request.file, rest, moved)

    async def _rest_of(self) -> dict[str, Any]:
        """Return the fields of a request that sends the rest of a file.

        They include the SHA-256 of the whole file, because earlier bytes came over other
        connections.
        """
        fields: dict[str, Any] = {"offset": self._state.offset}
        if self._sha256 is None and self._request.sha256 is not None:
            try:
                self._sha256 = await self._request.sha256()
            except OSError as error:
                raise InputChanged(f"The input file cannot be read: {error.strerror}") from None
        if self._sha256 is not None:
            fields["sha256"] = self._sha256
        return fields

    async def _worth_having(self, accepted: Answer) -> bool:
        """Whether the task of an earlier run's upload may still have a result."""
        connection = await self._link.connected()
        answer = await self._link.ask(connection, "status", task_id=accepted.fields["task_id"])
        if answer.refusal() is not None or answer.fields.get("status") in TERMINAL - {"completed"}:
            return False
        self._link.notice("The upload is already complete. Continuing with its task.")
        return True

    def _resume_at(self, answer: Answer) -> bool:
        """Set the offset to resume at; return whether the upload is already complete."""
        state, refusal = self._state, answer.refusal()
        first = state.earlier and not state.begun
        if refusal is None:
            if "task_id" in answer.fields:
                return True
            offset = answer.fields.get("offset")
            if isinstance(offset, int) and 0 <= offset <= state.size:
                if offset > state.best:
                    state.best = offset
                    self._link.advance()
                state.offset = offset
                if first and offset:
                    done, whole = format_size(offset), format_size(state.size)
                    self._link.notice(f"Resuming the upload at {done} of {whole}.")
        elif refusal.code in (400, 404, 0) or (state.earlier and refusal.for_good):
            # 404: nothing has arrived. 400: the server does not support resuming.
            state.offset = 0
            state.resumable = refusal.code not in (400, 0)
            if state.earlier:
                self._link.log.info("the earlier upload cannot be resumed: %s", refusal)
                state.start_over()
        else:
            raise refusal
        return False


@dataclass
class _UploadState:
    """The progress of an upload. `best` is the highest offset that the server has confirmed.

    `earlier` is whether the upload_id comes from an earlier run.
    """

    size: int
    upload_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    earlier: bool = False
    offset: int = 0
    best: int = 0
    begun: bool = False
    resumable: bool = True
    moves: int = 0

    def start_over(self) -> None:
        """Start again at 0 with a new upload_id; happens at most once."""
        self.upload_id = str(uuid.uuid4())
        self.earlier = self.begun = False
        self.offset = self.best = 0

    def may_move(self) -> bool:
        """Whether the server may give another offset; bounded, to avoid an endless loop."""
        self.moves += 1
        return self.moves <= 10
