"""Batches: the order, waiting for slots, the table, and resuming after any kind of end."""

from __future__ import annotations

import io
import itertools
import signal
import time
import uuid
from pathlib import Path
from typing import cast

from twisted.internet import reactor
from twisted.trial.unittest import TestCase

from support.batch_job import BatchJob
from tests.client_harness import Peer, ScriptedServer, ServerCase, refusal, status
from vidproc.client.batch import Batch
from vidproc.client.batch_display import BarBatchDisplay, PlainBatchDisplay
from vidproc.client.batch_report import Outcome, report_lines
from vidproc.client.command_line import parse_command_line
from vidproc.client.link import RetryPolicy
from vidproc.reactor import IFullReactor


def each_its_own_task(server: ScriptedServer) -> list[str]:
    """Give each upload_id one task. Return the list of the names of accepted films."""
    tasks: dict[str, str] = {}
    accepted: list[str] = []

    def upload(peer: Peer) -> None:
        upload_id = peer.fields["upload_id"]
        if upload_id not in tasks:
            tasks[upload_id] = uuid.uuid4().hex
            accepted.append(peer.fields["filename"])
        peer.answer({"status": "accepted", "task_id": tasks[upload_id]})

    def upload_status(peer: Peer) -> None:
        task_id = tasks.get(peer.fields["upload_id"])
        peer.answer({"status": "accepted", "task_id": task_id} if task_id else refusal(404))

    server.do_upload = upload  # type: ignore[method-assign]
    server.do_upload_status = upload_status  # type: ignore[method-assign]
    server.plan = [status("completed")]
    return accepted


class BatchCase(ServerCase):
    def setUp(self) -> None:
        super().setUp()
        self.accepted = each_its_own_task(self.server)
        self.films = self.folder / "films"
        self.films.mkdir()
        for number in range(3):
            (self.films / f"f{number}.mp4").write_bytes(b"film %d" % number)
        self.results = self.folder / "results"

    def batch(self, *more: str) -> Batch:
        options = parse_command_line(
            [
                *[str(self.films), "--output", str(self.results), "--host", "127.0.0.1"],
                *["--port", str(self.port), "--type", "gif", "--start-time", "0"],
                *["--duration", "1", *more],
            ]
        )
        self.out, self.err = io.StringIO(), io.StringIO()
        return Batch(
            options,
            cast(IFullReactor, reactor),
            connect=lambda reached: self.client(reached=reached),
            display=PlainBatchDisplay(len(options.films), self.err, 60, time.monotonic),
            out=self.out,
            err=self.err,
            log=self.log,
            retry=RetryPolicy(base=0.001, cap=0.002),
        )

    async def run_batch(self, *more: str) -> int:
        return await self.batch(*more).start()

    def there(self) -> list[str]:
        return sorted(path.name for path in self.results.iterdir())

    def kept(self) -> list[Path]:
        return [path for path in self.state.rglob("*") if path.is_file()]


