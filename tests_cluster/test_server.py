"""A server with a cluster: what clients see, and what happens when it is killed."""

from __future__ import annotations

import shutil
import signal
import time
from pathlib import Path
from typing import Any

import psutil
from twisted.trial.unittest import SynchronousTestCase

from support.cluster import wait_until
from support.server_process import BUSY, PlainClient, ServerProcess, has_ended
from tests_cluster.case import shared_cluster
from tests_cluster.test_commands import FLOWER, MEDIA
from vidproc.cluster.object_store import ObjectStore

LONG = MEDIA / "friday-480p-aac.mp4"


class ServerCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.cluster = shared_cluster()
        self.root = Path(self.mktemp()).absolute()

    def server(self, name: str = "server", *options: str) -> ServerProcess:
        server = ServerProcess(
            self.root / name,
            f"--cluster={self.cluster.scheduler.address}",
            f"--object-store={self.cluster.store}",
            "--tasks-per-ip=10",
            *options,
        )
        self.addCleanup(server.stop)
        return server

    def start(self, server: ServerProcess) -> PlainClient:
        server.start()
        return PlainClient(server.port)

    def wait_for_log(self, server: ServerProcess, words: str, name: str, count: int = 1) -> None:
        wait_until(lambda: server.log(name).count(words) >= count, what=words)

    def wait_for_cluster(self, server: ServerProcess, count: int = 1) -> None:
        """Wait until a server can use the cluster: it has the lease and sees the workers."""
        self.wait_for_log(server, "the object store is ours", "performance.log", count)
        self.wait_for_log(server, "cores", "performance.log", 2 * count)

    def upload(self, client: PlainClient, path: Path, type: str, **parameters: Any) -> str:
        answer = client.upload(path, type, parameters)
        self.assertEqual(answer["status"], "accepted", answer)
        return str(answer["task_id"])

    def assert_completed(self, client: PlainClient, task_id: str) -> None:
        status = client.wait(task_id)
        self.assertEqual(status["status"], "completed", status)


class ServerTests(ServerCase):
    def test_a_task_is_done_by_a_worker(self) -> None:
        """Nothing of it stays in the object store; after a stop the lease is gone, too."""
        server = self.server()
        client = self.start(server)
        self.wait_for_cluster(server)
        task_id = self.upload(client, LONG, "resolution", width=320, height=240)
        self.assert_completed(client, task_id)
        self.assertIn(": encoding took", server.log("performance.log"))
        self.assertEqual(client.download(task_id)[0]["status"], "completed")
        wait_until(lambda: not self.cluster.objects())
        server.stop()
        self.assertEqual(ObjectStore(self.cluster.store).keys("vidproc"), [])

    def test_a_killed_server_does_its_tasks_after_a_restart(self) -> None:
        """Its commands on the workers end, and its objects are removed."""
        server = self.server()
        client = self.start(server)
        self.wait_for_cluster(server)
        task_id = self.upload(client, LONG, "webm", start_time=0, duration=6, codec="av1")
        wait_until(self.cluster.media_processes)
        server.kill(signal.SIGKILL)
        wait_until(lambda: not self.cluster.media_processes())
        self.assertTrue(self.cluster.objects())
        client = self.start(server)
        self.assert_completed(client, task_id)
        wait_until(lambda: not self.cluster.objects())

    def test_a_cancel_ends_the_workers_process(self) -> None:
        """Within about a second; the objects are removed, too."""
        server = self.server()
        client = self.start(server)
        self.wait_for_cluster(server)
        task_id = self.upload(client, LONG, "webm", start_time=0, duration=6, codec="av1")
        wait_until(self.cluster.media_processes)
        asked_at = time.monotonic()
        self.assertEqual(
            client.request({"action": "cancel", "task_id": task_id})[0]["status"], "cancelled"
        )
        self.assertEqual(self.cluster.media_processes(), [])
        self.assertLess(time.monotonic() - asked_at, 5 + BUSY)
        wait_until(lambda: not self.cluster.objects())

    def test_two_servers_with_one_id_do_not_harm_each_other(self) -> None:
        """The second runs its tasks on its own machine, and removes no object of the first."""
        first = self.server("first")
        client = self.start(first)
        self.wait_for_cluster(first)
        second = self.server("second")
        self.start(second)
        second.stop()
        shutil.copy(first.data_dir / "server.key", second.data_dir / "server.key")
        before = len(second.log("performance.log"))
        other = self.start(second)
        wait_until(lambda: "another server with this" in second.log("performance.log")[before:])
        task_id = self.upload(client, LONG, "webm", start_time=0, duration=6, codec="av1")
        wait_until(self.cluster.objects)
        other_id = self.upload(other, FLOWER, "resolution", width=320, height=240)
        self.assert_completed(other, other_id)
        self.assertNotIn(": encoding took", second.log("performance.log")[before:])
        self.assert_completed(client, task_id)
        self.assertIn(": encoding took", first.log("performance.log"))

    def test_no_process_is_left(self) -> None:
        """Stopping the server ends its commands on the workers."""
        server = self.server()
        client = self.start(server)
        self.wait_for_cluster(server)
        self.upload(client, LONG, "webm", start_time=0, duration=6, codec="av1")
        wait_until(self.cluster.media_processes)
        children = psutil.Process(server.pid).children(recursive=True)
        server.stop()
        wait_until(lambda: not self.cluster.media_processes())
        wait_until(lambda: all(map(has_ended, children)))
        self.assertEqual(self.cluster.objects(), [])
