"""The workers of a cluster in `info`, in metrics, in performance.log and in rebalancing."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import msgspec
from prometheus_client import CollectorRegistry, generate_latest

from tests.test_cluster_placing import PlacingCase, facts, said
from vidproc.app.cluster_figures import ClusterFigures
from vidproc.app.rebalancing import CoresElsewhere
from vidproc.client.texts import info_block
from vidproc.frontends.mmp.reports import describe_server
from vidproc.frontends.server_info import ServerInfo
from vidproc.mmp import messages
from vidproc.tasks.settings import Settings


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

    def test_an_answer_has_room_for_some_of_many_workers(self) -> None:
        """Those first that get no commands; the client says how many are left out."""
        many = {str(n): said(facts(f"encoder-{n:04d}.example.org", 64)) for n in range(1000)}
        self.workers.update({"b": said(facts("b", 2, version="0.0.9")), **many})
        for number in range(5000):
            self.ask(str(number))
        info = ServerInfo(
            settings=Settings(),
            ffmpeg_version="9.0",
            sandbox=("landlock",),
            queued=0,
            running=0,
            concurrency=1,
            workers=self.figures.reports(),
        )
        answer = describe_server(info, messages.Info(detail=True))
        self.assertLess(len(messages.encode_answer(answer, detail=True)), 1 << 16)
        fields = msgspec.to_builtins(answer)
        self.assertEqual(fields["workers"][0]["name"], "b")
        self.assertEqual(len(fields["workers"]) + fields["workers_left_out"], 1001)
        self.assertGreater(len(fields["workers"]), 20)
        block = dict(info_block("host", 9999, fields))
        self.assertIn(f"{fields['workers_left_out']} more", block["Workers"])

    def test_the_client_shows_workers(self) -> None:
        """A line each."""
        fields = {"workers": list(msgspec.to_builtins(self.figures.reports()))}
        block = dict(info_block("host", 9999, fields))
        self.assertIn("4 of 4 cores free; 4.0 GiB; FFmpeg 9.0", block["Worker a"])
        self.assertIn("gets no commands: it has vidproc 0.0.9", block["Worker b"])
        self.assertIn("none", dict(info_block("host", 9999, {"workers": []}))["Workers"])
