"""A command on its way through the cluster: whose fault it is if workers are lost."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock, deferLater

from tests.test_cluster_placing import PlacingCase, facts
from vidproc.cluster import messages
from vidproc.cluster.messages import Outcome
from vidproc.cluster.placing import Placing
from vidproc.cluster.running import MOST_LOSSES, MOST_UNLUCKY, REST, RemoteRunning
from vidproc.cluster.workers import Worker
from vidproc.ffmpeg.command import Command, CommandFailed, Completed, FailureKind, Workspace


class Link:
    """A scheduler that remembers what was submitted."""

    topic = "topic"

    def __init__(self) -> None:
        self.answers: list[Deferred[bytes]] = []
        self.released: list[str] = []

    def submit(self, *order: Any) -> Deferred[bytes]:
        """Run a command, until the test answers."""
        self.answers.append(Deferred())
        return self.answers[-1]

    def release(self, key: str) -> None:
        """Forget a command."""
        self.released.append(key)


class Objects:
    """An object store in which everything is already."""

    async def ship(self, command: Command, workspace: Workspace) -> tuple[()]:
        """Return no files."""
        return ()

    def prefix_of(self, workspace: Workspace) -> str:
        """Return where they would be."""
        return "vidproc/me/task/1"


class RunningTests(PlacingCase):
    def setUp(self) -> None:
        super().setUp()
        self.clock = Clock()
        self.link = Link()
        self.others_lost = False
        self.cluster: Any = SimpleNamespace(
            up=True,
            expects_workers=True,
            link=self.link,
            objects=Objects(),
            workers=self.workers,
            placing=Placing(self.workers),
            sandbox=SimpleNamespace(file_size=1000, cpu_time=10),
            now=self.clock.seconds,
            pause=lambda seconds=0.5: deferLater(self.clock, seconds, lambda: None),
            lost_another=lambda running, since: self.others_lost,
            has_another=lambda worker: True,
            ended=lambda running: None,
            tell_done=lambda running, outcome, worker: None,
        )
        self.see(*(facts(f"w{number}") for number in range(8)))
        self.outcomes: list[Any] = []
        command = Command("ffmpeg", (), "encoding", cpus=1.0)
        self.running = RemoteRunning(
            self.cluster, command, Workspace("source", "task/1"), 1, lambda _: None
        )
        self.running.result.addBoth(self.outcomes.append)
        self.running.begin()

    def worker(self) -> Worker:
        assert self.running.worker is not None
        return self.running.worker

    def lose(self) -> None:
        """Let its worker die, and wait until it runs on another or has ended."""
        self.running.lost("it is gone", blamed=True)
        self.clock.advance(REST)

    def answer(self, data: bytes) -> None:
        self.link.answers[-1].callback(data)

    def kind(self) -> FailureKind:
        (outcome,) = self.outcomes
        assert isinstance(outcome.value, CommandFailed)
        return outcome.value.kind

    def test_three_lost_workers_are_its_fault(self) -> None:
        """If no other worker was lost meanwhile."""
        for number in range(MOST_LOSSES):
            self.assertEqual(self.outcomes, [], number)
            self.lose()
        self.assertIs(self.kind(), FailureKind.CRASHED)

    def test_it_may_be_unlucky_where_other_workers_are_lost(self) -> None:
        """Someone restarts them, say. But not for ever."""
        self.others_lost = True
        for number in range(MOST_UNLUCKY):
            self.assertEqual(self.outcomes, [], number)
            self.lose()
        self.assertIs(self.kind(), FailureKind.CRASHED)

    def test_after_the_second_loss_it_waits(self) -> None:
        """So that it is seen if others are lost, too; and a stop ends the wait."""
        for _ in range(2):
            self.assertIsNotNone(self.running.worker)
            self.running.lost("it is gone", blamed=True)
        self.assertIsNone(self.running.worker)
        self.clock.advance(REST - 0.1)
        self.assertIsNone(self.running.worker)
        self.clock.advance(0.2)
        self.assertIsNotNone(self.running.worker)
        self.running.lost("the scheduler was lost", blamed=False)
        self.running.stop()
        self.assertEqual(len(self.outcomes), 1)

    def test_a_lost_scheduler_is_not_its_fault(self) -> None:
        """However often."""
        for _ in range(2 * MOST_UNLUCKY):
            self.running.lost("the scheduler was lost", blamed=False)
        self.assertEqual(self.outcomes, [])
        self.assertEqual(self.running.losses, 0)

    def test_nonsense_is_its_workers_fault(self) -> None:
        """It runs on another one, and the first gets nothing for a while."""
        first = self.worker()
        self.answer(b"garbage")
        self.assertIsNot(self.worker(), first)
        self.assertIn("cannot be read", self.workers.objection(first))
        self.answer(messages.encode(Outcome("completed", elapsed=1.0)))
        self.assertIsInstance(self.outcomes[0], Completed)

    def test_its_worker_has_space_for_what_it_writes(self) -> None:
        """Not only for what it reads."""
        self.cluster.sandbox.file_size = 1 << 40
        first = self.worker()
        self.see(first.facts, scratch=1 << 20)
        self.running.lost("the scheduler was lost", blamed=False)
        self.assertNotEqual(self.worker().facts.id, first.facts.id)

    def test_its_own_failure_is_its_own(self) -> None:
        """No other worker has to try it."""
        self.answer(messages.encode(Outcome("failed", "status 1", "input")))
        self.assertIsInstance(self.outcomes[0].value, CommandFailed)
        self.assertEqual(len(self.link.answers), 1)
