"""The workers of a cluster in `info`, in metrics, in performance.log and in rebalancing."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest

from tests.test_cluster_placing import PlacingCase, facts, said
from vidproc.app.cluster_figures import ClusterFigures
from vidproc.app.rebalancing import CoresElsewhere
from vidproc.client.texts import info_block


def anything(**attributes: Any) -> Any:
    """Return an object with these attributes."""
    return SimpleNamespace(**attributes)


class FigureTests(PlacingCase):
    def setUp(self) -> None:
        super().setUp()
        self.queue = anything(running=0, queued=0)
        cluster = anything(workers=self.workers, placing=self.placing, up=True, spare_cores=3)
        self.figures = ClusterFigures(cluster, self.queue)
        self.workers.update({"a": said(facts("a", 4)), "b": said(facts("b", 2, version="0.0.9"))})

    def test_each_worker_is_reported(self) -> None:
        """With what it does, and why it does nothing."""
        self.ask("1")
        first, second = self.figures.reports() or ()
        self.assertEqual(
            (first.name, first.cores, first.free_cores, first.running, first.refused),
            ("a", 4, 3, ["encoding"], None),
        )
        self.assertIn("0.0.9", str(second.refused))

    def test_without_a_cluster_there_is_nothing(self) -> None:
        """Neither a list nor cores."""
        figures = ClusterFigures(None, self.queue)
        self.assertIsNone(figures.reports())
        self.assertEqual(figures.cores(), CoresElsewhere(0, 0))
        self.assertEqual(list(figures.collect()), [])

    def test_metrics_name_each_worker(self) -> None:
        """And tell whoever scales them how many are wanted."""
        self.ask("1")
        registry = CollectorRegistry()
        registry.register(self.figures)
        text = generate_latest(registry).decode()
        self.assertIn('vidproc_worker_cores{what="free",worker="a"} 3.0', text)
        self.assertRegex(text, r'vidproc_worker_up\{.*worker="a"\} 1\.0')
        self.assertRegex(text, r'vidproc_worker_up\{.*worker="b"\} 0\.0')
        self.assertIn("vidproc_workers_wanted 1.0", text)

    def test_waiting_tasks_and_commands_want_workers(self) -> None:
        """As many cores for a queued task as a running one has."""
        self.assertEqual(self.figures.wanted_workers(), 0)
        for number in range(10):
            self.ask(str(number))
        self.queue.running, self.queue.queued = 5, 0
        self.assertEqual(self.figures.wanted_workers(), 3)
        self.queue.queued = 10
        self.assertEqual(self.figures.wanted_workers(), 8)

    def test_the_client_shows_workers(self) -> None:
        """A line each."""
        import msgspec

        fields = {"workers": list(msgspec.to_builtins(self.figures.reports()))}
        block = dict(info_block("host", 9999, fields))
        self.assertIn("4 of 4 cores free; 4.0 GiB; FFmpeg 9.0", block["Worker a"])
        self.assertIn("gets no commands: it has vidproc 0.0.9", block["Worker b"])
        self.assertIn("none", dict(info_block("host", 9999, {"workers": []}))["Workers"])
