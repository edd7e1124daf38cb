"""The server's figures for Prometheus.

Events (a task is accepted, a task ends) are counted by observers when they happen; the current
state is queried at each scrape. The domain knows nothing of this. Labels are names of operations,
states, frontends and codes, so their number is limited; they are never IDs, names or addresses.
The workers of a cluster are the exception: their names and hosts are labels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from twisted.internet.interfaces import IReactorTime

from vidproc import __version__
from vidproc.answers import FigurePoint
from vidproc.app.cluster_figures import ClusterFigures
from vidproc.app.measuring import Counters
from vidproc.files.space import Space
from vidproc.frontends.gate import Gate
from vidproc.operations.parameters import PARAMETERS
from vidproc.tasks.facade import Tasks
from vidproc.tasks.model import State, Task
from vidproc.tasks.views import TaskView

_SECONDS = (0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600)
_BYTES = tuple(float(1 << power) for power in range(16, 38, 3))
_OUTCOMES = (State.COMPLETED, State.FAILED, State.CANCELLED)


FRESH = 1.0
"""Seconds for which a rendering is reused, because asking all sockets for their packets takes
time."""


class Metrics:
    """Counts what the server does. `render` returns it in Prometheus' format.

    `count` returns the running totals of CPU time and traffic, `last` the newest figures.
    """

    def __init__(
        self,
        clock: IReactorTime,
        tasks: Tasks,
        gate: Gate,
        space: Space,
        count: Callable[[], Counters],
        last: Callable[[], FigurePoint | None],
        cluster: ClusterFigures | None = None,
    ) -> None:
        self._clock = clock
        self._rendered = b""
        self._rendered_at = float("-inf")
        self._registry = CollectorRegistry()
        self._accepted = self._counter(
            "vidproc_tasks_accepted", "Uploads that have become tasks.", "operation"
        )
        self._ended = self._counter(
            "vidproc_tasks_ended", "Tasks that have ended.", "operation", "outcome"
        )
        self._duration = self._histogram(
            "vidproc_task_duration_seconds",
            "From the first attempt's begin to the task's end.",
            _SECONDS,
            "operation",
            "outcome",
        )
        self._wait = self._histogram(
            "vidproc_task_wait_seconds",
            "From a task's upload to its first attempt's begin.",
            _SECONDS,
            "operation",
        )
        self._input = self._histogram(
            "vidproc_task_input_bytes", "Size of what came in.", _BYTES, "operation"
        )
        self._output = self._histogram(
            "vidproc_task_output_bytes", "Size of a result.", _BYTES, "operation"
        )
        for (
            operation
        ) in PARAMETERS:  # to compute a rate, Prometheus needs the 0 before the first one
            self._accepted.labels(operation)
            for outcome in _OUTCOMES:
                self._ended.labels(operation, outcome.value)
        self._registry.register(_Now(tasks, gate, space, count, last))
        if cluster is not None and cluster.present:
            self._registry.register(cluster)
        tasks.on_accepted.append(self.accepted)
        tasks.queue.watches.on_ended.append(self.ended)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, registry=self._registry)

    def _histogram(
        self, name: str, text: str, buckets: tuple[float, ...], *labels: str
    ) -> Histogram:
        return Histogram(name, text, labels, buckets=buckets, registry=self._registry)

    def accepted(self, task: Task) -> None:
        """Count a task that was accepted."""
        self._accepted.labels(task.type).inc()
        self._input.labels(task.type).observe(task.input_size)

    def ended(self, view: TaskView) -> None:
        """Count a task that has ended."""
        task = view.task
        self._ended.labels(task.type, task.state.value).inc()
        if task.started_at is not None and task.completed_at is not None:
            duration = max(0.0, task.completed_at - task.started_at)
            self._duration.labels(task.type, task.state.value).observe(duration)
            self._wait.labels(task.type).observe(max(0.0, task.started_at - task.created_at))
        if task.output_size is not None:
            self._output.labels(task.type).observe(task.output_size)

    def render(self) -> bytes:
        """Return everything in Prometheus' text format, at most `FRESH` seconds old."""
        now = self._clock.seconds()
        if now - self._rendered_at >= FRESH:
            self._rendered = generate_latest(self._registry)
            self._rendered_at = now
        return self._rendered


