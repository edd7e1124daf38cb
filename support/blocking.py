"""Waits for a Deferred in ordinary blocking code, without the process's own reactor.

Tests of operations, and benchmarks, are easiest to read as blocking code, but runners are
asynchronous. So a private reactor runs here, only while something waits.
"""

from __future__ import annotations

import time
from functools import cache
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.process import reapAllProcesses
from twisted.internet.selectreactor import SelectReactor
from twisted.python.failure import Failure

T = TypeVar("T")
_TURN = 0.02
"""Seconds for which one iteration waits for something to happen."""


@cache
def private_reactor() -> Any:
    """Return the reactor that `wait_for` runs."""
    return SelectReactor()


def wait_for(deferred: Deferred[T], timeout: float = 600.0) -> T:
    """Return what `deferred` fires with, or raise its failure; `timeout` in seconds."""
    outcome: list[Any] = []
    deferred.addBoth(outcome.append)
    reactor, end = private_reactor(), time.monotonic() + timeout
    while not outcome:
        if time.monotonic() > end:
            raise TimeoutError(f"nothing came of it within {timeout:g} s")
        reapAllProcesses()
        reactor.runUntilCurrent()
        reactor.doIteration(_TURN)
    if isinstance(outcome[0], Failure):
        outcome[0].raiseException()
    result: T = outcome[0]
    return result
