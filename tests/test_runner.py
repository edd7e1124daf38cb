"""Running commands: real processes, real FFmpeg."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import psutil
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SkipTest, TestCase

from vidproc.ffmpeg.binary import FFmpeg, FFmpegUnusable, find_ffmpeg
from vidproc.ffmpeg.command import (
    THREADS,
    Command,
    CommandFailed,
    CommandStopped,
    Progress,
    Workspace,
    output_file,
)
from vidproc.ffmpeg.progress import ProgressParser
from vidproc.ffmpeg.sandbox import Sandbox
from vidproc.runners.local import LocalRunner

TEST_PICTURE = ("-f", "lavfi", "-i", "testsrc=size=128x96:rate=25:duration={}")


def make_command(seconds: float, *arguments: str) -> Command:
    """A command that writes `seconds` of a test picture to out.mkv."""
    source = [argument.format(seconds) for argument in TEST_PICTURE]
    return Command(
        program="ffmpeg",
        arguments=(*source, *arguments, "-threads", THREADS, output_file("out.mkv")),
        stage="encoding",
        duration=seconds,
    )


class ProgressParserTests(TestCase):
    BLOCK = b"frame=50\nfps=0\nout_time_us=2000000\nspeed=  4.5x\nprogress=continue\n"

    def test_a_block_is_one_progress(self) -> None:
        """Times come in microseconds and leave in seconds."""
        self.assertEqual(ProgressParser().feed(self.BLOCK), [Progress(2.0, 50, 4.5)])

    def test_bytes_may_be_split_anywhere(self) -> None:
        """One byte at a time gives the same."""
        parser = ProgressParser()
        found = [p for i in range(len(self.BLOCK)) for p in parser.feed(self.BLOCK[i : i + 1])]
        self.assertEqual(found, [Progress(2.0, 50, 4.5)])

    def test_what_is_not_known_yet_is_none(self) -> None:
        """FFmpeg says N/A before the first frame."""
        block = b"out_time_us=N/A\nspeed=N/A\nprogress=continue\n"
        self.assertEqual(ProgressParser().feed(block), [Progress(None, None, None)])


class FindFFmpegTests(TestCase):
    def test_the_bundled_ffmpeg_can_all_that_we_use(self) -> None:
        """pip install is a complete install."""
        self.assertEqual(find_ffmpeg().missing(), [])

    def test_a_file_that_is_no_ffmpeg_is_refused(self) -> None:
        """With a sentence that names the option."""
        error = self.assertRaises(FFmpegUnusable, find_ffmpeg, "/bin/true")
        self.assertIn("--ffmpeg", str(error))
        self.assertRaises(FFmpegUnusable, find_ffmpeg, "/nonexistent/ffmpeg")


class LocalRunnerTests(TestCase):
    def setUp(self) -> None:
        self.root = Path(self.mktemp()).absolute()
        (self.root / "work").mkdir(parents=True)
        self.ffmpeg = find_ffmpeg()
        self.progress: list[Progress] = []

    def runner(self, ffmpeg: FFmpeg | None = None, **limits: int) -> LocalRunner:
        sandbox = Sandbox(**{"address_space": 4 << 30, "file_size": 1 << 30, **limits})
        return LocalRunner(
            reactor, ffmpeg or self.ffmpeg, sandbox, lambda key: self.root / key, 300.0
        )

    def start(self, runner: LocalRunner, command: Command):
        workspace = Workspace("inputs/none", "work")
        return runner.start(command, workspace, 2, self.progress.append)

    async def test_a_command_runs_and_reports_progress(self) -> None:
        """The file is there, the progress ends at its duration, and nothing is left running."""
        runner = self.runner()
        done = await self.start(runner, make_command(2)).result
        self.assertGreater((self.root / "work" / "out.mkv").stat().st_size, 1000)
        self.assertLess(abs((self.progress[-1].out_time or 0) - 2.0), 0.2)
        self.assertGreater(done.elapsed, 0)
        self.assertEqual(runner.running, set())

    async def test_a_failing_command_tells_what_ffmpeg_said(self) -> None:
        """The exit status as the reason, the end of standard error for the log."""
        failed = self.start(self.runner(), make_command(1, "-vf", "nonsense")).result
        error = await self.assertFailure(failed, CommandFailed)
        self.assertIn("exit status", error.reason)
        self.assertIn("nonsense", error.stderr_tail)

    async def test_a_missing_program_fails_the_result(self) -> None:
        """Whatever stage the start fails at, the result fires and nothing stays in the set."""
        runner = self.runner(FFmpeg("/nonexistent/ffmpeg", "0", frozenset(), frozenset()))
        await self.assertFailure(self.start(runner, make_command(1)).result, CommandFailed)
        self.assertEqual(runner.running, set())

    async def test_stop_ends_the_process_before_the_result_fires(self) -> None:
        """An endless encode is gone when CommandStopped arrives."""
        runner = self.runner()
        running = self.start(runner, make_command(100000))
        reactor.callLater(0.2, running.stop)
        await self.assertFailure(running.result, CommandStopped)
        self.assertFalse(psutil.pid_exists(running.pid or 0))

    async def test_the_environment_is_empty_and_the_group_its_own(self) -> None:
        """No secret of the server's environment, no Ctrl-C of its terminal reaches FFmpeg."""
        if not Path("/proc/self/environ").exists():
            raise SkipTest("needs /proc")
        runner = self.runner()
        running = self.start(runner, make_command(100000))
        while not self.progress:  # FFmpeg itself runs once it reports
            pause: Deferred[None] = Deferred()
            reactor.callLater(0.02, pause.callback, None)
            await pause
        pid = running.pid or 0
        self.assertEqual(Path(f"/proc/{pid}/environ").read_bytes(), b"")
        self.assertEqual(os.getpgid(pid), pid)
        running.stop()
        await self.assertFailure(running.result, CommandStopped)

    async def test_a_file_beyond_the_limit_ends_the_command(self) -> None:
        """RLIMIT_FSIZE holds."""
        runner = self.runner(file_size=20_000)
        command = make_command(20, "-c:v", "rawvideo")
        await self.assertFailure(self.start(runner, command).result, CommandFailed)
        self.assertLessEqual((self.root / "work" / "out.mkv").stat().st_size, 20_000)

    async def test_a_process_that_neither_progresses_nor_computes_is_stopped(self) -> None:
        """The watchdog's reason is in the error, and no cancel is claimed."""
        from twisted.internet.task import Clock

        class ClockAndProcesses(Clock):
            spawnProcess = staticmethod(reactor.spawnProcess)

        clock = ClockAndProcesses()
        sandbox = Sandbox(address_space=4 << 30, file_size=1 << 30)
        runner = LocalRunner(clock, self.ffmpeg, sandbox, lambda key: self.root / key, 300.0)
        os.mkfifo(self.root / "work" / "silent")
        command = Command(
            program="ffmpeg",
            arguments=("-i", "vidproc-input:silent", output_file("out.mkv")),
            stage="encoding",
        )
        running = self.start(runner, command)
        os.kill(running.pid or 0, signal.SIGSTOP)
        clock.pump([10.0] * 31)
        os.kill(running.pid or 0, signal.SIGCONT)
        clock.advance(2.0)
        error = await self.assertFailure(running.result, CommandFailed)
        self.assertIn("no progress", error.reason)

    def test_the_child_dies_with_its_server(self) -> None:
        """kill -9 of the process that started FFmpeg leaves no FFmpeg behind."""
        if sys.platform != "linux":
            raise SkipTest("the death signal is Linux's")
        program = textwrap.dedent(
            f"""
            from twisted.internet import reactor
            from pathlib import Path
            from vidproc.ffmpeg.binary import find_ffmpeg
            from vidproc.runners.local import LocalRunner
            from vidproc.ffmpeg.sandbox import Sandbox
            from vidproc.ffmpeg.command import Workspace
            from tests.test_runner import make_command
            root = Path({str(self.root)!r})
            sandbox = Sandbox(address_space=4 << 30, file_size=1 << 40)
            runner = LocalRunner(reactor, find_ffmpeg(), sandbox, lambda key: root / key)
            def report(progress):
                print(running.pid, flush=True)
            running = runner.start(make_command(100000), Workspace("i", "work"), 1, report)
            running.result.addErrback(lambda _: None)
            reactor.run()
            """
        )
        server = subprocess.Popen(
            [sys.executable, "-c", program],
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parent.parent,
        )
        assert server.stdout is not None
        child = psutil.Process(int(server.stdout.readline()))
        server.kill()
        server.wait()
        server.stdout.close()
        psutil.wait_procs([child], timeout=10)
        self.assertFalse(child.is_running() and child.status() != psutil.STATUS_ZOMBIE)