class BatchTests(BatchCase):
    async def test_each_video_gets_its_result_and_a_line(self) -> None:
        """Paths are on standard output in order, the table on standard error; nothing is left
        over."""
        self.assertEqual(await self.run_batch(), 0)
        names = [f"f{number}_processed.gif" for number in range(3)]
        self.assertEqual(self.there(), names)
        self.assertEqual(self.out.getvalue().split(), [str(self.results / name) for name in names])
        self.assertIn("3 videos, 3 done", self.err.getvalue())
        self.assertEqual(self.kept(), [])

    async def test_429_and_503_are_waited_for(self) -> None:
        """However often: waiting for a slot is not an error and does not count as a try."""
        refusals = itertools.count()
        upload = self.server.do_upload

        def refuse(peer: Peer) -> None:
            number = next(refusals)
            if number < 20:
                peer.answer(refusal(429 if number % 2 else 503))
            else:
                upload(peer)

        self.server.do_upload = refuse  # type: ignore[method-assign]
        self.assertEqual(await self.run_batch(), 0)
        self.assertEqual(len(self.there()), 3)

    async def test_the_exit_status_is_the_worst(self) -> None:
        """The other videos are done nevertheless; the next run does only the failed one."""
        upload = self.server.do_upload

        def refuse(peer: Peer) -> None:
            if peer.fields["filename"] == "f1.mp4":
                peer.answer(refusal(415))
            else:
                upload(peer)

        self.server.do_upload = refuse  # type: ignore[method-assign]
        self.assertEqual(await self.run_batch(), 5)
        self.assertEqual(self.there(), ["f0_processed.gif", "f2_processed.gif"])
        self.assertIn("f1.mp4  refused", self.err.getvalue())
        self.assertIn("Description of 415. Solution of 415.", self.err.getvalue())
        self.server.do_upload = upload  # type: ignore[method-assign]
        self.assertEqual(await self.run_batch(), 0)
        self.assertEqual(self.accepted, ["f0.mp4", "f2.mp4", "f1.mp4"])
        self.assertIn("2 done earlier", self.err.getvalue())
        self.assertEqual(self.kept(), [])

    async def test_a_failed_task_is_a_failed_video(self) -> None:
        self.server.plan = [status("failed", error="No video inside.", solution="Send a video.")]
        self.assertEqual(await self.run_batch(), 1)
        self.assertIn("f0.mp4: failed, No video inside. Send a video.", self.err.getvalue())
        self.assertEqual(self.there(), [])

    async def test_a_finished_batch_begins_anew(self) -> None:
        """As with one video, the result gets the next free name, or with `--force` the same one."""
        for more, count in (((), 3), ((), 6), (("--force",), 6), (("--skip-existing",), 6)):
            self.assertEqual(await self.run_batch(*more), 0)
            self.assertEqual(len(self.there()), count)
        self.assertEqual(len(self.accepted), 9)
        self.assertIn("3 skipped", self.err.getvalue())

    async def test_ctrl_c_ends_it_in_order_and_the_next_run_goes_on(self) -> None:
        """Accepted videos are downloaded, not sent again."""
        self.server.silent_watch = True
        batch = self.batch()
        running = batch.start()
        while not self.accepted:
            await self.settle()
        while "watch" not in self.server.actions():
            await self.settle()
        sent = len(self.server.requests)
        batch.interrupt(signal.SIGINT)
        self.assertEqual(await running, 130)
        self.assertEqual(len(self.server.requests), sent)
        self.assertIn("Interrupted.\nRun the same command again", self.err.getvalue())
        self.server.silent_watch = False
        self.assertEqual(await self.run_batch(), 0)
        self.assertEqual(sorted(self.accepted), ["f0.mp4", "f1.mp4", "f2.mp4"])
        self.assertEqual(len(self.there()), 3)

    async def test_a_result_that_was_named_just_before_the_end_is_not_fetched_twice(self) -> None:
        """The client is killed right after the rename; the name was stored before."""
        self.server.refuse["download"] = refusal(500)
        self.assertEqual(await self.run_batch(), 5)
        del self.server.refuse["download"]
        batch = self.batch()
        batch._forget_all = lambda: None  # type: ignore[method-assign]
        self.assertEqual(await batch.start(), 0)
        self.assertEqual(await self.run_batch(), 0)
        self.assertEqual(len(self.there()), 3)
        self.assertEqual(len(self.accepted), 3)

    async def test_a_result_that_the_server_lost_is_made_again(self) -> None:
        """If the task of an earlier run was pruned, the video is sent again."""
        self.server.refuse["watch"] = refusal(500)
        self.assertEqual(await self.run_batch(), 5)
        del self.server.refuse["watch"]
        downloads = self.server.do_download
        gone = iter([True])

        def download(peer: Peer) -> None:
            if next(gone, False):
                peer.answer(refusal(410))
            else:
                downloads(peer)

        self.server.do_download = download  # type: ignore[method-assign]
        self.assertEqual(await self.run_batch(), 0)
        self.assertEqual(len(self.there()), 3)
        self.assertEqual(len(self.accepted), 4)

    async def test_no_server_ends_it_with_3(self) -> None:
        """At once, not once per video."""
        self.server.cut_always = True
        self.assertEqual(await self.run_batch(), 3)
        self.assertEqual(self.err.getvalue().count("was lost for good"), 1)
        self.assertIn("3 not started", self.err.getvalue())

    async def test_a_server_that_goes_away_ends_it(self) -> None:
        """A video that was waiting for a slot does not go through all tries again."""

        def upload(peer: Peer) -> None:
            self.server.cut_always = True
            peer.cut()

        self.server.do_upload = upload  # type: ignore[method-assign]
        self.assertEqual(await self.run_batch(), 3)
        self.assertEqual(self.err.getvalue().count("Cannot connect"), 0)
        self.assertIn("1 failed, 2 not started", self.err.getvalue())
        self.assertNotIn("--tls", self.err.getvalue())
        asked = {fields.get("upload_id") for fields in self.server.requests} - {None}
        self.assertEqual(len(asked), 1)

    async def test_a_wrong_token_ends_it(self) -> None:
        """All other videos would be refused as well."""
        self.server.refuse_head = refusal(401)
        self.assertEqual(await self.run_batch(), 5)
        self.assertIn("not started", self.err.getvalue())

    async def test_detach_leaves_the_results_at_the_server(self) -> None:
        options = parse_command_line([str(self.films), "--type", "compress", "--detach"])
        self.assertTrue(options.detach)
        batch = self.batch()
        batch.options = options
        self.assertEqual(await batch.start(), 0)
        self.assertEqual(len(self.out.getvalue().split()), 3)
        self.assertNotIn("download", self.server.actions())


