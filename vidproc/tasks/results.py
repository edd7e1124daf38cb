"""Results: opened for download, pruned after their retention, evicted to make space."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from twisted.internet.defer import DeferredLock

from vidproc.errors import ErrorCode, ServiceError
from vidproc.tasks.ended_tasks import EndedTasks
from vidproc.tasks.foundation import Foundation
from vidproc.tasks.model import State, Task
from vidproc.tasks.views import not_completed
from vidproc.topics import Topic, TopicLogger

R = TypeVar("R")

BATCH = 100
"""Results that are queried and removed together."""
BATCHES = 10
"""Batches that are pruned in one round of upkeep."""


@dataclass(slots=True)
class Result:
    """A finished task's file, open for reading at descriptor `fd`; `close` it when done."""

    task: Task
    fd: int
    size: int
    sha256: str
    media_type: str
    _closed: Callable[[], None]
    sent: int = 0
    """Bytes sent to the client so far."""

    def close(self) -> None:
        """Close the file."""
        os.close(self.fd)
        self._closed()


class _Damaged(Exception):
    """A result's file is not as long as it was when it was stored."""


def _open_whole(path: Path, size: int) -> int:
    """Return a descriptor of a file of `size` bytes. Raises `OSError` and `_Damaged`.

    An answer that announced more bytes than there are could only break off, again and again.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    found = os.fstat(fd).st_size
    if found != size:
        os.close(fd)
        raise _Damaged(f"it has {found} bytes, not {size}")
    return fd


class Results:
    """The results of finished tasks."""

    log = TopicLogger(Topic.TASKS)

    def __init__(
        self,
        foundation: Foundation,
        ended: EndedTasks,
    ) -> None:
        self._reactor = foundation.reactor
        self._settings = foundation.settings
        self._data_folder = foundation.data_folder
        self._disk = foundation.disk
        self._store = foundation.store
        self._store_thread = foundation.store_thread
        self._ended = ended
        self._downloads: dict[str, int] = {}
        self._removed_early: dict[str, int] = {}
        self._sent: dict[str, int] = {}
        self._evicting = DeferredLock()

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
            fd = await self._disk.call(_open_whole, path, task.output_size or 0)
        except _Damaged as error:
            self._download_ended(task_id)
            self.log.error("the result of task {id} is damaged: {why}", id=task_id, why=str(error))
            raise ServiceError(
                ErrorCode.GONE, "The result is damaged on the server.", "Send the video again."
            ) from None
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

    def note_sent(self, task: Task, start: int, end: int) -> None:
        """Note that the bytes from `start` to `end` of a result were sent to a client.

        A result counts as fetched once all bytes were sent, in one download or in several that
        continue one another.
        """
        reached = self._sent.get(task.task_id, 0)
        if start > reached:
            return
        reached = self._sent[task.task_id] = max(reached, end)
        if reached >= (task.output_size or 0):
            del self._sent[task.task_id]
            self.note_downloaded(task.task_id)

    def note_downloaded(self, task_id: str) -> None:
        """Note that a result was fetched completely, so that it may be evicted before others."""
        noting = self._store_thread.call(
            self._store.update, task_id, downloaded_at=self._reactor.seconds()
        )
        noting.addCallback(lambda _: self._ended.forget([task_id]))
        noting.addErrback(lambda failure: self.log.failure("a download can't be noted", failure))

    async def remove(self, task: Task) -> None:
        """Remove a task's result, if it has one."""
        if task.output_key is not None:
            await self._remove_files([task])
            self._sent.pop(task.task_id, None)
            await self._store_thread.call(self._store.update, task.task_id, output_key=None)
            self._ended.forget([task.task_id])

    async def prune(self) -> list[str]:
        """Remove results past their retention, oldest first; return the ids of their tasks.

        At most `BATCHES` in one round, so that other upkeep gets its turn. A download in progress
        continues with the unlinked file, whose bytes are counted until it ends.
        """
        before = self._reactor.seconds() - self._settings.retention
        expired: list[str] = []
        for _ in range(BATCHES):
            batch = await self._store_thread.call(self._store.results.expired, before, BATCH)
            expired += [task.task_id for task in await self._expire(batch)]
            if len(batch) < BATCH:
                break
        return expired

    async def evictable(self, *, unfetched: bool) -> int:
        """Return the bytes that `make_space` could free."""
        orphans = await self._disk.call(self._data_folder.orphans)
        size = sum(size for _, size in orphans)
        for fetched, before in self._evictable(unfetched=unfetched):
            size += await self._store_thread.call(
                self._store.results.evictable_size, fetched=fetched, before=before
            )
        return size

    async def make_space(
        self, lacking: Callable[[], int], then: Callable[[], R], *, unfetched: bool
    ) -> R:
        """Free the bytes that `lacking` returns, if they can be freed; return what `then` returns.

        Orphans go first, then results that were fetched, oldest first. With `unfetched` also
        results that nobody fetched, unless they are younger than the minimum retention. Nothing is
        removed if that would not do.

        One caller at a time, each with its own `then`, so that nobody else takes what was freed,
        and nobody frees what another one has freed already.
        """
        if lacking() <= 0:
            return then()
        await self._evicting.acquire()
        try:
            while (bytes_lacking := lacking()) > 0:
                if await self.evictable(unfetched=unfetched) < bytes_lacking:
                    break
                if not await self._evict(bytes_lacking, unfetched=unfetched):
                    break
            return then()
        finally:
            self._evicting.release()

    async def _evict(self, lacking: int, *, unfetched: bool) -> int:
        """Remove what may go, in the order of `make_space`; return the bytes that were removed."""
        wanted = lacking
        for key, size in await self._disk.call(self._data_folder.orphans):
            if lacking <= 0:
                break
            await self._disk.call(self._data_folder.remove, key)
            self._data_folder.space.removed(size)
            lacking -= size
            self.log.warn("{key} was removed to make space", key=key)
        for fetched, before in self._evictable(unfetched=unfetched):
            while lacking > 0:
                batch = await self._store_thread.call(
                    self._store.results.evictable,
                    fetched=fetched,
                    before=before,
                    most=BATCH + len(self._downloads),
                )
                chosen, chosen_size = [], 0
                for task in batch:
                    if chosen_size < lacking and not self._downloads.get(task.task_id):
                        chosen.append(task)
                        chosen_size += task.output_size or 0
                gone = await self._expire(chosen)
                if not gone:
                    break
                lacking -= sum(task.output_size or 0 for task in gone)
        return wanted - lacking

    def _evictable(self, *, unfetched: bool) -> list[tuple[bool, float]]:
        """Return what `TaskStore.evictable` is to be asked for, in this order."""
        now = self._reactor.seconds()
        settings = self._settings
        age = min(settings.retention, settings.min_retention) if unfetched else settings.retention
        return [(True, now), (False, now - age)]

    async def _expire(self, tasks: Sequence[Task]) -> list[Task]:
        """Remove results; return the tasks that had one to be removed."""
        try:
            moved = await self._store_thread.call(
                self._store.results.expire, [task.task_id for task in tasks]
            )
        except sqlite3.Error as error:
            # A full disk: the files must go for the rows to be written. A row without its file
            # answers 410 as well, and is put right the next time.
            self.log.warn("{count} tasks: {error}", count=len(tasks), error=str(error))
            moved = {task.task_id for task in tasks}
        self._ended.forget(moved)
        gone = [task for task in tasks if task.task_id in moved]
        await self._remove_files(gone)
        for task in gone:
            self._sent.pop(task.task_id, None)
            self.log.info(
                "task {task_id}: its result was removed",
                task_id=task.task_id,
                request_id=task.request_id,
            )
        return gone

    async def _remove_files(self, tasks: Sequence[Task]) -> None:
        for task, size in zip(tasks, await self._disk.call(self._discard, tasks), strict=True):
            if self._downloads.get(task.task_id):
                held = self._removed_early.get(task.task_id, 0)
                self._removed_early[task.task_id] = held + size
            else:
                self._data_folder.space.removed(size)

    def _discard(self, tasks: Sequence[Task]) -> list[int]:
        """Remove the tasks' results; return the bytes of each that was there. For a thread."""
        sizes = []
        for task in tasks:
            size = 0
            if task.output_key is not None:
                try:
                    size = self._data_folder.discard(task.output_key)
                except OSError:
                    self.log.failure("{key} can't be removed", key=task.output_key)
            sizes.append(size)
        return sizes

    def _download_ended(self, task_id: str) -> None:
        left = self._downloads.get(task_id, 1) - 1
        if left > 0:
            self._downloads[task_id] = left
        else:
            self._downloads.pop(task_id, None)
            self._data_folder.space.removed(self._removed_early.pop(task_id, 0))
