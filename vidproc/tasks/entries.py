"""The queued and processing tasks, in memory, oldest first."""

from __future__ import annotations

from dataclasses import dataclass, field

from twisted.internet.defer import Deferred

from vidproc.tasks.execution import Attempt
from vidproc.tasks.model import State, Task
from vidproc.tasks.orders import Order, parse_order
from vidproc.tasks.views import TaskView


@dataclass(slots=True)
class Entry:
    """A task, what it asks for, and the attempt in progress. Sizes in bytes.

    `ended` fires when the attempt has freed its place.
    """

    task: Task
    order: Order
    attempt: Attempt | None = None
    needs: int = 0
    """The least that the next attempt reserves: twice what was too little for an earlier one."""
    kills: int = 0
    """Attempts whose process was killed from outside, since the server started."""
    waits_for: int = 0
    """The space that was not free when an attempt started; 0 if it does not wait for space."""
    ended: Deferred[None] = field(default_factory=Deferred)
    wait_reason: str | None = None

    @property
    def short(self) -> bool:
        """Whether the task takes only a short time."""
        return self.order.is_short(self.task.input_size)


class Entries(dict[str, Entry]):
    """The entries by the ids of their tasks. Times in seconds since the epoch."""

    def take_in(self, task: Task, order: Order | None = None) -> Entry:
        """Add a task; without an `order`, parse that of its row.

        Raises `ServiceError` if this version does not know such an order.
        """
        if order is None:
            order, _ = parse_order(task.type, task.parameters)
        entry = self[task.task_id] = Entry(task, order)
        return entry

    def waiting(self) -> list[Entry]:
        """Return those whose tasks are queued."""
        return [entry for entry in self.values() if entry.task.state is State.QUEUED]

    def attempts(self) -> list[Attempt]:
        """Return the attempts in progress."""
        return [entry.attempt for entry in self.values() if entry.attempt is not None]

    def runs(self, task_id: str) -> bool:
        """Return whether an attempt at a task is in progress."""
        entry = self.get(task_id)
        return entry is not None and entry.attempt is not None

    def view(self, task_id: str, now: float) -> TaskView | None:
        """Return a view of a queued or processing task; None for any other."""
        entry = self.get(task_id)
        if entry is None:
            return None
        task, attempt = entry.task, entry.attempt
        if attempt is None:
            return TaskView(
                task,
                "waiting for storage" if entry.waits_for else "queued",
                queue_position=self._position(entry),
                wait_reason=entry.wait_reason,
                warnings=tuple(task.warnings),
            )
        progress = attempt.progress
        elapsed = now - attempt.started_at
        eta = elapsed * (1 - progress) / progress if progress > 0.02 else None
        return TaskView(
            task,
            attempt.stage,
            progress=progress,
            eta=eta,
            speed=attempt.speed,
            warnings=tuple(attempt.warnings),
            input=attempt.input,
        )

    def _position(self, entry: Entry) -> int | None:
        """Return an entry's position in the queue, from 1; None if it is changing its state."""
        for number, other in enumerate(self.waiting(), 1):
            if other is entry:
                return number
        return None
