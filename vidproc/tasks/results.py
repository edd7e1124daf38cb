"""Results: opened for reading, kept for a while, and pruned."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass

from twisted.internet.interfaces import IReactorTime

from vidproc.errors import ErrorCode, ServiceError
from vidproc.files.data_folder import DataFolder
from vidproc.files.threads import WorkerThreads
from vidproc.tasks.model import InvalidTransition, State, Task
from vidproc.tasks.settings import Settings
from vidproc.tasks.store import TaskStore
from vidproc.tasks.views import not_completed
from vidproc.topics import Topic, TopicLogger

BATCH = 100
"""Results that are looked at together."""


@dataclass(slots=True)
class Result:
    """A finished task's file, open for reading at descriptor `fd`; `close` it when done."""

    task: Task
    fd: int
    size: int
    sha256: str
    media_type: str
    _closed: Callable[[], None]

    def close(self) -> None:
        """Close the file."""
        os.close(self.fd)
        self._closed()


class Results:
    """The files that finished tasks have left."""

    log = TopicLogger(Topic.TASKS)

    def __init__(
        self,
        reactor: IReactorTime,
        settings: Settings,
        data_folder: DataFolder,
        disk: WorkerThreads,
        store: TaskStore,
        store_thread: WorkerThreads,
    ) -> None:
        self._reactor = reactor
        self._settings = settings
        self._data_folder = data_folder
        self._disk = disk
        self._store = store
        self._store_thread = store_thread
        self._downloads: dict[str, int] = {}

    async def open(self, task: Task) -> Result:
        """Open a finished task's file; raises `ServiceError` 409 or 410."""
        gone = ServiceError(
            ErrorCode.GONE, "The result was removed from the server.", "Send the video again."
        )
        if task.state is State.EXPIRED or (
            task.state is State.COMPLETED and task.output_key is None
        ):
            raise gone
        if task.state is not State.COMPLETED:
            raise not_completed(task)
        assert task.output_key is not None
        path = self._data_folder.path(task.output_key)
        task_id = task.task_id
        self._downloads[task_id] = self._downloads.get(task_id, 0) + 1
        try:
            fd = await self._disk.call(os.open, path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            self._download_ended(task_id)
            if not isinstance(error, FileNotFoundError):
                raise
            raise gone from None
        return Result(
            task=task,
            fd=fd,
            size=task.output_size or 0,
            sha256=task.output_sha256 or "",
            media_type=task.output_type or "",
            _closed=lambda: self._download_ended(task_id),
        )

    def note_downloaded(self, task_id: str) -> None:
        """Remember that a result was fetched whole, so that it may be pruned before others."""
        noting = self._store_thread.call(
            self._store.update, task_id, downloaded_at=self._reactor.seconds()
        )
        noting.addErrback(lambda failure: self.log.failure("a download can't be noted", failure))

    async def remove(self, task: Task) -> None:
        """Remove a task's result, if it has one."""
        if task.output_key is not None:
            await self._remove_file(task)
            await self._store_thread.call(self._store.update, task.task_id, output_key=None)

    async def prune(self) -> list[str]:
        """Remove results past their retention; return the ids of their tasks.

        Results that are being downloaded stay.
        """
        before = self._reactor.seconds() - self._settings.retention
        expired = []
        while batch := await self._store_thread.call(self._store.expired, before, BATCH):
            gone = [t.task_id for t in batch if not self._downloading(t) and await self._expire(t)]
            expired += gone
            if len(gone) < BATCH:
                break
        return expired

    async def evictable(self, *, unfetched: bool) -> int:
        """Return the bytes that `make_space` could free."""
        orphans = await self._disk.call(self._data_folder.orphans)
        size = sum(size for _, size in orphans)
        for fetched, before in self._evictable(unfetched=unfetched):
            size += await self._store_thread.call(
                self._store.evictable_size, fetched=fetched, before=before
            )
        return size

    async def make_space(self, lacking: int, *, unfetched: bool) -> None:
        """Free `lacking` bytes: orphans first, then results that were fetched, oldest first.

        With `unfetched` also results that nobody fetched, unless they are younger than the minimum
        retention. Removes nothing if that would not do.
        """
        if lacking <= 0 or await self.evictable(unfetched=unfetched) < lacking:
            return
        for key, size in await self._disk.call(self._data_folder.orphans):
            if lacking <= 0:
                return
            await self._disk.call(self._data_folder.remove, key)
            self._data_folder.space.removed(size)
            lacking -= size
            self.log.warn("{key} was removed to make space", key=key)
        for fetched, before in self._evictable(unfetched=unfetched):
            while lacking > 0:
                batch = await self._store_thread.call(
                    self._store.evictable, fetched=fetched, before=before, most=BATCH
                )
                before_batch = lacking
                for task in batch:
                    if lacking > 0 and not self._downloading(task) and await self._expire(task):
                        lacking -= task.output_size or 0
                if lacking == before_batch:
                    break

    def _evictable(self, *, unfetched: bool) -> list[tuple[bool, float]]:
        """Return what `TaskStore.evictable` is to be asked for, in this order."""
        now = self._reactor.seconds()
        settings = self._settings
        age = min(settings.retention, settings.min_retention) if unfetched else settings.retention
        return [(True, now), (False, now - age)]

    def _downloading(self, task: Task) -> bool:
        return bool(self._downloads.get(task.task_id))

    async def _expire(self, task: Task) -> bool:
        """Remove a result; return whether it was there to be removed."""
        try:
            await self._store_thread.call(
                self._store.move, task.task_id, State.EXPIRED, output_key=None
            )
        except (InvalidTransition, KeyError):
            return False  # somebody else pruned it meanwhile
        except sqlite3.Error as error:
            # A full disk: the file must go for the row to be written. A row without its file
            # answers 410 as well, and is put right the next time.
            self.log.warn("task {task_id}: {error}", task_id=task.task_id, error=str(error))
        await self._remove_file(task)
        self.log.info("task {task_id}: its result was removed", task_id=task.task_id)
        return True

    async def _remove_file(self, task: Task) -> None:
        try:
            await self._disk.call(self._data_folder.remove, task.output_key)
        except OSError:
            self.log.failure("{key} can't be removed", key=task.output_key)
        else:
            self._data_folder.space.removed(task.output_size or 0)

    def _download_ended(self, task_id: str) -> None:
        left = self._downloads.get(task_id, 1) - 1
        if left > 0:
            self._downloads[task_id] = left
        else:
            self._downloads.pop(task_id, None)
