"""Workers, object stores and schedulers that misbehave rather than become unreachable."""

from __future__ import annotations

import secrets
import signal
from pathlib import Path
from typing import Any

from support.blocking import wait_for
from support.cluster import Worker
from support.folders import files_below
from support.job import bundled_ffmpeg, key_of_path
from tests_cluster.case import ClusterCase, turn_until
from tests_cluster.test_commands import FLOWER, encode
from vidproc.cluster import runner as runner_module
from vidproc.cluster.runner import ClusterRunner
from vidproc.ffmpeg.command import Workspace

GARBAGE = """
from vidproc.cluster import entry
async def run(order):
    return b"garbage"
entry.run = run
"""
WRONG_BYTES = """
import obstore
from vidproc.cluster.object_store import ObjectStore
put_file = ObjectStore.put_file
def wrong(self, path, key, *more):
    found = put_file(self, path, key, *more)
    obstore.put(self._store, key, bytes(found[0].size))
    return found
ObjectStore.put_file = wrong
"""
TOO_LARGE = """
import msgspec
from vidproc.cluster.digest import block_size
from vidproc.cluster.object_store import ObjectStore
put_file = ObjectStore.put_file
def wrong(self, path, key, *more):
    digest, blocks = put_file(self, path, key, *more)
    size = 1 << 50
    return msgspec.structs.replace(digest, size=size, block=block_size(size)), blocks
ObjectStore.put_file = wrong
"""
OTHER_VERSION = """
import vidproc
vidproc.__version__ = "0.0.1"
"""
IMPATIENT = """
from vidproc.cluster.object_store import ObjectStore
ObjectStore.__init__.__defaults__ = (1.0,)
"""
MAIN = """
import sys
from vidproc.app.worker_command import main
sys.exit(main())
"""


class AttackCase(ClusterCase):
    def setUp(self) -> None:
        super().setUp()
        self.cluster.start_scheduler()
        self.workspace = Workspace(key_of_path(FLOWER), key_of_path(self.folder))

    def changed_worker(self, change: str, *options: str) -> Worker:
        """Return a worker, not started yet, whose program has been modified."""
        worker = self.cluster.worker(*options)
        script = self.root / f"{worker.name}.py"
        script.write_text(change + MAIN)
        worker.argv[1:3] = [str(script)]
        return worker

    def run_command(self, runner: ClusterRunner, name: str = "out.mp4") -> None:
        """Run a command and check that it completes."""
        wait_for(runner.start(encode(name), self.workspace, 1, lambda _: None).result)
        self.assertGreater((self.folder / name).stat().st_size, 10_000)

    def objection(self, runner: ClusterRunner, worker: Worker) -> str:
        """Return why a worker gets no commands."""
        seen = next(each for each in runner.workers if f"-{worker.pid}-" in each.facts.id)
        return runner.workers.objection(seen)


class WrongWorkerTests(AttackCase):
    def assert_not_believed(self, change: str, words: str) -> None:
        """A misbehaving worker gets a command first; then a good worker joins and completes it."""
        wrong = self.changed_worker(change)
        good = self.cluster.worker()
        self.cluster.start_workers([wrong])
        runner = self.runner()
        self.wait_for_workers(runner, 1)
        outcome: list[Any] = []
        running = runner.start(encode(), self.workspace, 1, lambda _: None)
        running.result.addBoth(outcome.append)
        turn_until(lambda: outcome or self.objection(runner, wrong))
        self.assertEqual(outcome, [])
        self.assertIn(words, self.objection(runner, wrong))
        self.cluster.start_workers([good])
        turn_until(lambda: outcome)
        self.assertGreater((self.folder / "out.mp4").stat().st_size, 10_000)
        self.assertEqual(sum(worker.done for worker in runner.workers), 1)
        self.assertEqual([path.name for path in self.folder.iterdir()], ["out.mp4"])
        runner.release(self.workspace)
        turn_until(lambda: not self.cluster.left_on_disk())

    def test_garbage(self) -> None:
        """The answer is not an outcome."""
        self.assert_not_believed(GARBAGE, "answer cannot be read")

    def test_a_result_with_other_bytes(self) -> None:
        """Their digest does not match."""
        self.assert_not_believed(WRONG_BYTES, "arrived damaged")

    def test_a_result_that_would_fill_the_disk(self) -> None:
        """It is not fetched at all."""
        self.assert_not_believed(TOO_LARGE, "are allowed")

    def test_another_version_and_another_ffmpeg(self) -> None:
        """Such workers get no commands, and the reason is given; a compatible worker gets some."""
        old = self.changed_worker(OTHER_VERSION)
        ffmpeg = self.root / "other-ffmpeg"
        change = "sed 's/^ffmpeg version [^ ]*/ffmpeg version 1.2.3/'"
        ffmpeg.write_text(f"#!/bin/sh\n'{bundled_ffmpeg().path}' \"$@\" | {change}\n")
        ffmpeg.chmod(0o755)
        other = self.cluster.worker("--ffmpeg", str(ffmpeg), "--sandbox", "off")
        good = self.cluster.worker()
        self.cluster.start_workers([old, other, good])
        runner = self.runner()
        turn_until(lambda: len(list(runner.workers)) == 3)
        self.assertIn("it has vidproc 0.0.1", self.objection(runner, old))
        self.assertIn("it has FFmpeg 1.2.3", self.objection(runner, other))
        self.wait_for_workers(runner, 1)
        self.run_command(runner)
        self.assertEqual({each.done for each in runner.workers}, {0, 1})


