"""The cluster as operators see it: `info`, metrics, lines in performance.log, and its cores."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from vidproc.answers import WorkerReport
from vidproc.app.rebalancing import CoresElsewhere
from vidproc.tasks.queue import Queue
from vidproc.topics import Topic, TopicLogger

if TYPE_CHECKING:
    from vidproc.cluster.runner import ClusterRunner


class ClusterFigures:
    """Reports on the workers of `cluster`; with None there are no reports.

    It is also a collector of Prometheus metrics.
    """

    log = TopicLogger(Topic.PERFORMANCE)

    def __init__(self, cluster: ClusterRunner | None, queue: Queue) -> None:
        self._cluster = cluster
        self._queue = queue

    @property
    def present(self) -> bool:
        """Whether the server has a cluster at all."""
        return self._cluster is not None

    def cores(self) -> CoresElsewhere:
        """Return the cores of all workers that get commands, and the free ones."""
        if self._cluster is None or not self._cluster.up:
            return CoresElsewhere()
        return CoresElsewhere(self._cluster.workers.cores, self._cluster.spare_cores)

    def reports(self) -> tuple[WorkerReport, ...] | None:
        """Return a report on each worker, or None without a cluster."""
        if self._cluster is None:
            return None
        return tuple(
            WorkerReport(
                name=worker.facts.id,
                host=worker.facts.host,
                cores=worker.facts.cores,
                free_cores=worker.free_cores,
                memory=worker.facts.memory,
                ffmpeg=worker.facts.ffmpeg,
                sandbox=list(worker.facts.layers),
                running=sorted(grant.stage for grant in worker.grants),
                completed=worker.done,
                refused=self._cluster.workers.objection(worker) or None,
            )
            for worker in self._cluster.workers
        )

    def wanted_workers(self) -> int:
        """Return how many workers of the present kind would leave nothing waiting.

        It counts the cores that commands have or ask for, and as many for each queued task as the
        running tasks have on average.
        """
        if self._cluster is None:
            return 0
        placing, workers = self._cluster.placing, list(self._cluster.workers)
        granted = sum(grant.cores for worker in workers for grant in worker.grants)
        busy = granted + placing.wanted_cores
        usual = max((worker.facts.cores for worker in workers), default=4)
        per_task = busy / self._queue.running if self._queue.running else usual
        return math.ceil((busy + self._queue.queued * max(1.0, per_task)) / usual)

    def write(self) -> None:
        """Write a line for each worker to performance.log."""
        for worker in self.reports() or ():
            self.log.info(
                "worker={name} host={host} cores={cores} free_cores={free} memory={memory}MiB"
                " running={running} completed={completed} refused={refused}",
                name=worker.name,
                host=worker.host,
                cores=worker.cores,
                free=worker.free_cores,
                memory=worker.memory >> 20,
                running=",".join(worker.running) or "-",
                completed=worker.completed,
                refused=worker.refused or "-",
            )

    # --- Prometheus -----------------------------------------------------------------------------

    def describe(self) -> list[Metric]:
        """Nothing: the registry need not collect to register."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Return the metrics of this moment."""
        reports = self.reports()
        if reports is None:
            return
        up = GaugeMetricFamily(
            "vidproc_worker_up",
            "1 if a worker gets commands, 0 if it is refused.",
            labels=["worker", "host", "ffmpeg", "sandbox"],
        )
        cores = GaugeMetricFamily(
            "vidproc_worker_cores", "A worker's cores.", labels=["worker", "what"]
        )
        memory = GaugeMetricFamily(
            "vidproc_worker_memory_bytes", "Memory for commands.", labels=["worker"]
        )
        running = GaugeMetricFamily(
            "vidproc_worker_running", "Commands that run.", labels=["worker"]
        )
        completed = CounterMetricFamily(
            "vidproc_worker_completed", "Commands completed.", labels=["worker"]
        )
        for each in reports:
            layers = ",".join(each.sandbox)
            up.add_metric([each.name, each.host, each.ffmpeg, layers], int(each.refused is None))
            cores.add_metric([each.name, "all"], each.cores)
            cores.add_metric([each.name, "free"], each.free_cores)
            memory.add_metric([each.name], each.memory)
            running.add_metric([each.name], len(each.running))
            completed.add_metric([each.name], each.completed)
        yield from (up, cores, memory, running, completed)
        yield GaugeMetricFamily(
            "vidproc_workers_wanted",
            "Workers that would leave nothing waiting.",
            value=self.wanted_workers(),
        )
        assert self._cluster is not None
        yield GaugeMetricFamily(
            "vidproc_cluster_waiting",
            "Commands that wait for a worker.",
            value=self._cluster.placing.waiting,
        )
