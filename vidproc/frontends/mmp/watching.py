"""One connection's watch on one task."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IReactorTime

from vidproc.frontends.timer import Timer
from vidproc.tasks.views import TaskView
from vidproc.tasks.watches import Subscription


class Watching:
    """Tells a client of a task at once, on every change and every `interval` seconds.

    `send` sends a view, and returns False when the client does not read: then it gets the newest
    one later. `on_end` is called when the last view was sent, `on_fault`, within the handling of
    the exception, when one can't be sent.
    """

    def __init__(
        self,
        clock: IReactorTime,
        interval: float,
        send: Callable[[TaskView], bool],
        on_end: Callable[[Watching], None],
        on_fault: Callable[[Watching], None],
    ) -> None:
        self._interval = interval
        self._send = send
        self._on_end = on_end
        self._on_fault = on_fault
        self._timer = Timer(clock, self._tick)
        self._subscription: Subscription | None = None
        self._missed: TaskView | None = None
        self.over = False
        """Whether the watch has ended."""

    def begin(self, subscription: Subscription) -> None:
        """Note the subscription that `show` is the listener of."""
        self._subscription = subscription

    def show(self, view: TaskView) -> None:
        """Send the task as it is now, and again after the interval."""
        try:
            self._missed = None if self._send(view) else view
        except Exception:
            # The task service calls this: what can't be said here is this connection's end alone.
            self._on_fault(self)
            return
        if self._missed is not None:
            return
        if view.terminal:
            self.end()
            self._on_end(self)
        else:
            self._timer.restart(self._interval)

    def catch_up(self) -> None:
        """The client reads again: send what it missed."""
        if self._missed is not None:
            self.show(self._missed)

    def end(self) -> None:
        """Watch no longer. May be called twice."""
        self.over = True
        self._timer.stop()
        if self._subscription is not None:
            self._subscription.stop()

    def _tick(self) -> None:
        view = self._subscription.current() if self._subscription is not None else None
        if view is not None:
            self.show(view)
