"""The cluster's workers as the server sees them, and which of them it trusts with commands."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec

from vidproc import __version__
from vidproc.cluster import messages
from vidproc.cluster.messages import WorkerFacts, WorkerState
from vidproc.ffmpeg.binary import FFmpeg

SILENT = 15.0
"""Seconds without a sign of life after which a worker's commands are given to others."""
_PAUSE_AFTER_FAULT = 30.0
"""Seconds for which a worker that could not run a command gets no other."""


@dataclass(eq=False)
class Grant:
    """Cores and memory (bytes) of a worker for one command; `alone`: with nothing beside it."""

    worker: Worker
    cores: int
    memory: int
    alone: bool = False
    key: str = ""
    stage: str = ""


@dataclass(eq=False)
class Worker:
    """A worker. `refused` is why it gets no commands, empty if it may get some."""

    address: str
    facts: WorkerFacts
    state: WorkerState
    refused: str
    heard_at: float
    last_seen: float = 0.0
    paused_until: float = 0.0
    paused_for: str = ""
    lost: bool = False
    grants: set[Grant] = field(default_factory=set)
    done: int = 0
    """Commands that it has completed."""

    @property
    def free_cores(self) -> int:
        """Cores that no command has."""
        if any(grant.alone for grant in self.grants):
            return 0
        return max(0, self.facts.cores - sum(grant.cores for grant in self.grants))

    @property
    def free_memory(self) -> int:
        """Bytes of memory that no command has; a command that needs more than all runs alone."""
        return max(0, self.facts.memory - sum(grant.memory for grant in self.grants))

    def objection(self, now: float) -> str:
        """Return why it gets no commands now, empty if it does."""
        if self.refused:
            return self.refused
        if not self.state.taking:
            return "it is stopping"
        if now - self.heard_at > SILENT:
            return f"it has been silent for {now - self.heard_at:.0f} s"
        if now < self.paused_until:
            return self.paused_for
        return ""


class Workers:
    """All workers, by their addresses. `on_lost` is called with each that is gone or silent."""

    def __init__(
        self,
        ffmpeg: FFmpeg,
        sandbox: str,
        now: Callable[[], float],
        on_lost: Callable[[Worker, str], None],
    ) -> None:
        self._ffmpeg = ffmpeg
        self._features = messages.features_of(ffmpeg)
        self._sandbox = sandbox
        self.now = now
        self._on_lost = on_lost
        self._workers: dict[str, Worker] = {}
        self.connected = False

    def __iter__(self) -> Iterator[Worker]:
        return iter(list(self._workers.values()))

    def usable(self) -> list[Worker]:
        """Return the workers that may get commands now."""
        now = self.now()
        return [worker for worker in self._workers.values() if not worker.objection(now)]

    @property
    def free_cores(self) -> int:
        """Cores of all usable workers that no command has."""
        return sum(worker.free_cores for worker in self.usable())

    @property
    def cores(self) -> int:
        """Cores of all usable workers."""
        return sum(worker.facts.cores for worker in self.usable())

    def update(self, found: dict[str, Any] | None) -> list[str]:
        """Take in what the scheduler says; return sentences about what has changed."""
        self.connected = found is not None
        told = []
        now = self.now()
        for address in [address for address in self._workers if address not in (found or {})]:
            worker = self._workers.pop(address)
            worker.lost = True
            told.append(f"worker {worker.facts.id} is gone")
            self._on_lost(worker, "it is gone" if found is not None else "")
        for address, said in (found or {}).items():
            told += self._see(address, said, now)
        for worker in list(self._workers.values()):
            if worker.grants and now - worker.heard_at > SILENT:
                self._on_lost(worker, f"it has been silent for {SILENT:.0f} s")
        return told

    def _see(self, address: str, said: dict[str, Any], now: float) -> list[str]:
        try:
            state = messages.decode_state(said["metrics"]["vidproc"])
            worker = self._workers.get(address)
            if worker is None:
                facts = messages.decode_facts(said["vidproc"])
                seen = float(said["last_seen"])
                worker = Worker(address, facts, state, self._refusal(facts), now, seen)
                self._workers[address] = worker
                return [self._introduce(worker)]
        except (KeyError, TypeError, msgspec.MsgspecError):
            return []  # not one of ours, or one that has not yet sent its facts
        worker.state = state
        if said["last_seen"] != worker.last_seen:
            worker.last_seen, worker.heard_at = said["last_seen"], now
        return []

    def _introduce(self, worker: Worker) -> str:
        facts = worker.facts
        text = (
            f"worker {facts.id} at {facts.host}: {facts.cores} cores,"
            f" {facts.memory >> 20} MiB, FFmpeg {facts.ffmpeg}"
        )
        return f"{text}; it gets no work: {worker.refused}" if worker.refused else text

    def objection(self, worker: Worker) -> str:
        """Return why a worker gets no commands now, empty if it does."""
        return worker.objection(self.now())

    def heard(self, worker: Worker) -> None:
        """Note a sign of life."""
        worker.heard_at = self.now()

    def pause(self, worker: Worker, reason: str) -> None:
        """Give a worker that could not run a command no other for a while."""
        worker.paused_until = self.now() + _PAUSE_AFTER_FAULT
        worker.paused_for = reason

    def _refusal(self, facts: WorkerFacts) -> str:
        if not messages.same_version(facts):
            return f"it has vidproc {facts.version}, and this server {__version__}"
        if facts.ffmpeg != self._ffmpeg.version:
            return f"it has FFmpeg {facts.ffmpeg}, and this server {self._ffmpeg.version}"
        if facts.features != self._features:
            return "its FFmpeg has other encoders or filters than this server's"
        layers = set(facts.layers)
        if self._sandbox == "auto" and not layers:
            return "it runs without a sandbox, and this server has --sandbox auto"
        if self._sandbox == "strict":
            lacking = [
                what
                for what, any_of in (
                    ("files", {"landlock"}),
                    ("network", {"seccomp", "namespaces"}),
                    ("memory", {"memory"}),
                )
                if not layers & any_of
            ]
            if lacking:
                return f"nothing there confines {', '.join(lacking)}, as --sandbox strict asks"
        return ""
