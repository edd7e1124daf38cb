"""Which command runs on which worker, and when: cores and memory are given away here.

Dask would assign a command with resources to a worker at once, and leave it waiting there while
another worker idles. So commands wait here, and go to Dask with their worker named.
"""

from __future__ import annotations

import bisect
import math
import operator
from collections.abc import Callable
from dataclasses import dataclass, field

from vidproc.cluster.workers import Grant, Worker, Workers
from vidproc.ffmpeg.command import Command

_LEAST_FRACTION = 4
"""A command waits until it gets a quarter of a worker's cores, if it can use as many."""


@dataclass(eq=False)
class Wanted:
    """A command that waits for a worker. `granted` gets a grant, or None if no worker is up.

    `lost_on` are ids of workers that were lost while they ran it; they are its last choice. After
    the second loss it runs `alone`, so that no other command is blamed for a third.
    """

    command: Command
    key: str
    granted: Callable[[Grant | None], None]
    scratch: int = 0
    lost_on: list[str] = field(default_factory=list)

    @property
    def alone(self) -> bool:
        """Whether it may have nothing beside it."""
        return len(self.lost_on) >= 2


class Placing:
    """Gives workers to commands, in the order in which they asked.

    What is free is kept from one change to the next, so that a command that begins or ends costs
    about the same with a thousand workers and thousands of commands that wait. `place` looks at
    all workers anew: call it when they have changed.
    """

    def __init__(self, workers: Workers) -> None:
        self._workers = workers
        self._first: dict[Wanted, None] = {}  # those that lost a worker go before the others
        self._others: dict[Wanted, None] = {}
        self._free = _Free([])
        self._placing = False
        self._again = False

    @property
    def waiting(self) -> int:
        """Commands that wait for a worker."""
        return len(self._first) + len(self._others)

    @property
    def wanted_cores(self) -> int:
        """Cores that the waiting commands could use."""
        waiting = (*self._first, *self._others)
        return sum(math.ceil(min(wanted.command.cpus, 8)) for wanted in waiting)

    def ask(self, wanted: Wanted) -> None:
        """Let a command wait; `granted` is called now or later."""
        if wanted.lost_on:
            self._first[wanted] = None
            self.place()
            return
        self._others[wanted] = None
        if self._first or self._free.most_scratch <= wanted.scratch:
            self.place()
        elif not self._free.hopeless(wanted):
            self._repeat(self._place_others)

    def withdraw(self, wanted: Wanted) -> None:
        """Let a command wait no longer."""
        if self._remove(wanted) and wanted.alone:
            self.place()  # a worker was kept for it

    def give_back(self, grant: Grant) -> None:
        """Take a grant back."""
        grant.worker.grants.discard(grant)
        if self._first or self._placing or not self._free.knows(grant.worker):
            self.place()
        else:
            self._free.add(grant.worker)
            self._repeat(self._place_others)

    def place(self) -> None:
        """Give what is free to those that wait."""
        self._repeat(self._pass)

    def _repeat(self, work: Callable[[], None]) -> None:
        self._again = True
        if self._placing:
            return  # a command that has just begun asks for more: the loop below sees it
        self._placing = True
        try:
            while self._again:
                self._again = False
                work()
                work = self._pass
        finally:
            self._placing = False

    def _pass(self) -> None:
        usable = self._workers.usable()
        self._free = free = _Free(usable)
        for wanted in (*self._first, *self._others):
            if self._waits(wanted) and free.most_scratch <= wanted.scratch:
                self._grant(wanted, None)
        for wanted in tuple(self._first):
            if not self._waits(wanted):
                continue
            able = [worker for worker in usable if worker.state.scratch > wanted.scratch]
            grant = self._choose(wanted, able, free)
            if grant is not None:
                self._grant(wanted, grant)
            elif wanted.alone:  # one is left to empty itself for it
                free.keep(self._preferred(wanted, able)[0])
        self._place_others()

    def _place_others(self) -> None:
        for wanted in tuple(self._others) if self._free else ():
            if not self._free:
                return
            worker = self._free.find(wanted) if self._waits(wanted) else None
            if worker is None:
                continue
            if self._workers.objection(worker):
                self._again = True  # since the last look at all
                return
            self._grant(wanted, _grant_of(wanted, worker))

    def _waits(self, wanted: Wanted) -> bool:
        """Return whether a command still waits: one that has just begun may withdraw others."""
        return wanted in self._others or wanted in self._first

    def _remove(self, wanted: Wanted) -> bool:
        for waiting in (self._first, self._others):
            if wanted in waiting:
                del waiting[wanted]
                return True
        return False

    def _grant(self, wanted: Wanted, grant: Grant | None) -> None:
        self._remove(wanted)
        if grant is not None:
            grant.worker.grants.add(grant)
            self._free.add(grant.worker)
        wanted.granted(grant)

    def _preferred(self, wanted: Wanted, workers: list[Worker]) -> list[Worker]:
        """Return workers, the best for a command that lost some first."""
        return sorted(
            workers,
            key=lambda worker: (worker.facts.id in wanted.lost_on, -worker.free_cores),
        )

    def _choose(self, wanted: Wanted, able: list[Worker], free: _Free) -> Grant | None:
        preferred = self._preferred(wanted, [each for each in able if not free.kept(each)])
        # A worker that it was not lost on is worth waiting for.
        others = [each for each in preferred if each.facts.id not in wanted.lost_on]
        for worker in others or preferred:
            if not (wanted.alone and worker.grants) and _fits(wanted, worker):
                return _grant_of(wanted, worker)
        return None


