"""Ended tasks that were asked for lately, in memory: their status need not wait for the store.

While many uploads arrive, a lookup in another thread can take tens of milliseconds.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

import msgspec

from vidproc.tasks.model import TERMINAL, Task

MOST_BYTES = 2 << 20
"""What all tasks kept may take as JSON, in bytes: about a thousand tasks of the usual size."""


class EndedTasks:
    """Keeps the tasks asked for last until they change.

    Whoever changes the row of an ended task calls `forget` after that. A row that was looked up
    before and arrives later must not be kept: pass the `changes` of that time to `keep`.
    """

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self.changes = 0
        """How often tasks were forgotten."""
        self._most_bytes = most_bytes
        self._bytes = 0
        self._kept: OrderedDict[str, tuple[Task, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, task_id: str) -> Task | None:
        """Return a task, or None if it is not kept."""
        if task_id not in self._kept:
            return None
        self._kept.move_to_end(task_id)
        return self._kept[task_id][0]

    def keep(self, task: Task, changes: int) -> None:
        """Keep a task that was looked up when `changes` were as given, if it has ended."""
        if task.state not in TERMINAL or changes != self.changes:
            return
        self._drop(task.task_id)
        size = len(msgspec.json.encode(task))
        self._kept[task.task_id] = (task, size)
        self._bytes += size
        while self._bytes > self._most_bytes:
            self._drop(next(iter(self._kept)))

    def forget(self, task_ids: Iterable[str]) -> None:
        """Forget tasks, because their rows were changed."""
        self.changes += 1
        for task_id in task_ids:
            self._drop(task_id)

    def forget_all(self) -> None:
        """Forget all tasks, because any of them may have been changed."""
        self.changes += 1
        self._kept.clear()
        self._bytes = 0

    def _drop(self, task_id: str) -> None:
        _, size = self._kept.pop(task_id, (None, 0))
        self._bytes -= size
