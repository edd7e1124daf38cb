"""The one service that looks after the machine: it measures, rebalances and prunes.

Every `INTERVAL` seconds it writes a line of figures to performance.log; each decision is a line
with its reason. Every `TURN` seconds, while tasks run, it looks whether uploads take CPU time from
video.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import psutil
from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall

from vidproc.app.clock_watch import ClockWatch
from vidproc.files.data_folder import DataFolder
from vidproc.files.threads import WorkerThreads, when_fired
from vidproc.frontends.gate import Gate
from vidproc.frontends.throttle import LEAST_RATE
from vidproc.runners.interface import Runner
from vidproc.tasks.facade import Tasks
from vidproc.topics import Topic, TopicLogger

TURN = 1.0
"""Seconds between two rounds of the LoopingCall."""
INTERVAL = 10.0
"""Seconds between two lines of figures, and between two rounds of rebalancing and pruning."""

COUNT_INTERVAL = 3600.0
"""Seconds between two counts of everything in the data folder."""

BUSY = 0.85
"""Share of the machine's CPU time at which FFmpeg counts as using all that it can."""
IDLE = 0.05
"""Share of the machine's CPU time that must be idle for nobody to be short of it."""
SLOWER, FASTER = 0.7, 1.25
"""Factors by which the limit on uploads changes from turn to turn."""
_MEMORY_PER_JOB = 512 << 20
_MEMORY_RESERVE = 0.1


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
    """What happened between two moments. CPU as shares of all cores that we may use, 0 to 1.

    What a virtual machine's host takes back counts as others', not as idle.
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


class PerformanceService(Service):
    """Measures, keeps the CPU for video, rebalances concurrency and prunes."""

    log = TopicLogger(Topic.PERFORMANCE)
    name = "performance"

    def __init__(
        self,
        reactor: Any,
        tasks: Tasks,
        runner: Runner,
        gate: Gate,
        data_folder: DataFolder,
        disk: WorkerThreads,
        cores: int,
        clock_watch: ClockWatch | None = None,
    ) -> None:
        self._reactor = reactor
        self._tasks = tasks
        self._queue = tasks.queue
        self._runner = runner
        self._gate = gate
        self._data_folder = data_folder
        self._disk = disk
        self._cores = cores
        self._clock_watch = clock_watch
        self._base = tasks.queue.concurrency
        self._process = psutil.Process()
        self._last: Counters | None = None
        self._last_turn: Counters | None = None
        self._next_line = 0.0
        self._next_count = reactor.seconds() + COUNT_INTERVAL
        self._peak_memory = 0
        self._loop = LoopingCall(self._tick)
        self._loop.clock = reactor
        self._ticking: Deferred[LoopingCall] | None = None

    def startService(self) -> None:
        super().startService()
        self._ticking = self._loop.start(TURN, now=True)

    def stopService(self) -> Deferred[None] | None:
        super().stopService()
        if self._loop.running:
            self._loop.stop()
        return None if self._ticking is None else when_fired(self._ticking)

    async def _tick(self) -> None:
        """One round. Each part catches its own faults: a LoopingCall whose call raises stops."""
        parts: list[Callable[[], Awaitable[None]]] = [
            self._keep_cpu_for_video,
            self._let_short_tasks_by,
            self._queue.check_growth,
            self._queue.look_for_space,
        ]
        if self._reactor.seconds() >= self._next_line:
            self._next_line = self._reactor.seconds() + INTERVAL - TURN / 2
            if self._clock_watch is not None:
                parts.append(self._clock_watch.check)
            parts += [self._measure_and_rebalance, self._queue.renew_leases]
            parts += [self._tasks.upkeep, self._measure_disk]
        for part in parts:
            try:
                await part()
            except Exception:
                self.log.failure("a round of upkeep failed")

    # --- the reserve ---------------------------------------------------------------------------

    async def _keep_cpu_for_video(self) -> None:
        """Slow uploads down while they take CPU time that FFmpeg could use, else let them go.

        Nobody is short of it while some is idle; and uploads that bring little are not the reason.
        """
        throttle = self._gate.throttle
        if not self._queue.running:
            self._last_turn = None
            self._set_limit(None, "no task runs")
            return
        now = self._count()
        before, self._last_turn = self._last_turn, now
        if before is None:
            return
        figures = self._figures(before, now)
        share = figures.ffmpeg_cpu / max(0.01, 1 - figures.other_cpu)
        busy = figures.idle_cpu < IDLE
        wanted = max(BUSY, self._queue.settings.cpu_reserve / 100)
        if busy and share < wanted and figures.bytes_in > LEAST_RATE:
            limit = min(throttle.rate or figures.bytes_in, figures.bytes_in) * SLOWER
            self._set_limit(limit, f"FFmpeg has {share:.0%} of the CPU, uploads take the rest")
        elif throttle.rate is not None and not (busy and share < wanted):
            faster = throttle.rate * FASTER
            # Far above what comes anyway: no limit is needed any more.
            free = faster > 4 * max(figures.bytes_in, LEAST_RATE)
            self._set_limit(None if free else faster, f"FFmpeg has {share:.0%} of the CPU")

    def _set_limit(self, rate: float | None, reason: str) -> None:
        throttle = self._gate.throttle
        before = throttle.rate
        throttle.limit(rate)
        if throttle.rate != before:
            self.log.info(
                "uploads {limit}: {reason}",
                limit="unlimited"
                if throttle.rate is None
                else f"limited to {throttle.rate / 1e6:.1f} MB/s",
                reason=reason,
            )

    async def _measure_disk(self) -> None:
        measure = self._data_folder.space.measure_growing
        if self._reactor.seconds() >= self._next_count:
            # Now and then all of it, for whatever else may have changed the folder.
            self._next_count = self._reactor.seconds() + COUNT_INTERVAL
            measure = self._data_folder.space.measure  # type: ignore[assignment]
        await self._disk.call(measure)

    # --- measuring -----------------------------------------------------------------------------

    async def _measure_and_rebalance(self) -> None:
        now = self._count()
        figures = self._figures(self._last or now, now)
        self._last = now
        self._write(figures)
        if self._queue.settings.max_concurrent is None:
            self._rebalance(figures)

    def _count(self) -> Counters:
        for running in self._runner.running:
            running.measure()
            self._peak_memory = max(self._peak_memory, running.peak_memory)
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        ours = resource.getrusage(resource.RUSAGE_SELF)
        return Counters(
            at=self._reactor.seconds(),
            idle_cpu=_idle_cpu(),
            ffmpeg_cpu=ended.ru_utime
            + ended.ru_stime
            + sum(running.cpu_time for running in self._runner.running),
            service_cpu=ours.ru_utime + ours.ru_stime,
            packets_in=self._gate.traffic.packets_received(),
            bytes_in=self._gate.traffic.received,
            bytes_out=self._gate.traffic.sent,
        )

    def _figures(self, before: Counters, now: Counters) -> Figures:
        elapsed = max(now.at - before.at, 1e-3)
        capacity = elapsed * self._cores
        ffmpeg = max(0.0, now.ffmpeg_cpu - before.ffmpeg_cpu) / capacity
        service = max(0.0, now.service_cpu - before.service_cpu) / capacity
        idle = min(1.0, max(0.0, now.idle_cpu - before.idle_cpu) / capacity)
        if now.at == before.at:
            idle = 1.0  # the first look
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

    def _write(self, figures: Figures) -> None:
        self.log.info(
            "cpu_ffmpeg={cpu_ffmpeg:.1%} cpu_service={cpu_service:.1%} cpu_other={cpu_other:.1%}"
            " mem_service={mem_service:.0f}MiB mem_ffmpeg={mem_ffmpeg:.0f}MiB"
            " mem_available={mem_available:.0f}MiB disk_used={disk_used:.0f}MiB"
            " disk_reserved={disk_reserved:.0f}MiB disk_free={disk_free:.0f}MiB"
            " packets_in={packets:.0f}/s bytes_in={bytes_in:.0f}/s bytes_out={bytes_out:.0f}/s"
            " connections={connections} peers={peers} uploads={uploads} watches={watches}"
            " queued={queued} running={running} concurrency={concurrency}",
            cpu_ffmpeg=figures.ffmpeg_cpu,
            cpu_service=figures.service_cpu,
            cpu_other=figures.other_cpu,
            mem_service=figures.service_memory / (1 << 20),
            mem_ffmpeg=figures.ffmpeg_memory / (1 << 20),
            mem_available=figures.available_memory / (1 << 20),
            disk_used=self._data_folder.space.used / (1 << 20),
            disk_reserved=self._data_folder.space.reserved / (1 << 20),
            disk_free=self._data_folder.space.free() / (1 << 20),
            packets=figures.packets_in,
            bytes_in=figures.bytes_in,
            bytes_out=figures.bytes_out,
            connections=self._gate.connections,
            peers=self._gate.peers,
            uploads=self._tasks.uploads.active,
            watches=len(self._queue.watches),
            queued=self._queue.queued,
            running=self._queue.running,
            concurrency=self._queue.concurrency,
        )

    # --- rebalancing ---------------------------------------------------------------------------

    def _rebalance(self, figures: Figures) -> None:
        """Run more jobs at a time when tasks wait and the machine has room for them, else fewer."""
        queue = self._queue
        current = queue.concurrency
        most = max(3, self._cores)
        per_job = max(_MEMORY_PER_JOB, self._peak_memory)
        tight = figures.available_memory < figures.total_memory * _MEMORY_RESERVE
        waiting = queue.queued
        if tight and current > 1:
            self._decide(current - 1, "less than a tenth of the memory is available")
        elif waiting and queue.running >= current and current < most:
            if figures.available_memory < 2 * per_job:
                self.log.info("concurrency stays {n}: too little memory for one more", n=current)
            elif figures.ffmpeg_cpu < BUSY:
                self._decide(
                    current + 1,
                    f"{waiting} tasks wait and FFmpeg uses {figures.ffmpeg_cpu:.0%} of the CPU",
                )
        elif not waiting and current != self._base:
            self._decide(self._base, "no task waits")

    async def _let_short_tasks_by(self) -> None:
        """Begin a short task that waits behind long films, whatever they use of the CPU."""
        task = self._queue.held_up()
        if task is None or self._queue.settings.max_concurrent is not None:
            return
        if psutil.virtual_memory().available < 2 * _MEMORY_PER_JOB:
            return
        self.log.info(
            "task {task_id} ({type}) starts beside {running} others: it is short and they are not",
            task_id=task.task_id,
            type=task.type,
            running=self._queue.running,
        )
        self._queue.let_by(task)

    def _decide(self, concurrency: int, reason: str) -> None:
        self.log.info(
            "concurrency {old} -> {new}: {reason}",
            old=self._queue.concurrency,
            new=concurrency,
            reason=reason,
        )
        self._queue.set_concurrency(concurrency)


def _idle_cpu() -> float:
    """Return the seconds for which the cores that we may use had nothing to do."""
    cores = psutil.cpu_times(percpu=True)
    if hasattr(os, "sched_getaffinity"):
        cores = [cores[n] for n in os.sched_getaffinity(0) if n < len(cores)]
    # Waiting for a disk is no work either.
    return float(sum(core.idle + getattr(core, "iowait", 0.0) for core in cores))


def usable_cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0)) or 1
    return os.cpu_count() or 1
