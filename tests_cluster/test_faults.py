"""Workers that are killed, frozen, full or slow; an object store and a scheduler out of reach."""

from __future__ import annotations

import signal
import threading
import time
from typing import Any

from support.cluster import Worker
from support.job import key_of_path
from tests_cluster.case import ClusterCase, turn, turn_until
from tests_cluster.test_commands import FLOWER, encode
from vidproc.cluster import running as running_module
from vidproc.cluster import workers as workers_module
from vidproc.ffmpeg.command import Command, CommandFailed, Completed, FailureKind, Workspace


class FaultCase(ClusterCase):
    count = 2

    def setUp(self) -> None:
        super().setUp()
        self.set_up_cluster()
        self.runner_ = self.runner()
        self.wait_for_workers(self.runner_, self.count)
        self.workspace = Workspace(key_of_path(FLOWER), key_of_path(self.folder))
        self.outcomes: dict[str, Any] = {}
        self.progress: dict[str, int] = {}

    def set_up_cluster(self) -> None:
        self.cluster.start_scheduler()
        self.start_workers(self.count)

    def start(self, name: str, command: Command) -> Any:
        def reported(_: object) -> None:
            self.progress[name] = self.progress.get(name, 0) + 1

        running = self.runner_.start(command, self.workspace, 1, reported)

        def ended(outcome: object) -> None:
            # It returns nothing, because an unhandled failure is reported in a later test.
            self.outcomes.setdefault(name, outcome)

        running.result.addBoth(ended)
        return running

    def outcome(self, name: str) -> Any:
        turn_until(lambda: name in self.outcomes, what=self.describe)
        return self.outcomes[name]

    def describe(self) -> str:
        return f"{self.outcomes} {[worker.logged()[-2000:] for worker in self.workers]}"

    def assert_completed(self, name: str, file: str = "out.mp4") -> None:
        self.assertIsInstance(self.outcome(name), Completed)
        self.assertGreater((self.folder / file).stat().st_size, 10_000)

    def worker_of(self, running: Any) -> Worker:
        """Wait until a worker runs a command; return that worker's process."""
        turn_until(lambda: running.worker is not None)
        return next(w for w in self.workers if f"-{w.pid}-" in running.worker.facts.id)

    def assert_nothing_left(self) -> None:
        self.runner_.release(self.workspace)
        turn_until(lambda: not self.cluster.left_on_disk())
        turn_until(lambda: self.media_processes() == [])


class KilledTests(FaultCase):
    def test_a_killed_workers_command_runs_again_elsewhere(self) -> None:
        """Its FFmpeg dies with it."""
        running = self.start("1", encode(seconds=4))
        worker = self.worker_of(running)
        turn_until(lambda: self.progress.get("1", 0) >= 2)
        worker.kill()
        self.assert_completed("1")
        self.assertEqual(self.runner_.local.running, set())
        self.assertEqual([each.done for each in self.runner_.workers], [1])
        self.assert_nothing_left()

    def test_a_frozen_workers_command_is_done_again(self) -> None:
        """Its late result is discarded, and its FFmpeg ends when it continues."""
        self.patch(workers_module, "SILENT", 3.0)
        running = self.start("1", encode(seconds=4))
        worker = self.worker_of(running)
        turn_until(lambda: self.progress.get("1", 0) >= 2)
        worker.signal(signal.SIGSTOP)
        self.assert_completed("1")
        self.assertEqual(sum(each.done for each in self.runner_.workers), 1)
        stopped = encode("late.mp4", seconds=600)
        late = self.start("2", stopped)
        other = self.worker_of(late)
        self.assertIsNot(other, worker)
        turn_until(lambda: self.progress.get("2", 0) >= 2)
        other.signal(signal.SIGSTOP)
        worker.signal(signal.SIGCONT)
        turn_until(lambda: late.worker is not None and self.worker_of(late) is worker)
        late.stop()
        self.outcome("2")
        self.assertTrue(self.media_processes())  # the frozen worker's, which no one waits for
        other.signal(signal.SIGCONT)
        turn_until(lambda: self.media_processes() == [])
        self.assertFalse((self.folder / "late.mp4").exists())
        self.assert_nothing_left()


