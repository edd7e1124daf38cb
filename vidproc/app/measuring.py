"""Measures the use of CPU, memory and network: running totals, and the differences between them."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable
from dataclasses import dataclass

import psutil
from twisted.internet.interfaces import IReactorTime

from vidproc.frontends.traffic import Traffic
from vidproc.runners.interface import Runner


@dataclass(frozen=True, slots=True)
class Counters:
    """Running totals at one moment. CPU times in seconds."""

    at: float
    idle_cpu: float
    ffmpeg_cpu: float
    service_cpu: float
    packets_in: int
    bytes_in: int
    bytes_out: int


@dataclass(frozen=True, slots=True)
class Figures:
    """What happened between two moments. CPU use is a share of all usable cores, 0 to 1.

    CPU time stolen by a virtual machine's host counts as used by others, not as idle.
    """

    ffmpeg_cpu: float
    service_cpu: float
    other_cpu: float
    idle_cpu: float
    packets_in: float
    bytes_in: float
    bytes_out: float
    service_memory: int
    ffmpeg_memory: int
    available_memory: int
    total_memory: int


class Meter:
    """Reads CPU time, memory and traffic of this machine, which has `cores` for us.

    `peak_memory` is the most bytes that one FFmpeg has used. `forked_cpu` returns the CPU time in
    seconds of ended children of the fork server.
    """

    def __init__(
        self,
        reactor: IReactorTime,
        runner: Runner,
        traffic: Traffic,
        cores: int,
        forked_cpu: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self.peak_memory = 0
        self._reactor = reactor
        self._runner = runner
        self._traffic = traffic
        self._cores = cores
        self._forked_cpu = forked_cpu
        self._process = psutil.Process()

    @property
    def works_elsewhere(self) -> bool:
        """Whether commands run, and all of them on other machines."""
        running = self._runner.running
        return bool(running) and not any(each.here for each in running)

    def count(self) -> Counters:
        """Return the current running totals."""
        for running in self._runner.running:
            running.measure()
            self.peak_memory = max(self.peak_memory, running.peak_memory)
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        ours = resource.getrusage(resource.RUSAGE_SELF)
        return Counters(
            at=self._reactor.seconds(),
            idle_cpu=_idle_cpu(),
            ffmpeg_cpu=ended.ru_utime
            + ended.ru_stime
            + self._forked_cpu()
            + sum(running.cpu_time for running in self._runner.running),
            service_cpu=ours.ru_utime + ours.ru_stime,
            packets_in=self._traffic.packets_received(),
            bytes_in=self._traffic.received,
            bytes_out=self._traffic.sent,
        )

    def figures(self, before: Counters, now: Counters) -> Figures:
        """Return the difference between two counts."""
        elapsed = max(now.at - before.at, 1e-3)
        capacity = elapsed * self._cores
        ffmpeg = max(0.0, now.ffmpeg_cpu - before.ffmpeg_cpu) / capacity
        service = max(0.0, now.service_cpu - before.service_cpu) / capacity
        idle = min(1.0, max(0.0, now.idle_cpu - before.idle_cpu) / capacity)
        if now.at == before.at:
            idle = 1.0  # the first count
        memory = psutil.virtual_memory()
        return Figures(
            ffmpeg_cpu=ffmpeg,
            service_cpu=service,
            other_cpu=max(0.0, 1 - idle - ffmpeg - service),
            idle_cpu=idle,
            packets_in=max(0, now.packets_in - before.packets_in) / elapsed,
            bytes_in=(now.bytes_in - before.bytes_in) / elapsed,
            bytes_out=(now.bytes_out - before.bytes_out) / elapsed,
            service_memory=self._process.memory_info().rss,
            ffmpeg_memory=sum(running.peak_memory for running in self._runner.running),
            available_memory=memory.available,
            total_memory=memory.total,
        )


def _idle_cpu() -> float:
    """Return the idle time of the usable cores, in seconds."""
    cores = psutil.cpu_times(percpu=True)
    if hasattr(os, "sched_getaffinity"):
        cores = [cores[n] for n in os.sched_getaffinity(0) if n < len(cores)]
    # Waiting for a disk counts as idle, too.
    return float(sum(core.idle + getattr(core, "iowait", 0.0) for core in cores))


def usable_cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0)) or 1
    return os.cpu_count() or 1
