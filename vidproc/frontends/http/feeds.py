"""The events of tasks, encoded once for all followers, and limited in rate."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Protocol

import msgspec
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from vidproc.frontends.reports import status_report
from vidproc.tasks.facade import Tasks
from vidproc.tasks.settings import Caller
from vidproc.tasks.views import TaskView
from vidproc.tasks.watches import Subscription

SHORTEST_INTERVAL = 0.1
"""Seconds between events of a task; changes in between are combined."""


class Follower(Protocol):
    """Someone who is told of a feed's events."""

    def deliver(self, feed: TaskFeed) -> None:
        """Note that the feed has a new event. Must not raise."""
        ...


class TaskFeed:
    """One task's events, for all of its followers.

    `number` is the number of the newest event, counted over all events of this run of the server;
    `body` is its text without the ID.
    """

    def __init__(self, task_id: str, clock: IReactorTime, next_number: Callable[[], int]) -> None:
        self.task_id = task_id
        self.number = 0
        self.body = b""
        self.ended = False
        """Whether the newest event is the task's last one."""
        self.followers: dict[Follower, None] = {}
        self._subscription: Subscription | None = None
        self._clock = clock
        self._next_number = next_number
        self._latest: TaskView | None = None
        self._not_before = 0.0
        self._timer: IDelayedCall | None = None

    def begin(self, view: TaskView, subscription: Subscription | None) -> None:
        """Set the current status, and the subscription whose listener is `changed`."""
        if subscription is not None:
            if self._subscription is None:
                self._subscription = subscription
            else:
                subscription.stop()
        if not self.body or view.terminal:
            self.changed(view)

    def changed(self, view: TaskView) -> None:
        """Tell the followers of a change, now or at the end of the interval."""
        if self.ended:
            return
        self._latest = view
        if self._timer is None:
            wait = self._not_before - self._clock.seconds()
            if wait > 0:
                self._timer = self._clock.callLater(wait, self._tell)
            else:
                self._tell()

    def stop(self) -> None:
        """Stop: there are no followers left."""
        if self._subscription is not None:
            self._subscription.stop()
            self._subscription = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tell(self) -> None:
        self._timer = None
        view = self._latest
        assert view is not None
        body = b"event: status\ndata: " + msgspec.json.encode(status_report(view)) + b"\n\n"
        if body == self.body:
            return
        self.body = body
        self.ended = view.terminal
        self.number = self._next_number()
        self._not_before = self._clock.seconds() + SHORTEST_INTERVAL
        for follower in list(self.followers):
            follower.deliver(self)


class Feeds:
    """The feeds of all tasks that have followers."""

    def __init__(self, clock: IReactorTime, tasks: Tasks) -> None:
        self.run = secrets.token_hex(4)
        """Identifies this run of the server; each run counts from 1 again."""
        self._clock = clock
        self._tasks = tasks
        self._feeds: dict[str, TaskFeed] = {}
        self._number = 0

    def __len__(self) -> int:
        return len(self._feeds)

    async def follow(self, task_id: str, caller: Caller, follower: Follower) -> TaskFeed:
        """Tell `follower` of a task's events from now on. Return the feed, which has the current
        status.

        Raises `ServiceError` 404. Otherwise call `leave` at the end.
        """
        feed = self._feeds.get(task_id)
        if feed is None:
            feed = self._feeds[task_id] = TaskFeed(task_id, self._clock, self._count)
        feed.followers[follower] = None
        try:
            view, subscription = await self._tasks.watch(
                task_id, caller, feed.changed, progress=True
            )
        except BaseException:
            self.leave(feed, follower)
            raise
        feed.begin(view, subscription)
        if not feed.followers:  # the last follower left meanwhile
            feed.stop()
        return feed

    def leave(self, feed: TaskFeed, follower: Follower) -> None:
        """Stop telling `follower` of events. May be called twice."""
        feed.followers.pop(follower, None)
        if not feed.followers and self._feeds.get(feed.task_id) is feed:
            del self._feeds[feed.task_id]
            feed.stop()

    def _count(self) -> int:
        self._number += 1
        return self._number
