"""Incomplete uploads in the store: created, described, given a length.

An upload without a byte holds no slot and no space, so an address may have only a few of them,
for a short time.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from twisted.internet.interfaces import IReactorTime

from vidproc.files.data_folder import upload_key
from vidproc.tasks.model import State, Task
from vidproc.tasks.settings import Caller, Settings
from vidproc.tasks.store.store import TaskStore
from vidproc.tasks.uploads.refusals import (
    length_contradicts,
    no_such_upload,
    require_owner,
    require_same,
)
from vidproc.tasks.uploads.submission import require_length

MOST_ANNOUNCED = 8
"""The most uploads without a byte of one address; a further one replaces the oldest."""
ANNOUNCED_RETENTION = 600.0
"""Seconds for which an upload without a byte is kept."""


@dataclass(frozen=True, slots=True)
class UploadView:
    """A resumable upload as it is now. Sizes in bytes, times in seconds since the epoch.

    `length` is None until it is known. `expires_at` is None while a connection sends bytes, and
    once the upload is complete; then `task_id` is set.
    """

    upload_id: str
    type: str
    offset: int
    length: int | None
    created_at: float
    expires_at: float | None
    filename: str | None = None
    task_id: str | None = None
    parameters: dict[str, Any] = field(default_factory=dict)
    media_type: str = ""
    metadata: str | None = None
    arriving: bool = False
    """Whether a connection is sending it, so that `offset` may grow."""


Call = Callable[..., Awaitable[Any]]


class KnownUploads:
    """The incomplete uploads in the store.

    `in_store` calls a method of the store in its thread; `size_on_disk` returns the bytes of a
    file. `received` returns how many bytes of an upload are written, None if no connection sends
    it.
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
        """Create an upload, which will become `task`, before its first byte.

        Doing so again changes nothing. Raises `ServiceError` 409 for someone else's id, 422 for a
        different request under the same id.
        """
        assert task.upload_id is not None
        known = await self._in_store(self._store.uploads.by_upload_id, task.upload_id)
        if known is None:
            now = self._reactor.seconds()
            task.announced_at = task.parked_at = now
            task.state = State.PARTIAL
            await self._in_store(self._store.uploads.announce, task, MOST_ANNOUNCED)
            return await self._view(task)
        require_owner(known, caller, self._settings.owner_only)
        require_same(known, task)
        return await self._view(known)

    async def find(self, upload_id: str, caller: Caller) -> Task:
        """Return the task of an upload, complete or not; raises `ServiceError` 404."""
        task: Task | None = await self._in_store(self._store.uploads.by_upload_id, upload_id)
        if task is None or not caller.owns(task, self._settings.owner_only):
            raise no_such_upload()
        return task

    async def describe(self, upload_id: str, caller: Caller) -> UploadView:
        """Return the current view of an upload; raises `ServiceError` 404."""
        return await self._view(await self.find(upload_id, caller))

    async def set_length(self, upload_id: str, length: int, caller: Caller) -> UploadView:
        """Note the length of an upload that was created without one.

        Raises `ServiceError` 404, 413 if it is too long, 422 if it contradicts an earlier length or
        the bytes received.
        """
        task = await self.find(upload_id, caller)
        view = await self._view(task)
        if view.length is None and view.offset <= length and length > 0:
            require_length(length, self._settings.max_upload)
            await self._in_store(self._store.update, task.task_id, input_size=length)
            task.input_size = length
            return await self._view(task)
        if view.length != length:
            raise length_contradicts(length, view.length or view.offset)
        return view

    async def _view(self, task: Task) -> UploadView:
        assert task.upload_id is not None
        expires_at = None
        received = None
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
            parameters=task.parameters,
            media_type=task.media_type,
            metadata=task.upload_metadata,
            arriving=received is not None,
        )