class KillerTests(FaultCase):
    count = 4

    def test_three_killed_workers_are_the_films_fault(self) -> None:
        """Other commands continue."""
        self.patch(running_module, "REST", 1.0)
        innocent = self.start("innocent", encode("other.mp4", seconds=15))
        keeper = self.worker_of(innocent)
        killer = self.start("killer", encode(seconds=600))
        for number in range(3):
            victim = self.worker_of(killer)
            self.assertIsNot(victim, keeper)
            self.progress.pop("killer", None)
            turn_until(lambda: "killer" in self.progress)
            victim.kill()
            give_up_at = time.monotonic() + 60
            while killer.losses == number and time.monotonic() < give_up_at:
                turn()
        failure = self.outcome("killer")
        self.assertIsInstance(failure.value, CommandFailed)
        self.assertEqual(failure.value.kind, FailureKind.CRASHED)
        self.assertIn("3 workers were lost", failure.value.reason)
        self.assert_completed("innocent", "other.mp4")
        self.assert_nothing_left()


class TroubledTests(FaultCase):
    def test_a_full_disk_sends_the_command_elsewhere(self) -> None:
        """The worker gets no other command for a while, and the command is not blamed."""
        full = self.workers[0]
        self.assertEqual(full.stop(), 0)
        self.wait_for_workers(self.runner_, 1)
        self.workers[1].stop()
        turn_until(lambda: not self.runner_.up)
        full.file_size = 100 << 10
        full.start()
        self.wait_for_workers(self.runner_, 1)
        self.start("1", encode())
        turn_until(lambda: "unable" in full.logged() or "failed" in full.logged())
        self.workers[1].start()
        self.assert_completed("1")
        self.assertEqual(sum(each.done for each in self.runner_.workers), 1)
        self.assert_nothing_left()

    def test_a_scheduler_that_starts_again_gets_its_workers_back(self) -> None:
        """Commands wait for them and run there; none counts as lost."""
        running = self.start("1", encode(seconds=4))
        turn_until(lambda: self.progress.get("1", 0) >= 2)
        self.cluster.scheduler.kill()
        turn_until(lambda: not self.runner_.up)
        self.cluster.scheduler.start()
        self.assert_completed("1")
        self.assertEqual(running.losses, 0)
        self.wait_for_workers(self.runner_, 2)
        self.assert_nothing_left()

    def test_a_stopping_worker_gives_back_what_it_cannot_finish(self) -> None:
        """After SIGTERM it takes no new commands, waits for the grace period and exits with 0."""
        worker = self.workers[0]
        worker.stop()
        self.wait_for_workers(self.runner_, 1)  # a command for the old one would be a loss
        worker.argv += ["--grace", "1s"]
        worker.start()
        self.wait_for_workers(self.runner_, 2)
        commands = [self.start(str(n), encode(f"{n}.mp4", seconds=6)) for n in range(2)]
        turn_until(lambda: len(self.progress) == 2)
        self.assertEqual({self.worker_of(each) for each in commands}, set(self.workers))
        self.assertEqual(worker.stop(), 0)
        for n in range(2):
            self.assert_completed(str(n), f"{n}.mp4")
        self.assertEqual([each.losses for each in commands], [0, 0])
        self.assert_nothing_left()


class PatienceTests(FaultCase):
    def set_up_cluster(self) -> None:
        self.use_shared_cluster()

    def test_a_slow_worker_is_waited_for(self) -> None:
        """It is paused most of the time, and loses nothing."""
        running = self.start("1", encode(seconds=4))
        worker = self.worker_of(running)
        over = threading.Event()

        def slow_down() -> None:
            while not over.wait(0.2):
                worker.signal(signal.SIGSTOP)
                over.wait(1.0)
                worker.signal(signal.SIGCONT)

        thread = threading.Thread(target=slow_down)
        thread.start()
        try:
            self.assert_completed("1")
        finally:
            over.set()
            thread.join()
            worker.signal(signal.SIGCONT)
        self.assertNotIn("again", worker.logged())
        self.assert_nothing_left()

    def test_a_store_that_is_away_is_waited_for(self) -> None:
        """The server and the worker wait for it, here for 30 s."""
        self.start("running", encode("running.mp4", seconds=4))
        turn_until(lambda: self.progress.get("running"))
        away = self.root / "away"
        self.cluster.store_folder.rename(away)
        self.start("new", encode("new.mp4"))
        back_at = time.monotonic() + 30
        turn_until(lambda: time.monotonic() > back_at)
        self.assertFalse(self.cluster.store_folder.exists())
        self.assertIn("object store", self.runner_.why_not_up)
        self.assertNotIn("running", self.outcomes)
        away.rename(self.cluster.store_folder)
        self.assert_completed("running", "running.mp4")
        self.assert_completed("new", "new.mp4")
        self.assert_nothing_left()
