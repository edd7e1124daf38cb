"""The LoopingCall service: it measures, rebalances and prunes.

Every `INTERVAL` seconds it writes a line of figures to performance.log. Each decision is a line,
too, with its reason. Every `TURN` seconds, while tasks run, it checks that uploads leave enough CPU
time for video.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall

from vidproc.app.clock_watch import ClockWatch
from vidproc.app.cluster_figures import ClusterFigures
from vidproc.app.cpu_reserve import CpuReserve
from vidproc.app.figures import RecentFigures, in_mebibytes
from vidproc.app.measuring import Counters, Figures, Meter
from vidproc.app.rebalancing import Rebalancer
from vidproc.files.data_folder import DataFolder
from vidproc.files.threads import WorkerThreads, when_fired
from vidproc.frontends.gate import Gate
from vidproc.tasks.facade import Tasks
from vidproc.topics import Topic, TopicLogger

TURN = 1.0
"""The interval of the LoopingCall, in seconds."""
INTERVAL = 10.0
"""Seconds between lines of figures, and between rounds of rebalancing and pruning."""

COUNT_INTERVAL = 3600.0
"""Seconds between complete counts of the data folder."""


class PerformanceService(Service):
    """Measures, keeps the CPU for video, rebalances concurrency and prunes."""

    log = TopicLogger(Topic.PERFORMANCE)
    name = "performance"

    def __init__(
        self,
        reactor: IReactorTime,
        tasks: Tasks,
        meter: Meter,
        gate: Gate,
        data_folder: DataFolder,
        disk: WorkerThreads,
        cores: int,
        clock_watch: ClockWatch | None = None,
        cluster: ClusterFigures | None = None,
    ) -> None:
        self._reactor = reactor
        self._tasks = tasks
        self._queue = tasks.queue
        self._meter = meter
        self._gate = gate
        self._data_folder = data_folder
        self._disk = disk
        self._clock_watch = clock_watch
        self._reserve = CpuReserve(meter, tasks.queue, gate.throttle)
        self._cluster = cluster or ClusterFigures(None, tasks.queue)
        self._rebalancer = Rebalancer(meter, tasks.queue, cores, self._cluster.cores)
        self.recent = RecentFigures(reactor, tasks, gate, data_folder.space, INTERVAL)
        self._last: Counters | None = None
        self._next_line = 0.0
        self._next_count = reactor.seconds() + COUNT_INTERVAL
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
        """Do one round. Each part catches its own errors, because an exception would stop the
        LoopingCall."""
        parts: list[Callable[[], Awaitable[None]]] = [
            self._reserve.check,
            self._rebalancer.let_short_tasks_by,
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

    async def _measure_disk(self) -> None:
        measure = self._data_folder.space.measure_growing
        if self._reactor.seconds() >= self._next_count:
            # From time to time everything, in case something else has changed the folder.
            self._next_count = self._reactor.seconds() + COUNT_INTERVAL
            measure = self._data_folder.space.verify
        await self._disk.call(measure)

    async def _measure_and_rebalance(self) -> None:
        now = self._meter.count()
        figures = self._meter.figures(self._last or now, now)
        self._last = now
        self._write(figures)
        self._cluster.write()
        if self._queue.settings.max_concurrent is None:
            self._rebalancer.rebalance(figures)

    def _write(self, figures: Figures) -> None:
        self.log.info(
            "cpu_ffmpeg={cpu_ffmpeg:.1%} cpu_service={cpu_service:.1%} cpu_other={cpu_other:.1%}"
            " mem_service={memory_service:.0f}MiB mem_ffmpeg={memory_ffmpeg:.0f}MiB"
            " mem_available={memory_available:.0f}MiB disk_used={disk_used:.0f}MiB"
            " disk_reserved={disk_reserved:.0f}MiB disk_free={disk_free:.0f}MiB"
            " packets_in={packets_in:.0f}/s bytes_in={bytes_in:.0f}/s bytes_out={bytes_out:.0f}/s"
            " connections={connections} peers={peers} uploads={uploads} watches={watches}"
            " queued={queued} running={running} concurrency={concurrency}",
            **in_mebibytes(self.recent.note(figures)),
        )