class _Now:
    """The metrics that are queried at each scrape."""

    def __init__(
        self,
        tasks: Tasks,
        gate: Gate,
        space: Space,
        count: Callable[[], Counters],
        last: Callable[[], FigurePoint | None],
    ) -> None:
        self._tasks = tasks
        self._gate = gate
        self._space = space
        self._count = count
        self._last = last

    def describe(self) -> list[Metric]:
        """Return nothing, so that the registry does not collect when this is registered."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Return the current metrics."""
        yield from self._of_tasks()
        yield from self._of_connections()
        yield from self._of_the_machine()
        build = GaugeMetricFamily(
            "vidproc_build_info", "The version; always 1.", labels=["version"]
        )
        build.add_metric([__version__], 1)
        yield build

    def _of_tasks(self) -> Iterator[Metric]:
        queue = self._tasks.queue
        yield _gauge("vidproc_tasks_queued", "Tasks that wait.", queue.queued)
        yield _gauge("vidproc_tasks_running", "Tasks that are worked on.", queue.running)
        yield _gauge("vidproc_concurrency", "Tasks that may run at a time.", queue.concurrency)
        yield _gauge("vidproc_uploads_active", "Uploads in progress.", self._tasks.uploads.active)
        yield _gauge("vidproc_watches", "Watches on tasks.", len(queue.watches))

    def _of_connections(self) -> Iterator[Metric]:
        gate = self._gate
        yield _gauge("vidproc_connections", "Connections open.", gate.connections)
        yield _gauge("vidproc_peers", "Clients connected.", gate.peers)
        yield _gauge("vidproc_draining", "1 while the server stops.", int(gate.draining))
        errors = CounterMetricFamily(
            "vidproc_refusals", "Requests answered with an error.", labels=["frontend", "code"]
        )
        for (frontend, code), number in sorted(gate.errors.items()):
            errors.add_metric([frontend, str(code)], number)
        yield errors

    def _of_the_machine(self) -> Iterator[Metric]:
        now = self._count()
        yield _counter("vidproc_received_packets", "TCP segments with data.", now.packets_in)
        traffic = CounterMetricFamily(
            "vidproc_transferred_bytes", "Bytes from and to clients.", labels=["direction"]
        )
        traffic.add_metric(["in"], now.bytes_in)
        traffic.add_metric(["out"], now.bytes_out)
        yield traffic
        cpu = CounterMetricFamily(
            "vidproc_cpu_seconds", "CPU time of media processes and of the service.", labels=["of"]
        )
        cpu.add_metric(["ffmpeg"], now.ffmpeg_cpu)
        cpu.add_metric(["service"], now.service_cpu)
        yield cpu
        disk = GaugeMetricFamily("vidproc_disk_bytes", "The data folder's space.", labels=["what"])
        disk.add_metric(["used"], self._space.used)
        disk.add_metric(["reserved"], self._space.reserved)
        disk.add_metric(["free"], self._space.free())
        yield disk
        last = self._last()
        if last is None:
            return
        share = GaugeMetricFamily(
            "vidproc_cpu_share", "Share of all cores over the last 10 s, 0 to 1.", labels=["of"]
        )
        share.add_metric(["ffmpeg"], last.cpu_ffmpeg)
        share.add_metric(["service"], last.cpu_service)
        share.add_metric(["other"], last.cpu_other)
        yield share
        memory = GaugeMetricFamily("vidproc_memory_bytes", "Memory.", labels=["of"])
        memory.add_metric(["service"], last.memory_service)
        memory.add_metric(["ffmpeg"], last.memory_ffmpeg)
        memory.add_metric(["available"], last.memory_available)
        yield memory


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(name, text, value=value)
