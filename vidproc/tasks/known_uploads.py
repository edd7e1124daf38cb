"""Uploads between their parts: created before the first byte, described, given a length, abandoned.

An upload without a byte holds no slot and no space, so an address has only a few of them, for a
short time.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from twisted.internet.interfaces import IReactorTime

from vidproc.errors import ErrorCode, ServiceError
from vidproc.files.data_folder import upload_key
from vidproc.tasks.model import State, Task
from vidproc.tasks.settings import Caller, Settings
from vidproc.tasks.store import TaskStore
from vidproc.units import format_size

MOST_ANNOUNCED = 8
"""Uploads without a byte that an address keeps; the oldest goes for a new one."""
ANNOUNCED_RETENTION = 600.0
"""Seconds for which an upload without a byte is kept."""


@dataclass(frozen=True, slots=True)
class UploadView:
    """A resumable upload as it is now. Sizes in bytes, times in seconds since the epoch.

    `length` is None while nobody has said it; `expires_at` is None while bytes come, and once the
    upload is whole: `task_id` is set then.
    """

    upload_id: str
    type: str
    offset: int
    length: int | None
    created_at: float
    expires_at: float | None
    filename: str | None = None
    task_id: str | None = None


Call = Callable[..., Awaitable[Any]]


class KnownUploads:
    """What the store knows of uploads that are not whole.

    `in_store` and `on_disk` call in the threads for that; `received` tells how many bytes of an
    upload under way are written, None when no bytes of it come.
    """

    def __init__(
        self,
        reactor: IReactorTime,
        settings: Settings,
        store: TaskStore,
        in_store: Call,
        size_on_disk: Callable[[str], Awaitable[int]],
        received: Callable[[str], int | None],
    ) -> None:
        self._reactor = reactor
        self._settings = settings
        self._store = store
        self._in_store = in_store
        self._size_on_disk = size_on_disk
        self._received = received

    async def announce(self, task: Task, caller: Caller) -> UploadView:
        """Remember an upload, the `task` that it shall become, before its first byte.

        The same again is fine. Raises `ServiceError` 409 for another's id, 422 for another request
        under the same id.
        """
        assert task.upload_id is not None
        known = await self._in_store(self._store.by_upload_id, task.upload_id)
        if known is None:
            now = self._reactor.seconds()
            task.announced_at = task.parked_at = now
            task.state = State.PARTIAL
            await self._in_store(self._store.announce, task, MOST_ANNOUNCED)
            return await self._view(task)
        require_owner(known, caller, self._settings.owner_only)
        require_same(known, task)
        return await self._view(known)

    async def find(self, upload_id: str, caller: Caller) -> Task:
        """Return the task of an upload, whole or not; raises `ServiceError` 404."""
        task: Task | None = await self._in_store(self._store.by_upload_id, upload_id)
        if task is None or not caller.owns(task, self._settings.owner_only):
            raise ServiceError(
                ErrorCode.NOT_FOUND,
                "There is no such upload.",
                "Start it with an upload request from offset 0.",
            )
        return task

    async def describe(self, upload_id: str, caller: Caller) -> UploadView:
        """Return an upload as it is now; raises `ServiceError` 404."""
        return await self._view(await self.find(upload_id, caller))

    async def set_length(self, upload_id: str, length: int, caller: Caller) -> UploadView:
        """Note the length of an upload that was created without one.

        Raises `ServiceError` 404, 413 when it is too long, 422 when it is not the one that was
        said before or less than what has come.
        """
        task = await self.find(upload_id, caller)
        view = await self._view(task)
        if view.length is None and view.offset <= length and length > 0:
            require_length(length, self._settings)
            await self._in_store(self._store.update, task.task_id, input_size=length)
            task.input_size = length
            return await self._view(task)
        if view.length != length:
            raise ServiceError(
                ErrorCode.INVALID_PARAMETER,
                f"The upload can't have {length} bytes: it has {view.length or view.offset}.",
                "Say the length of the whole file, once.",
            )
        return view

    async def _view(self, task: Task) -> UploadView:
        assert task.upload_id is not None
        expires_at = None
        whole = task.state not in (State.UPLOADING, State.PARTIAL)
        if whole:
            offset = task.input_size
        else:
            received = self._received(task.upload_id)
            offset = (
                await self._size_on_disk(upload_key(task.task_id)) if received is None else received
            )
            if received is None and task.state is State.PARTIAL:
                parked_at = task.parked_at or task.created_at
                expires_at = parked_at + self._settings.upload_retention
                if offset == 0 and task.announced_at is not None:
                    expires_at = task.announced_at + ANNOUNCED_RETENTION
        return UploadView(
            upload_id=task.upload_id,
            type=task.type,
            offset=offset,
            length=task.input_size or None,
            created_at=task.created_at,
            expires_at=expires_at,
            filename=task.filename,
            task_id=task.task_id if whole else None,
        )


def require_owner(known: Task, caller: Caller, owner_only: bool) -> None:
    """Raise `ServiceError` 409 when an upload belongs to somebody else."""
    if not caller.owns(known, owner_only):
        raise ServiceError(
            ErrorCode.CONFLICT,
            "This upload_id belongs to somebody else.",
            "Draw a new UUID and start again.",
        )


def require_same(known: Task, task: Task) -> None:
    """Raise `ServiceError` 422 when a request is not the one that an upload was begun with.

    A length that is not known yet fits any.
    """
    lengths = {known.input_size, task.input_size} - {0}
    if (known.type, known.parameters) != (task.type, task.parameters) or len(lengths) > 1:
        raise ServiceError(
            ErrorCode.INVALID_PARAMETER,
            "This upload_id was begun with another type, size or other parameters.",
            "Send the same request again, or draw a new UUID for a new upload.",
        )


def require_length(length: int, settings: Settings) -> None:
    """Raise `ServiceError` 415 when a file is empty, 413 when it is too long."""
    if length == 0:
        raise ServiceError(
            ErrorCode.UNSUPPORTED_MEDIA,
            "The file is empty.",
            "Send a video file as the payload.",
        )
    if length > settings.max_upload:
        raise ServiceError(
            ErrorCode.TOO_LARGE,
            f"The file has {format_size(length)}; this server takes"
            f" {format_size(settings.max_upload)}.",
            "Send a smaller file, or a part of it.",
        )
