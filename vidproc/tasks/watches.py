"""Watches: notify listeners when a task changes.

A listener is someone else's code. If it raises, its watch ends, and nobody else is affected.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

from vidproc.tasks.views import TaskView
from vidproc.topics import Topic, TopicLogger

Listener: TypeAlias = Callable[[TaskView], None]
"""Called with a `TaskView` on every change, last of all with a terminal one."""


class Subscription:
    """One watch on a task."""

    def __init__(
        self, watches: Watches, task_id: str, listener: Listener, *, progress: bool
    ) -> None:
        self.progress = progress
        self.task_id = task_id
        self.listener = listener
        self._watches = watches

    def current(self) -> TaskView | None:
        """Return the current view of the task; None once the listener was told of its end."""
        return self._watches.view(self.task_id)

    def stop(self) -> None:
        """Stop listening. May be called twice."""
        self._watches.remove(self)


class Watches:
    """All watches. `view` returns the current view of an active task, None for any other."""

    log = TopicLogger(Topic.TASKS)

    def __init__(self, view: Callable[[str], TaskView | None]) -> None:
        self.view = view
        self.on_ended: list[Listener] = []
        """Listeners that are told of each task that ends, once its row has been updated."""
        self._by_task: dict[str, list[Subscription]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._by_task.values()))

    @property
    def task_ids(self) -> Iterable[str]:
        """The ids of watched tasks."""
        return list(self._by_task)

    def add(self, task_id: str, listener: Listener, *, progress: bool = False) -> Subscription:
        """Start a watch; with `progress`, the listener is told of progress, too."""
        subscription = Subscription(self, task_id, listener, progress=progress)
        self._by_task.setdefault(task_id, []).append(subscription)
        return subscription

    def remove(self, subscription: Subscription) -> None:
        """End a watch; does nothing if it has ended."""
        subscriptions = self._by_task.get(subscription.task_id, [])
        if subscription in subscriptions:
            subscriptions.remove(subscription)
            if not subscriptions:
                del self._by_task[subscription.task_id]

    def changed(self, task_id: str) -> None:
        """Tell the listeners of an active task that it changed."""
        self._tell_all(task_id, self._by_task.get(task_id, ()))

    def progressed(self, task_id: str) -> None:
        """Tell the listeners that want to know of progress."""
        subscriptions = self._by_task.get(task_id, ())
        self._tell_all(task_id, [each for each in subscriptions if each.progress])

    def _tell_all(self, task_id: str, subscriptions: Sequence[Subscription]) -> None:
        view = self.view(task_id) if subscriptions else None
        if view is not None:
            for subscription in list(subscriptions):
                self._tell(subscription, view)

    def ended(self, view: TaskView) -> None:
        """Tell the listeners of a task that it has ended; that ends their watches."""
        for subscription in self._by_task.pop(view.task.task_id, []):
            self._tell(subscription, view)
        for listener in self.on_ended:
            try:
                listener(view)
            except Exception:
                self.log.failure("the end of task {task_id}", task_id=view.task.task_id)

    def _tell(self, subscription: Subscription, view: TaskView) -> None:
        try:
            subscription.listener(view)
        except Exception:
            self.log.failure(
                "a watch on task {task_id} failed and was ended", task_id=subscription.task_id
            )
            self.remove(subscription)
