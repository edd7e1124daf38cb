"""The object store on a real S3 server."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from moto.server import ThreadedMotoServer

from support.blocking import wait_for
from support.job import key_of_path
from tests_cluster.case import ClusterCase, turn_until
from tests_cluster.test_commands import FLOWER, encode
from vidproc.cluster.digest import LEAST_BLOCK
from vidproc.cluster.lease import Lease
from vidproc.cluster.object_store import ObjectStore, StoreAway, TransferStopped
from vidproc.ffmpeg.command import Part, Workspace

logging.getLogger("werkzeug").setLevel(logging.ERROR)
BUCKET = "vidproc-test"


class S3Case(ClusterCase):
    def setUp(self) -> None:
        super().setUp()
        self.server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        self.server.start()
        self.addCleanup(self.server.stop)
        host, port = self.server.get_host_and_port()
        self.endpoint = f"http://{host}:{port}"
        for name, value in (
            ("AWS_ENDPOINT_URL", self.endpoint),
            ("AWS_ACCESS_KEY_ID", "test"),
            ("AWS_SECRET_ACCESS_KEY", "test"),
            ("AWS_REGION", "us-east-1"),
        ):
            self.set_variable(name, value)
        import boto3

        self.client = boto3.client("s3", endpoint_url=self.endpoint, region_name="us-east-1")
        self.client.create_bucket(Bucket=BUCKET)
        self.store = self.cluster.store = f"s3://{BUCKET}/scratch"

    def set_variable(self, name: str, value: str) -> None:
        before = os.environ.get(name)
        os.environ[name] = value

        def undo() -> None:
            if before is None:
                del os.environ[name]
            else:
                os.environ[name] = before

        self.addCleanup(undo)

    def keys(self) -> list[str]:
        found = self.client.list_objects_v2(Bucket=BUCKET).get("Contents", [])
        return [each["Key"] for each in found if "/lease/" not in each["Key"]]


class StoreTests(S3Case):
    def test_files_parts_and_leases(self) -> None:
        """As on a file system: multipart, ranges, conditional creation, removal."""
        store = ObjectStore(self.store, patience=5)
        path, back = self.root / "file", self.root / "back"
        data = os.urandom(20 * LEAST_BLOCK + (12 << 20))
        path.write_bytes(data)
        digest, blocks = store.put_file(path, "a/b")
        store.fetch("a/b", back, digest)
        self.assertEqual(back.read_bytes(), data)
        Path(back).write_bytes(b"")
        os.truncate(back, digest.size)
        store.fetch_range("a/b", back, digest, blocks, 3, 5)
        found = back.read_bytes()
        self.assertEqual(
            found[3 * LEAST_BLOCK : 5 * LEAST_BLOCK], data[3 * LEAST_BLOCK : 5 * LEAST_BLOCK]
        )
        self.assertEqual(self.keys(), ["scratch/a/b"])
        self.assertTrue(store.create("c", b"1"))
        self.assertFalse(store.create("c", b"2"))
        first, second = Lease(store, "x"), Lease(store, "x")
        self.assertTrue(first.renew())
        self.assertFalse(second.renew())
        self.assertEqual(store.remove_below("a"), 1)
        self.assertEqual(store.remove_below("a"), 0)

    def test_a_stopped_upload_leaves_no_parts(self) -> None:
        """Its multipart upload is aborted, not left behind."""
        store = ObjectStore(self.store, patience=5)
        path = self.root / "file"
        path.write_bytes(bytes(40 << 20))
        asked: list[int] = []

        def stopped() -> bool:
            asked.append(1)
            return len(asked) > 30

        self.assertRaises(TransferStopped, store.put_file, path, "a/b", stopped)
        self.assertEqual(self.keys(), [])
        uploads = self.client.list_multipart_uploads(Bucket=BUCKET)
        self.assertEqual(uploads.get("Uploads", []), [])

    def test_a_server_that_is_gone_is_away(self) -> None:
        """After our own patience, which is shorter than obstore's."""
        store = ObjectStore(self.store, patience=1)
        self.server.stop()
        self.assertRaises(StoreAway, store.get, "a")


class CommandTests(S3Case):
    def test_commands_run_over_s3(self) -> None:
        """They fetch only the part of the input that they read, and leave nothing behind."""
        self.cluster.start_scheduler()
        self.start_workers(2)
        runner = self.runner()
        self.wait_for_workers(runner, 2)
        workspace = Workspace(key_of_path(FLOWER), key_of_path(self.folder))
        part = Part(0.0, None, ((0, FLOWER.stat().st_size),))
        commands = [encode("0.mp4", cpus=1.0), encode("1.mp4", cpus=1.0, part=part)]
        running = [runner.start(each, workspace, 1, lambda _: None) for each in commands]
        for each in running:
            wait_for(each.result)
        self.assertEqual((self.folder / "0.mp4").read_bytes(), (self.folder / "1.mp4").read_bytes())
        self.assertEqual(sum(worker.done for worker in runner.workers), 2)
        self.assertTrue(self.keys())
        runner.release(workspace)
        turn_until(lambda: not self.keys())
