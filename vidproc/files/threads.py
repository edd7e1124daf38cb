"""Worker threads for what would block the reactor."""

from __future__ import annotations

from collections.abc import Callable
from threading import Thread
from typing import Any, ParamSpec, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorFromThreads
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

P = ParamSpec("P")
R = TypeVar("R")


class WorkerThreads:
    """At most `count` threads; with one, calls run one after another in the order made."""

    def __init__(self, reactor: IReactorFromThreads, name: str, count: int) -> None:
        self._reactor = reactor
        self._pool = ThreadPool(minthreads=1, maxthreads=count, name=name)

        # A thread that hangs in the kernel or in SQLite must not hold the process at its end.
        self._pool.threadFactory = _daemon  # type: ignore[assignment]

    def start(self) -> None:
        """Start the threads; calls made earlier run now."""
        self._pool.start()

    def stop(self) -> None:
        """Run what is waiting, then end the threads. Blocks until then."""
        self._pool.stop()

    def stop_in_background(self) -> Deferred[None]:
        """Run what is waiting, then end the threads; the Deferred fires when they have ended."""
        ended: Deferred[None] = Deferred()

        def stop() -> None:
            self._pool.stop()
            self._reactor.callFromThread(ended.callback, None)

        _daemon(target=stop).start()
        return ended

    def call(
        self, function: Callable[P, R], *arguments: P.args, **keywords: P.kwargs
    ) -> Deferred[R]:
        """Call in a thread; the Deferred fires with what the function returns or raises."""
        return deferToThreadPool(self._reactor, self._pool, function, *arguments, **keywords)


def _daemon(*arguments: Any, **keywords: Any) -> Thread:
    return Thread(*arguments, **keywords, daemon=True)


def when_fired(deferred: Deferred[Any]) -> Deferred[None]:
    """Return a Deferred that fires with None when `deferred` does, leaving its result to others."""
    done: Deferred[None] = Deferred()

    def fired(result: Any) -> Any:
        done.callback(None)
        return result

    deferred.addBoth(fired)
    return done
