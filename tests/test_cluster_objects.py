"""What the server has in the object store: put once, kept while it is needed, and then removed."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

from twisted.internet.defer import ensureDeferred
from twisted.logger import ILogObserver, LogEvent, formatEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from support.blocking import private_reactor, wait_for
from support.job import bundled_ffmpeg, local_runner, path_of_key, sandbox
from vidproc.cluster.lease import Lease
from vidproc.cluster.messages import ShippedFile
from vidproc.cluster.object_store import ObjectStore, StoreAway
from vidproc.cluster.objects import INLINE, Objects
from vidproc.cluster.runner import ClusterRunner
from vidproc.cluster.security import ClusterOptions
from vidproc.ffmpeg.command import SOURCE, Command, Workspace
from vidproc.files.threads import WorkerThreads
from vidproc.topics import Topic


class ObjectsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.root = Path(self.mktemp()).absolute()
        (self.root / "store").mkdir(parents=True)
        (self.root / "task" / "1").mkdir(parents=True)
        (self.root / "film").write_bytes(os.urandom(2 * INLINE))
        self.store = ObjectStore(f"file://{self.root}/store", patience=0.0)
        self.threads = WorkerThreads(private_reactor(), "objects", 2)
        self.threads.start()
        self.running = True
        self.addCleanup(self.wait_until_stopped)
        self.objects = self.of_server(Lease(self.store, "vidproc/me"))
        self.workspace = Workspace("film", "task/1")

    def of_server(self, lease: Lease) -> Objects:
        lease.renew()
        return Objects(self.store, "vidproc/me", lease, self.threads, lambda key: self.root / key)

    def ship(self) -> tuple[ShippedFile, ...]:
        command = Command("ffmpeg", (), "encoding", reads=(SOURCE,))
        return wait_for(ensureDeferred(self.objects.ship(command, self.workspace)))

    def keys(self) -> list[str]:
        return [key for key, _ in self.store.keys("vidproc") if "/lease/" not in key]

    def wait_until_stopped(self) -> None:
        """Wait for what is on its way; the threads end."""
        if self.running:
            self.running = False
            wait_for(self.threads.stop_in_background())

    def test_an_input_is_there_once_until_its_attempt_is_released(self) -> None:
        """However often it is shipped."""
        self.assertEqual(self.ship(), self.ship())
        self.assertEqual(
            self.keys(), ["vidproc/me/task/1/source", "vidproc/me/task/1/source.blocks"]
        )
        self.assertEqual(self.objects.bytes_put, 2 * INLINE)
        self.assertEqual(self.objects.sweep(), 0)
        self.objects.release(self.workspace)
        self.wait_until_stopped()
        self.assertEqual(self.keys(), [])

    def test_the_source_can_be_on_its_way_before_a_command_needs_it(self) -> None:
        """It is put once; one that is not there concerns who needs it, and nobody else."""
        self.objects.ship_ahead(self.workspace)
        self.ship()
        self.assertEqual(self.objects.bytes_put, 2 * INLINE)
        self.assertEqual(len(self.keys()), 2)
        missing = Workspace("missing", "task/1")
        self.objects.ship_ahead(missing)
        command = Command("ffmpeg", (), "encoding", reads=(SOURCE,))
        with self.assertRaises(FileNotFoundError):
            wait_for(ensureDeferred(self.objects.ship(command, missing)))
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_what_is_distrusted_is_put_again(self) -> None:
        """Once, under another key, however many workers found it damaged."""
        before = self.ship()
        self.objects.distrust(before, self.workspace)
        after = self.ship()
        self.objects.distrust(before, self.workspace)
        self.assertEqual(self.ship(), after)
        self.assertEqual(after[0].key, "vidproc/me/task/1/source.2")
        self.assertEqual(after[0].digest, before[0].digest)

    def test_a_stop_releases_all(self) -> None:
        """What attempts had that nobody released goes, too."""
        self.ship()
        self.objects.release_all()
        self.wait_until_stopped()
        self.objects.sweep()
        self.assertEqual(self.keys(), [])

    def test_a_sweep_removes_what_a_late_worker_puts(self) -> None:
        """And leaves other servers' objects, and the lease."""
        self.ship()
        self.store.put("vidproc/me/task/9/result.mp4.0123", b"late")
        self.store.put("vidproc/other/task/9/source", b"foreign")
        self.assertEqual(self.objects.sweep(), 1)
        self.assertEqual(len(self.keys()), 3)
        self.assertIn("vidproc/other/task/9/source", self.keys())

    def test_who_lacks_the_lease_sweeps_nothing(self) -> None:
        """It may be that another server has this one's id."""
        self.ship()
        second = self.of_server(Lease(self.store, "vidproc/me"))
        self.assertEqual(second.sweep(), 0)
        self.assertEqual(len(self.keys()), 2)

    def test_a_failed_removal_is_left_to_a_sweep(self) -> None:
        """A store that was away when the attempt ended."""
        self.ship()
        (self.root / "store").rename(self.root / "away")
        self.objects.release(self.workspace)
        self.wait_until_stopped()
        self.assertRaises(StoreAway, self.objects.sweep)
        (self.root / "away").rename(self.root / "store")
        self.assertEqual(self.objects.sweep(), 2)
        self.assertEqual(self.keys(), [])


class AwayTests(SynchronousTestCase):
    def test_a_store_that_is_away_is_told_once(self) -> None:
        """Though what it says differs each time."""
        folder = Path(self.mktemp()).absolute()
        folder.mkdir()
        runner = ClusterRunner(
            private_reactor(),
            ClusterOptions("tcp://127.0.0.1:8786", f"file://{folder}"),
            local_runner(),
            bundled_ffmpeg(),
            sandbox(),
            "auto",
            path_of_key,
            "me",
        )
        self.addCleanup(runner.link._loop.close)
        runner._upkeep_thread.start()
        self.addCleanup(lambda: wait_for(runner._upkeep_thread.stop_in_background()))
        told: list[str] = []

        @implementer(ILogObserver)
        def observe(event: LogEvent) -> None:
            if event.get("topic") is Topic.PERFORMANCE:
                told.append(formatEvent(event))

        globalLogPublisher.addObserver(observe)
        self.addCleanup(globalLogPublisher.removeObserver, observe)
        times = itertools.count()

        def away(lease: Lease) -> bool:
            raise StoreAway(f"refused after {next(times)} ms")

        renew = Lease.renew
        self.patch(Lease, "renew", away)
        for _ in range(3):
            wait_for(ensureDeferred(runner._keep_lease()))
        self.patch(Lease, "renew", renew)
        wait_for(ensureDeferred(runner._keep_lease()))
        self.assertEqual(
            told,
            [
                "the object store cannot be reached; commands run on this machine:"
                " refused after 0 ms",
                "the object store is ours",
            ],
        )