class _Free:
    """Workers with free cores, those with the most first."""

    def __init__(self, workers: list[Worker]) -> None:
        self._numbers = {worker: number for number, worker in enumerate(workers)}
        self._keys: dict[Worker, tuple[int, int]] = {}
        self._sorted: list[tuple[int, int, Worker]] = []
        self._kept: set[Worker] = set()
        self._lacked: list[tuple[int, int, int]] = []
        self.most_scratch = max((worker.state.scratch for worker in workers), default=-1)
        """Bytes of the largest scratch; -1 if there is no worker."""
        for worker in workers:
            cores = worker.free_cores
            if cores:
                self._keys[worker] = (-cores, self._numbers[worker])
                self._sorted.append((*self._keys[worker], worker))
        self._sorted.sort(key=_first_two)

    def __bool__(self) -> bool:
        return bool(self._sorted)

    def knows(self, worker: Worker) -> bool:
        """Return whether a worker was usable at the last look."""
        return worker in self._numbers and not worker.lost

    def add(self, worker: Worker) -> None:
        """Note how many cores of a worker are free now, more or fewer than before."""
        before = self._keys.pop(worker, None)
        if before is not None:
            del self._sorted[bisect.bisect_left(self._sorted, before, key=_first_two)]
        cores = worker.free_cores
        if before is None or -before[0] < cores:
            self._lacked.clear()
        if cores and worker not in self._kept and self.knows(worker):
            key = self._keys[worker] = (-cores, self._numbers[worker])
            bisect.insort(self._sorted, (*key, worker), key=_first_two)

    def keep(self, worker: Worker) -> None:
        """Give no more of a worker."""
        self._kept.add(worker)
        self.add(worker)

    def kept(self, worker: Worker) -> bool:
        """Return whether a worker is kept."""
        return worker in self._kept

    def find(self, wanted: Wanted) -> Worker | None:
        """Return the worker with the most free cores that can run a command, None if none can."""
        if self.hopeless(wanted):
            return None
        for _, _, worker in self._sorted:
            if worker.state.scratch > wanted.scratch and _fits(wanted, worker):
                return worker
        self._lacked.append(_need(wanted))
        return None

    def hopeless(self, wanted: Wanted) -> bool:
        """Return whether a command that needs no more found no worker, and no cores were given
        back since."""
        need = _need(wanted)
        return any(all(map(operator.ge, need, lacked)) for lacked in self._lacked)


def _need(wanted: Wanted) -> tuple[int, int, int]:
    return _wish(wanted), wanted.command.memory, wanted.scratch


def _first_two(item: tuple[int, int, Worker]) -> tuple[int, int]:
    return item[0], item[1]


def _wish(wanted: Wanted) -> int:
    return max(1, math.ceil(wanted.command.cpus))


def _memory(wanted: Wanted, worker: Worker) -> int:
    return min(wanted.command.memory, worker.facts.memory)


def _fits(wanted: Wanted, worker: Worker) -> bool:
    least = min(_wish(wanted), max(1, worker.facts.cores // _LEAST_FRACTION))
    return worker.free_cores >= least and worker.free_memory >= _memory(wanted, worker)


def _grant_of(wanted: Wanted, worker: Worker) -> Grant:
    cores = worker.facts.cores if wanted.alone else min(_wish(wanted), worker.free_cores)
    return Grant(
        worker, cores, _memory(wanted, worker), wanted.alone, wanted.key, wanted.command.stage
    )
