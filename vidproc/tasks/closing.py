"""Ends tasks: updates the store, removes their files, then notifies whoever watches them."""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Callable
from typing import Any

import msgspec
from twisted.internet.task import deferLater

from vidproc.errors import ServiceError
from vidproc.files.data_folder import work_key
from vidproc.tasks.endings import Ending, failure_of, fault_with_reference
from vidproc.tasks.foundation import Foundation
from vidproc.tasks.model import TERMINAL, State, Task
from vidproc.topics import Topic, TopicLogger

STORE_RETRY = 2.0
"""Seconds until a failed change of the store (a full disk) is tried again."""
TRIES_LOGGED = 30
"""Of so many tries in a row, one is logged."""
FREE: dict[str, Any] = {"owner": None, "lease_until": None}
"""Fields of a task that no server is working on."""


class Closing:
    """Ends queued and processing tasks. `on_ended` gets each ended task, and must not raise."""

    log = TopicLogger(Topic.TASKS)

    def __init__(
        self,
        foundation: Foundation,
        on_ended: Callable[[Task], None],
    ) -> None:
        self._reactor = foundation.reactor
        self._data_folder = foundation.data_folder
        self._disk = foundation.disk
        self._store = foundation.store
        self._store_thread = foundation.store_thread
        self._on_ended = on_ended

    async def end(self, task: Task, ending: Ending) -> None:
        """End a task that is queued or processing."""
        last = {**FREE, "completed_at": self._reactor.seconds(), "input_key": None}
        try:
            moved = await self.move_surely(task.task_id, ending.state, {**last, **ending.fields})
        except (TypeError, ValueError):  # a field that the store cannot hold
            error = fault_with_reference("task {task_id} can't be stored", task)
            moved = await self.move_surely(
                task.task_id, State.FAILED, {**last, "failure": failure_of(error)}
            )
        await self.remove_work(task.task_id)
        await self.ended(moved, task.input_key)

    async def refuse(self, task: Task, error: ServiceError) -> None:
        """Fail a task that cannot be processed."""
        await self.end(task, Ending(State.FAILED, {"failure": failure_of(error)}))

    async def put_right(self, task: Task) -> None:
        """End a task that an exception left unfinished, whatever state its row has."""
        error = fault_with_reference("task {task_id}: an attempt has no end", task)
        try:
            row = await self._store_thread.call(self._store.get, task.task_id)
            if row is None:  # removed by someone else
                lost = {"state": State.FAILED, "failure": failure_of(error)}
                await self.ended(msgspec.structs.replace(task, **lost), task.input_key)
            elif row.state in TERMINAL:
                await self.ended(row, task.input_key)
            else:
                await self.refuse(row, error)
        except Exception:
            self.log.failure("task {task_id} stays as it is", task_id=task.task_id)

    async def ended(self, task: Task, old_input_key: str | None) -> None:
        """Clean up after a task that has ended in the store, then notify its watchers."""
        try:
            await self._remove_file(old_input_key, task.input_size)
        finally:
            self._on_ended(task)

    async def move_surely(self, task_id: str, to: State, fields: dict[str, Any]) -> Task:
        """Move a task to another state; retry until the store succeeds.

        If the disk is full, the files of the ended attempt may be what is in the way.
        """
        for tries in itertools.count():
            try:
                return await self._store_thread.call(self._store.move, task_id, to, **fields)
            except (sqlite3.Error, OSError):
                if tries % TRIES_LOGGED == 0:  # a log may be on the same disk
                    self.log.failure(
                        "task {task_id} can't be stored; trying again", task_id=task_id
                    )
                await self.remove_work(task_id)
                await deferLater(self._reactor, STORE_RETRY)
        raise AssertionError

    async def remove_work(self, task_id: str) -> None:
        """Remove the files of a task's attempts."""
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
