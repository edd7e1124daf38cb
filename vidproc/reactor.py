"""The reactor, for code that needs several of its interfaces."""

from __future__ import annotations

from twisted.internet.interfaces import (
    IReactorCore,
    IReactorFDSet,
    IReactorProcess,
    IReactorSocket,
    IReactorTCP,
    IReactorThreads,
    IReactorTime,
)


class IFullReactor(
    IReactorCore,
    IReactorFDSet,
    IReactorProcess,
    IReactorSocket,
    IReactorTCP,
    IReactorThreads,
    IReactorTime,
):
    """A reactor with everything that we use.

    Twisted's reactors offer all of it, but only declare the interfaces one by one.
    """
