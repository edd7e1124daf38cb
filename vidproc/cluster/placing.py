"""Which command runs on which worker, and when: cores and memory are given away here.

Dask would assign a command with resources to a worker at once, and leave it waiting there while
another worker idles. So commands wait here, and go to Dask with their worker named.
"""

from __future__ import annotations

import math
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
    """Gives workers to commands, in the order in which they asked."""

    def __init__(self, workers: Workers) -> None:
        self._workers = workers
        self._waiting: list[Wanted] = []
        self._placing = False

    @property
    def waiting(self) -> int:
        """Commands that wait for a worker."""
        return len(self._waiting)

    @property
    def wanted_cores(self) -> int:
        """Cores that the waiting commands could use."""
        return sum(math.ceil(min(wanted.command.cpus, 8)) for wanted in self._waiting)

    def ask(self, wanted: Wanted) -> None:
        """Let a command wait; `granted` is called now or later."""
        if wanted.lost_on:
            self._waiting.insert(0, wanted)
        else:
            self._waiting.append(wanted)
        self.place()

    def withdraw(self, wanted: Wanted) -> None:
        """Let a command wait no longer."""
        if wanted in self._waiting:
            self._waiting.remove(wanted)
            self.place()

    def give_back(self, grant: Grant) -> None:
        """Take a grant back."""
        grant.worker.grants.discard(grant)
        self.place()

    def place(self) -> None:
        """Give what is free to those that wait."""
        if self._placing:
            return  # a command that has just begun asks for more: the loop below sees it
        self._placing = True
        try:
            while self._place_one():
                pass
        finally:
            self._placing = False

    def _place_one(self) -> bool:
        usable = self._workers.usable()
        reserved: set[Worker] = set()
        for wanted in self._waiting:
            able = [worker for worker in usable if worker.state.scratch > wanted.scratch]
            if not able:
                return self._grant(wanted, None)
            grant = self._choose(wanted, [each for each in able if each not in reserved])
            if grant is not None:
                return self._grant(wanted, grant)
            if wanted.alone:  # one is left to empty itself for it
                reserved.add(self._preferred(wanted, able)[0])
        return False

    def _grant(self, wanted: Wanted, grant: Grant | None) -> bool:
        self._waiting.remove(wanted)
        if grant is not None:
            grant.worker.grants.add(grant)
        wanted.granted(grant)
        return True

    def _preferred(self, wanted: Wanted, workers: list[Worker]) -> list[Worker]:
        """Return workers, the best for a command first."""
        return sorted(
            workers,
            key=lambda worker: (worker.facts.id in wanted.lost_on, -worker.free_cores),
        )

    def _choose(self, wanted: Wanted, workers: list[Worker]) -> Grant | None:
        wish = max(1, math.ceil(wanted.command.cpus))
        preferred = self._preferred(wanted, workers)
        if wanted.lost_on and preferred:
            # A worker that it was not lost on is worth waiting for.
            others = [each for each in preferred if each.facts.id not in wanted.lost_on]
            preferred = others or preferred
        for worker in preferred:
            if wanted.alone and worker.grants:
                continue
            least = min(wish, max(1, worker.facts.cores // _LEAST_FRACTION))
            memory = min(wanted.command.memory, worker.facts.memory)
            if worker.free_cores >= least and worker.free_memory >= memory:
                cores = worker.facts.cores if wanted.alone else min(wish, worker.free_cores)
                return Grant(worker, cores, memory, wanted.alone, wanted.key, wanted.command.stage)
        return None