class WrongStoreTests(AttackCase):
    def assert_put_again(self, change: str, spoil: Any) -> None:
        """A worker finds an input damaged that another could read; it is put again."""
        worker = self.changed_worker(change)
        self.cluster.start_workers([worker])
        runner = self.runner()
        self.wait_for_workers(runner, 1)
        self.run_command(runner, "1.mp4")
        (source,) = (
            path for path in files_below(self.cluster.store_folder) if path.name == "source"
        )
        spoil(source)
        worker.kill()
        turn_until(lambda: not runner.up)
        self.cluster.start_workers([worker])
        self.wait_for_workers(runner, 1)
        self.run_command(runner, "2.mp4")
        self.assertEqual(sum(each.done for each in runner.workers), 1)
        self.assertIn("unable", worker.logged())
        self.assertEqual((self.folder / "1.mp4").read_bytes(), (self.folder / "2.mp4").read_bytes())

    def test_wrong_bytes(self) -> None:
        """The size is right."""
        self.assert_put_again("", lambda path: path.write_bytes(bytes(path.stat().st_size)))

    def test_an_object_that_is_cut_off(self) -> None:
        """The worker waits for the rest first, because a disk may be slow to show it."""
        self.assert_put_again(IMPATIENT, lambda path: path.write_bytes(path.read_bytes()[:1000]))

    def test_an_object_that_was_removed(self) -> None:
        """Someone has cleaned up the bucket."""
        self.assert_put_again(IMPATIENT, Path.unlink)


class FrozenSchedulerTests(AttackCase):
    def test_commands_run_here_until_it_goes_on(self) -> None:
        """Its workers stop commands that no one is waiting for, and then get new ones."""
        self.patch(runner_module, "COMING_BACK", 3.0)
        self.cluster.start_workers([self.cluster.worker()])
        runner = self.runner()
        self.wait_for_workers(runner, 1)
        outcome: list[Any] = []
        running = runner.start(encode(seconds=20), self.workspace, 1, lambda _: None)
        running.result.addBoth(outcome.append)
        turn_until(self.media_processes)
        self.cluster.scheduler.signal(signal.SIGSTOP)
        self.run_command(runner, "here.mp4")
        self.assertFalse(runner.up)
        self.cluster.scheduler.signal(signal.SIGCONT)
        self.wait_for_workers(runner, 1)
        turn_until(lambda: outcome)
        self.run_command(runner, "there.mp4")
        self.assertEqual(sum(each.done for each in runner.workers), 1)
        turn_until(lambda: not self.media_processes())


class SharedPrefixTests(AttackCase):
    def test_the_second_waits_for_the_first_to_be_silent(self) -> None:
        """Then it takes over, and removes what the first one left."""
        self.cluster.start_workers([self.cluster.worker()])
        name = secrets.token_hex(4)
        first = self.runner(name)
        self.wait_for_workers(first, 1)
        self.run_command(first, "1.mp4")
        self.assertTrue(self.cluster.objects())
        second = self.runner(name)
        self.run_command(second, "2.mp4")
        self.assertFalse(second.up)
        self.assertTrue(self.cluster.objects())
        first._upkeep.stop()  # as if its process were frozen
        self.wait_for_workers(second, 1)
        turn_until(lambda: not self.cluster.objects())
        self.assertFalse(first.up)
        self.run_command(second, "3.mp4")
        self.assertEqual(sum(each.done for each in second.workers), 1)
