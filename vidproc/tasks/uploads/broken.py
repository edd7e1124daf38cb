"""Interrupted uploads: a resumable one is kept for a while, a plain one is deleted.

Either way the slot and the space are freed, whatever fails on the way.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from twisted.internet.defer import ensureDeferred

from vidproc.files.data_folder import input_key, upload_key
from vidproc.tasks.foundation import Foundation
from vidproc.tasks.model import Task
from vidproc.tasks.uploads.known import ANNOUNCED_RETENTION
from vidproc.topics import Topic, TopicLogger

PARTIAL_PART = 4
"""All partial uploads together keep at most the capacity divided by this; one address, half of
that."""
RETRY = 5.0
"""Seconds until a failed change of the store is tried again."""


class BrokenUploads:
    """Keeps or deletes what was received of uploads that did not become tasks."""

    log = TopicLogger(Topic.UPLOADS)

    def __init__(
        self,
        foundation: Foundation,
    ) -> None:
        self._reactor = foundation.reactor
        self._data_folder = foundation.data_folder
        self._space = foundation.data_folder.space
        self._disk = foundation.disk
        self._store = foundation.store
        self._store_thread = foundation.store_thread

    async def put_away(self, task: Task) -> None:
        """Keep what was received of a resumable upload; delete a plain one. Never raises."""
        await self._give_up(self._forget if task.upload_id is None else self._park, task)

    async def forget(self, task: Task) -> None:
        """Delete an upload. Never raises."""
        await self._give_up(self._forget, task)

    async def restore(self, task: Task) -> None:
        """Put a resumable upload back into the state before a refused connection. Never raises."""
        await self._give_up(self._park_again, task)

    def note_synced(self, task: Task, size: int) -> None:
        """Note that an upload could continue from `size` bytes after a power cut."""
        self._store_thread.call(self._store.uploads.note_synced, task.task_id, size).addErrback(
            lambda failure: self.log.failure(
                "task {task_id}: what is synced can't be noted", failure, task_id=task.task_id
            )
        )

    async def prune(self, before: float) -> int:
        """Delete uploads that were interrupted before that time; return how many.

        Also those without a byte `ANNOUNCED_RETENTION` after they were created.
        """
        announced = self._reactor.seconds() - ANNOUNCED_RETENTION
        old = await self._store_thread.call(self._store.uploads.delete_parked, before, announced)
        for task_id in old:
            await self._disk.call(self._data_folder.remove, upload_key(task_id))
        return len(old)

    async def _give_up(self, how: Callable[[Task], Awaitable[None]], task: Task) -> None:
        self._space.release(task.task_id)
        await self._surely(how, task)

    async def _surely(self, how: Callable[[Task], Awaitable[None]], task: Task) -> None:
        """Run `how`; when the store fails (a full disk), retry later until it succeeds."""
        try:
            await how(task)
        except Exception:
            self.log.failure("upload of task {task_id} can't be undone yet", task_id=task.task_id)
            self._reactor.callLater(RETRY, lambda: ensureDeferred(self._surely(how, task)))

    async def _park(self, task: Task) -> None:
        received = await self._disk.call(self._data_folder.sync, upload_key(task.task_id))
        budget = self._space.capacity() // PARTIAL_PART
        forgotten = await self._store_thread.call(
            self._store.uploads.park,
            task.task_id,
            self._reactor.seconds(),
            received,
            own_budget=budget // 2,
            budget=budget,
        )
        self._space.parked(received)
        for old in forgotten:
            await self._disk.call(self._data_folder.remove, upload_key(old))

    async def _park_again(self, task: Task) -> None:
        await self._store_thread.call(self._store.uploads.park_again, task)

    async def _forget(self, task: Task) -> None:
        if await self._store_thread.call(self._store.uploads.delete_upload, task.task_id):
            await self._disk.call(
                self._data_folder.remove, upload_key(task.task_id), input_key(task.task_id)
            )
