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

    async def prune(self, wanted: int = 0) -> list[str]:
        """Remove results past their retention, and others until `wanted` bytes are free.

        Results that are being downloaded stay. Returns the ids of the tasks that expired.
        """
        now = self._reactor.seconds()
        kept = await self._store_thread.call(self._store.results)
        # Fetched ones first, then the oldest: what nobody has seen yet is missed the most.
        kept.sort(key=lambda t: (t.downloaded_at is None, t.completed_at or 0))
        expired = []
        for number, task in enumerate(kept):
            too_old = (task.completed_at or 0) + self._settings.retention <= now
            if not too_old:
                # Nothing is given up for what does not fit anyway.
                most = sum(t.output_size or 0 for t in kept[number:] if not self._downloading(t))
                if not self._data_folder.free() < wanted <= self._data_folder.free() + most:
                    continue
            if not self._downloading(task) and await self._expire(task):
                expired.append(task.task_id)
                self.log.info("task {task_id}: its result was pruned", task_id=task.task_id)
        return expired

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
        return True

    async def _remove_file(self, task: Task) -> None:
        try:
            await self._disk.call(self._data_folder.remove, task.output_key)
        except OSError:
            self.log.failure("{key} can't be removed", key=task.output_key)
        else:
            self._data_folder.removed(task.output_size or 0)

    def _download_ended(self, task_id: str) -> None:
        left = self._downloads.get(task_id, 1) - 1
        if left > 0:
            self._downloads[task_id] = left
        else:
            self._downloads.pop(task_id, None)
