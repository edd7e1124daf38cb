"""One connection's watch on one task."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IReactorTime

from vidproc.frontends.timer import Timer
from vidproc.tasks.views import TaskView
from vidproc.tasks.watches import Subscription


class Watching:
    """Tells a client of a task at once, on every change and every `interval` seconds.

    `send` sends a view and returns whether the client is reading; if not, it gets the newest view
    later. `on_end` is called when the last view was sent. `on_fault` is called, while the exception
    is handled, if a view can't be sent.
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
        """Set the subscription whose listener is `show`."""
        self._subscription = subscription

    def show(self, view: TaskView) -> None:
        """Send a view of the task, and another one after the interval."""
        try:
            self._missed = None if self._send(view) else view
        except Exception:
            # The task service calls this, so an error must not affect anyone but this connection.
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
        """End the watch. May be called twice."""
        self.over = True
        self._timer.stop()
        if self._subscription is not None:
            self._subscription.stop()

    def _tick(self) -> None:
        view = self._subscription.current() if self._subscription is not None else None
        if view is not None:
            self.show(view)