class DisplayTests(ServerCase):
    def test_bars_count_and_estimate(self) -> None:
        now = [0.0]
        stream = io.StringIO()
        display = BarBatchDisplay(4, stream, lambda: now[0])
        first = display.begin(0, "a\x1b.mp4")
        first.upload(1, 2)
        now[0] = 10.0
        first.status(status("processing", stage="encoding", progress=0.5))
        display.ended(0, Outcome("a.mp4", "done", 0))
        self.assertIn("1 of 4 videos, about 30 s left", display.summary)
        second = display.begin(1, "b.mp4")
        second.download(1, 1)
        display.ended(1, Outcome("b.mp4", "failed", 1, note="why"))
        display.close()
        self.assertIn("2 of 4 videos, 1 not done", display.summary)
        self.assertIn("[2/4] b.mp4: failed, why", stream.getvalue())
        self.assertNotIn("\x1b.mp4", stream.getvalue())

    def test_the_table_has_the_totals(self) -> None:
        outcomes = [Outcome("a.mp4", "done", 0), Outcome("b.mp4", "failed", 1, note="It is. Not.")]
        outcomes[0].size_in, outcomes[0].size_out = 2048, 1024
        lines = report_lines(outcomes, 12.0)
        self.assertIn("2.0 KiB -> 1.0 KiB (50 %)", lines[0])
        self.assertTrue(lines[1].endswith("It is"))
        self.assertEqual(lines[-1], "2 videos, 1 done, 1 failed: 2.0 KiB -> 1.0 KiB (50 %), 12.0 s")


class RealBatchTests(TestCase):
    def test_kill_9_of_client_and_server_loses_nothing_and_doubles_nothing(self) -> None:
        job = BatchJob(Path(self.mktemp()), 8)
        self.addCleanup(job.server.stop)
        client = job.start_client()
        self.addCleanup(client.kill)
        job.kill_both_at(client, 2)
        second = job.start_client()
        self.addCleanup(second.kill)
        self.assertEqual(second.wait(120), 0, job.output.read_text())
        self.assertEqual(job.problems(), [])
        self.assertEqual(job.remembered(), [])

    def test_the_server_may_be_killed_below_the_client(self) -> None:
        """It waits for the next server and continues."""
        job = BatchJob(Path(self.mktemp()), 4, "--tasks-per-ip=2")
        self.addCleanup(job.server.stop)
        client = job.start_client()
        self.addCleanup(client.kill)
        job.restart_server_at(1)
        self.assertEqual(client.wait(120), 0, job.output.read_text())
        self.assertEqual(job.problems(), [])
