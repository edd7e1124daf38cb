"""Server-sent events: the status of one task or several, whenever it changes."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

from twisted.internet.interfaces import IDelayedCall, IPushProducer
from zope.interface import implementer

from vidproc.errors import ErrorCode, ServiceError
from vidproc.frontends.http.answers import Answer, empty_answer
from vidproc.frontends.http.feeds import Feeds, TaskFeed
from vidproc.frontends.http.request import Request
from vidproc.frontends.http.routing import Route

COMMENT_INTERVAL = 15.0
"""Seconds between comments, which keep proxies from closing a quiet stream."""
MOST_TASKS = 100
"""The most tasks in one stream."""
RETRY = 2000
"""Milliseconds after which a client reconnects."""

_HEADERS = {
    "Content-Type": "text/event-stream",
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",
}
_COMMENT = b": the stream is alive\n\n"
_ID = re.compile(r"([0-9a-f]{8}-[0-9a-f]{8})-(\d{1,15})(-end)?", re.ASCII)


@implementer(IPushProducer)
class EventStream:
    """One client's stream. Events are not queued: a client that was not reading gets the newest
    status when it reads again.

    The ID of an event names the server's run, the tasks of the stream and the event's number. The
    ID of the last event is marked, so that a client which reconnects after it gets no more. An ID
    of another run, or for other tasks, does not tell what the client has seen.
    """

    def __init__(self, request: Request, feeds: Feeds, task_ids: Sequence[str]) -> None:
        self._request = request
        self._feeds = feeds
        self._task_ids = task_ids
        tasks = hashlib.sha256("\n".join(sorted(task_ids)).encode()).hexdigest()[:8]
        self._name = f"{feeds.run}-{tasks}"
        self._clock = request.backend.reactor
        self._followed: dict[TaskFeed, None] = {}
        self._owed: dict[TaskFeed, None] = {}
        self._left = set(task_ids)
        self._open = False
        self._over = False
        self._blocked = False
        self._comment: IDelayedCall | None = None

    async def run(self) -> None:
        """Send events until the last task has ended or the connection is lost.

        Raises `ServiceError` 404 before the first one.
        """
        request = self._request
        request.notifyFinish().addBoth(lambda _: self._stop())
        seen, end_seen = self._seen(request.header("Last-Event-ID"))
        try:
            for task_id in self._task_ids:
                feed = await self._feeds.follow(task_id, request.caller, self)
                self._followed[feed] = None
                if self._over:
                    self._feeds.leave(feed, self)
                    return
                if feed.number > seen or feed.ended:
                    self._owed[feed] = None
        except ServiceError:
            self._stop()
            raise
        if end_seen and all(feed.ended for feed in self._followed):
            self._stop()
            request.answer(empty_answer(204))
            return
        request.begin(200, _HEADERS)
        request.on_drain = self._end
        request.registerProducer(self, True)
        self._open = True
        request.write(b"retry: %d\n\n" % RETRY)
        self._say_comment_later()
        self._catch_up()

    def _seen(self, last_event_id: str | None) -> tuple[int, bool]:
        """Return the number of the last event that the client has seen, 0 if unknown, and
        whether it was the last one of this stream."""
        match = _ID.fullmatch((last_event_id or "").strip())
        if match is None or match[1] != self._name:
            return 0, False
        return int(match[2]), match[3] is not None

    def deliver(self, feed: TaskFeed) -> None:
        """Note that a task has changed."""
        self._owed[feed] = None
        if self._open and not self._blocked:
            self._catch_up()

    def _catch_up(self) -> None:
        """Send the newest event of each task that has changed, in order."""
        while self._owed and not self._blocked and not self._over:
            feed = min(self._owed, key=lambda feed: feed.number)
            del self._owed[feed]
            self._send(feed)

    def _send(self, feed: TaskFeed) -> None:
        if feed.ended:
            self._left.discard(feed.task_id)
        end = "" if self._left else "-end"
        head = f"id: {self._name}-{feed.number}{end}\n"
        self._request.write(head.encode() + feed.body)
        if not self._left:
            self._end()

    def _say_comment_later(self) -> None:
        self._comment = self._clock.callLater(COMMENT_INTERVAL, self._say_comment)

    def _say_comment(self) -> None:
        if not self._blocked:
            self._request.write(_COMMENT)
        self._say_comment_later()

    def _end(self) -> None:
        """End the stream gracefully."""
        if not self._over:
            self._stop()
            self._request.unregisterProducer()
            self._request.finish()

    def _stop(self) -> None:
        """Send nothing more."""
        self._over = True
        if self._comment is not None and self._comment.active():
            self._comment.cancel()
        for feed in list(self._followed):
            self._feeds.leave(feed, self)
        self._owed.clear()

    def pauseProducing(self) -> None:
        """The client does not read."""
        self._blocked = True

    def resumeProducing(self) -> None:
        """The client reads again."""
        self._blocked = False
        if self._open:
            self._catch_up()

    def stopProducing(self) -> None:
        """The connection is lost."""
        self._stop()


async def task_events(request: Request) -> Answer | None:
    """Follow one task."""
    return await _follow(request, [request.arguments["task_id"]])


async def events(request: Request) -> Answer | None:
    """Follow several tasks."""
    task_ids = list(dict.fromkeys(value for name, value in request.query if name == "task"))
    if not 1 <= len(task_ids) <= MOST_TASKS:
        raise ServiceError(
            ErrorCode.BAD_REQUEST,
            f"A stream follows 1 to {MOST_TASKS} tasks, not {len(task_ids)}.",
            "Name them in the query. Example: GET /api/v1/events?task=ID&task=ID",
        )
    return await _follow(request, task_ids)


async def _follow(request: Request, task_ids: Sequence[str]) -> Answer | None:
    if request.verb == "HEAD":
        for task_id in task_ids:
            await request.backend.tasks.status(task_id, request.caller)
        return Answer(200, b"", dict(_HEADERS))
    await EventStream(request, request.shared.feeds, task_ids).run()
    return None


ROUTES = (
    Route(
        "GET", "/api/v1/tasks/{task_id}/events", task_events, "Follow a task as server-sent events."
    ),
    Route("GET", "/api/v1/events", events, "Follow several tasks in one stream of events."),
)
