"""How a task ends: first in the store, then its files go, then whoever watches is told."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Any

import msgspec
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from vidproc.errors import ServiceError
from vidproc.files.data_folder import DataFolder, work_key
from vidproc.files.threads import WorkerThreads
from vidproc.tasks.endings import Ending, failure_of, fault_with_reference
from vidproc.tasks.model import TERMINAL, State, Task
from vidproc.tasks.store.store import TaskStore
from vidproc.topics import Topic, TopicLogger

STORE_RETRY = 2.0
"""Seconds after which the store is tried again when it has failed (a full disk)."""
FREE: dict[str, Any] = {"owner": None, "lease_until": None}
"""The fields of a task that no server works on."""


class Closing:
    """Ends queued and processing tasks. `on_ended` gets each as it is then, and must not raise."""

    log = TopicLogger(Topic.TASKS)

    def __init__(
        self,
        reactor: IReactorTime,
        data_folder: DataFolder,
        disk: WorkerThreads,
        store: TaskStore,
        store_thread: WorkerThreads,
        on_ended: Callable[[Task], None],
    ) -> None:
        self._reactor = reactor
        self._data_folder = data_folder
        self._disk = disk
        self._store = store
        self._store_thread = store_thread
        self._on_ended = on_ended

    async def end(self, task: Task, ending: Ending) -> None:
        """End a task that is queued or processing."""
        last = {**FREE, "completed_at": self._reactor.seconds(), "input_key": None}
        try:
            moved = await self.move_surely(task.task_id, ending.state, {**last, **ending.fields})
        except (TypeError, ValueError):  # a field that the store can't hold
            error = fault_with_reference("task {task_id} can't be stored", task)
            moved = await self.move_surely(
                task.task_id, State.FAILED, {**last, "failure": failure_of(error)}
            )
        await self.remove_work(task.task_id)
        await self.ended(moved, task.input_key)

    async def refuse(self, task: Task, error: ServiceError) -> None:
        """Fail a task that can't be worked on."""
        await self.end(task, Ending(State.FAILED, {"failure": failure_of(error)}))

    async def put_right(self, task: Task) -> None:
        """End a task, whatever its row says, after an exception that left it without an end."""
        error = fault_with_reference("task {task_id}: an attempt has no end", task)
        try:
            row = await self._store_thread.call(self._store.get, task.task_id)
            if row is None:  # somebody else removed it
                lost = {"state": State.FAILED, "failure": failure_of(error)}
                await self.ended(msgspec.structs.replace(task, **lost), task.input_key)
            elif row.state in TERMINAL:
                await self.ended(row, task.input_key)
            else:
                await self.refuse(row, error)
        except Exception:
            self.log.failure("task {task_id} stays as it is", task_id=task.task_id)

    async def ended(self, task: Task, old_input_key: str | None) -> None:
        """Clean up after a task that has ended in the store, then tell whoever watches."""
        try:
            await self._remove_file(old_input_key, task.input_size)
        finally:
            self._on_ended(task)

    async def move_surely(self, task_id: str, to: State, fields: dict[str, Any]) -> Task:
        """Move a task; a store that fails (a full disk) is tried again until it does not."""
        while True:
            try:
                return await self._store_thread.call(self._store.move, task_id, to, **fields)
            except (sqlite3.Error, OSError):
                self.log.failure("task {task_id} can't be stored; trying again", task_id=task_id)
                await deferLater(self._reactor, STORE_RETRY)

    async def remove_work(self, task_id: str) -> None:
        """Remove what the attempts at a task have written."""
        await self._remove_file(work_key(task_id), 0)

    async def _remove_file(self, key: str | None, size: int | None) -> None:
        if key is None:
            return
        try:
            await self._disk.call(self._data_folder.remove, key)
        except OSError:
            self.log.failure("{key} can't be removed", key=key)
        else:
            self._data_folder.space.removed(size or 0)
