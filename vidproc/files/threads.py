"""Worker threads for calls that would block the reactor."""

from __future__ import annotations

from collections.abc import Callable
from threading import Thread
from typing import ParamSpec, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorFromThreads
from twisted.internet.threads import deferToThreadPool
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool

P = ParamSpec("P")
R = TypeVar("R")


class WorkerThreads:
    """At most `count` threads; with one, calls run in the order in which they were made."""

    def __init__(self, reactor: IReactorFromThreads, name: str, count: int) -> None:
        self._reactor = reactor
        self._pool = ThreadPool(minthreads=1, maxthreads=count, name=name)

        # A thread that hangs in the kernel or in SQLite must not keep the process alive.
        self._pool.threadFactory = _daemon  # type: ignore[assignment]

    def start(self) -> None:
        """Start the threads; earlier calls run now."""
        self._pool.start()

    def stop(self) -> None:
        """Run the waiting calls, then stop the threads. Blocks until then."""
        self._pool.stop()

    def stop_in_background(self) -> Deferred[None]:
        """Run the waiting calls, then stop the threads; the Deferred fires when they are
        stopped."""
        ended: Deferred[None] = Deferred()

        def stop() -> None:
            self._pool.stop()
            self._reactor.callFromThread(ended.callback, None)

        _daemon(target=stop).start()
        return ended

    def call(
        self, function: Callable[P, R], *arguments: P.args, **keywords: P.kwargs
    ) -> Deferred[R]:
        """Call a function in a thread; the Deferred fires with its result or exception."""
        return deferToThreadPool(self._reactor, self._pool, function, *arguments, **keywords)


def _daemon(target: Callable[[], object], name: str | None = None) -> Thread:
    return Thread(target=target, name=name, daemon=True)


def when_fired(deferred: Deferred[R]) -> Deferred[None]:
    """Return a Deferred that fires with None when `deferred` fires; its result stays for others."""
    done: Deferred[None] = Deferred()

    def fired(result: R | Failure) -> R | Failure:
        done.callback(None)
        return result

    deferred.addBoth(fired)
    return done
