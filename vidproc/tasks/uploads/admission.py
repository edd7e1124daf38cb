"""Admission of an upload: a slot for its sender, and space for its bytes and its output."""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable
from functools import partial
from typing import NamedTuple, Protocol

from vidproc.files.data_folder import upload_key
from vidproc.tasks.foundation import Foundation
from vidproc.tasks.model import State, Task
from vidproc.tasks.orders import Order
from vidproc.tasks.results import Results
from vidproc.tasks.store_errors import explain_store_error
from vidproc.tasks.uploads.broken import BrokenUploads
from vidproc.tasks.uploads.refusals import require_offset, still_ending
from vidproc.tasks.uploads.space import UploadSpace
from vidproc.topics import Topic, TopicLogger


class Admitted(NamedTuple):
    """An upload that may continue from `offset`; its row is in state `UPLOADING`."""

    task: Task
    order: Order
    offset: int
    space: UploadSpace


class _TakeSlot(Protocol):
    """A method of the store, but for the upload that it is about."""

    def __call__(
        self, tasks_per_peer: int, queue_size: int, *, tasks_per_token: int | None
    ) -> Task | None: ...


class Admission:
    """Takes a slot, within a transaction of the store, then reserves space."""

    log = TopicLogger(Topic.UPLOADS)

    def __init__(
        self,
        foundation: Foundation,
        results: Results,
        broken: BrokenUploads,
    ) -> None:
        self._settings = foundation.settings
        self._data_folder = foundation.data_folder
        self._disk = foundation.disk
        self._store = foundation.store
        self._store_thread = foundation.store_thread
        self._results = results
        self._broken = broken

    async def admit(self, task: Task, order: Order) -> Admitted:
        """Admit a new upload. Raises `ServiceError` 429, 500, 503 or 507."""
        return await self._take_slot(
            task, order, 0, self._broken.forget, partial(self._store.uploads.admit, task)
        )

    async def resume(
        self, known: Task, task: Task, order: Order, offset: int | None, *, provisional: bool
    ) -> Admitted:
        """Admit an upload that continues from `offset`: `known` in the store, `task` as requested.

        Without an offset it starts again, and replaces what was received. If `provisional`, what
        arrives does not count as received until the session is finished. Raises `ServiceError` as
        `admit` does, and 409 for a wrong offset.
        """
        if known.state is State.UPLOADING:
            raise still_ending()
        arrived = 0
        if offset is not None:
            arrived = await self._disk.call(self._data_folder.size, upload_key(known.task_id))
            require_offset(offset, arrived)
        if task.input_size and not known.input_size:
            known.input_size = task.input_size
            await self._store_thread.call(
                self._store.update, known.task_id, input_size=known.input_size
            )
        resume = partial(
            self._store.uploads.resume,
            known.task_id,
            sha256=task.upload_sha256,
            verified=arrived if provisional else None,
        )
        try:
            return await self._take_slot(known, order, arrived, self._broken.restore, resume)
        except KeyError:  # pruned meanwhile
            require_offset(offset or 0, 0)
            return await self.admit(task, order)

    async def _take_slot(
        self,
        task: Task,
        order: Order,
        offset: int,
        undo: Callable[[Task], Awaitable[object]],
        take: _TakeSlot,
    ) -> Admitted:
        """Take a slot, then reserve space; if that fails, `undo` it."""
        try:
            taken = await self._store_thread.call(
                take,
                self._settings.tasks_per_ip,
                self._settings.queue_size,
                tasks_per_token=self._settings.tasks_per_token,
            )
        except sqlite3.Error as error:
            self.log.error("an upload can't be admitted: {error}", error=str(error))
            raise explain_store_error(error) from error
        space = UploadSpace(self._data_folder.space, self._results, task, order)
        try:
            await space.claim(max(0, task.input_size - offset), offset)
        except BaseException:
            await undo(task)  # refused before its first byte: leave no trace of it
            raise
        return Admitted(taken or task, order, offset, space)
