"""Running commands: real processes, real FFmpeg."""

from __future__ import annotations

import os
import re
import resource
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar
from unittest import mock

import psutil
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.logger import ILogObserver, LogEvent, Logger, LogLevel
from twisted.trial.unittest import SkipTest, SynchronousTestCase, TestCase
from zope.interface import implementer

from support.server_process import has_ended, wait_for
from vidproc.ffmpeg.binary import FFmpeg, FFmpegUnusable, find_ffmpeg
from vidproc.ffmpeg.command import (
    THREADS,
    Command,
    CommandFailed,
    CommandStopped,
    FailureKind,
    Progress,
    Workspace,
    input_file,
    output_file,
)
from vidproc.ffmpeg.progress import ProgressParser
from vidproc.ffmpeg.sandbox import Sandbox
from vidproc.runners.admission import Admission, Place, memory_budget
from vidproc.runners.failures import kind_of_end, oom_kills
from vidproc.runners.ffmpeg_process import MediaProcess
from vidproc.runners.local import LocalRunner
from vidproc.runners.watchdog import Watchdog

Ending = TypeVar("Ending", CommandFailed, CommandStopped)

TEST_PATTERN = ("-f", "lavfi", "-i", "testsrc=size=128x96:rate=25:duration={}")


def make_command(seconds: float, *arguments: str) -> Command:
    """Return a command that writes `seconds` of a test pattern to out.mkv."""
    source = [argument.format(seconds) for argument in TEST_PATTERN]
    return Command(
        program="ffmpeg",
        arguments=(*source, *arguments, "-threads", THREADS, output_file("out.mkv")),
        stage="encoding",
        duration=seconds,
    )


def open_files() -> list[str]:
    """Return the open files, without their numbers."""
    found = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{fd}"))
        except FileNotFoundError:
            pass  # that of the listing itself
    return sorted(found)


class ProgressParserTests(TestCase):
    BLOCK = b"frame=50\nfps=0\nout_time_us=2000000\nspeed=  4.5x\nprogress=continue\n"

    def test_a_block_is_one_progress(self) -> None:
        """Times are converted from microseconds to seconds."""
        self.assertEqual(ProgressParser().feed(self.BLOCK), [Progress(2.0, 50, 4.5)])

    def test_bytes_may_be_split_anywhere(self) -> None:
        """Even single bytes give the same result."""
        parser = ProgressParser()
        found = [p for i in range(len(self.BLOCK)) for p in parser.feed(self.BLOCK[i : i + 1])]
        self.assertEqual(found, [Progress(2.0, 50, 4.5)])

    def test_what_is_not_known_yet_is_none(self) -> None:
        """FFmpeg reports N/A before the first frame."""
        block = b"out_time_us=N/A\nspeed=N/A\nprogress=continue\n"
        self.assertEqual(ProgressParser().feed(block), [Progress(None, None, None)])


class FindFFmpegTests(TestCase):
    def test_the_bundled_ffmpeg_can_all_that_we_use(self) -> None:
        """pip install is a complete installation."""
        self.assertEqual(find_ffmpeg().missing(), [])

    def test_a_file_that_is_no_ffmpeg_is_refused(self) -> None:
        """The sentence names the option."""
        error = self.assertRaises(FFmpegUnusable, find_ffmpeg, "/bin/true")
        self.assertIn("--ffmpeg", str(error))
        self.assertRaises(FFmpegUnusable, find_ffmpeg, "/nonexistent/ffmpeg")


class WatchdogTests(SynchronousTestCase):
    """What counts as a sign of life."""

    def setUp(self) -> None:
        self.watchdog = Watchdog(10.0, now=100.0)

    def test_frames_and_time_that_advance_are_life(self) -> None:
        self.watchdog.reported(Progress(None, 1, None), 105.0)
        self.assertFalse(self.watchdog.stalled(114.9))
        self.watchdog.reported(Progress(0.04, 1, None), 114.9)
        self.assertFalse(self.watchdog.stalled(124.8))
        self.assertTrue(self.watchdog.stalled(125.0))

    def test_a_report_of_the_same_is_none(self) -> None:
        """Neither is one that goes back or has no values."""
        self.watchdog.reported(Progress(2.0, 50, 1.0), 100.0)
        for second in range(1, 10):
            self.watchdog.reported(Progress(2.0, 50, 1.0 / second), 100.0 + second)
            self.watchdog.reported(Progress(None, None, None), 100.0 + second)
            self.watchdog.reported(Progress(1.0, 20, 1.0), 100.0 + second)
        self.assertTrue(self.watchdog.stalled(110.0))

    def test_cpu_time_is_life_but_not_what_reporting_takes(self) -> None:
        for second in range(1, 31):
            self.watchdog.sampled(0.5 * second, 100.0 + second)
        self.assertFalse(self.watchdog.stalled(139.9))
        for second in range(1, 11):
            self.watchdog.sampled(15.0 + 0.004 * second, 130.0 + second)
        self.assertTrue(self.watchdog.stalled(140.0))

    def test_little_cpu_time_counts_once_it_is_enough(self) -> None:
        """On a slow machine a process runs only now and then."""
        for second in range(1, 31):
            self.watchdog.sampled(0.02 * second, 100.0 + second)
        self.assertFalse(self.watchdog.stalled(131.0))


class AdmissionTests(SynchronousTestCase):
    """Which commands may start, and when."""

    def setUp(self) -> None:
        self.admission = Admission(100)
        self.begun: list[int] = []

    def enter(self, memory: int) -> Place:
        place = Place(memory, lambda: self.begun.append(memory))
        self.admission.enter(place)
        return place

    def test_what_fits_together_runs_together(self) -> None:
        self.enter(40)
        self.enter(60)
        self.enter(1)
        self.assertEqual((self.begun, self.admission.waiting), ([40, 60], 1))

    def test_nobody_overtakes(self) -> None:
        """Otherwise a large one could wait forever behind many small ones."""
        first = self.enter(50)
        self.enter(80)
        self.enter(10)
        self.assertEqual(self.begun, [50])
        self.admission.leave(first)
        self.assertEqual(self.begun, [50, 80, 10])

    def test_what_needs_more_than_there_is_runs_alone(self) -> None:
        giant = self.enter(500)
        self.enter(1)
        self.assertEqual(self.begun, [500])
        self.admission.leave(giant)
        self.assertEqual(self.begun, [500, 1])
        self.enter(500)
        self.assertEqual(self.admission.waiting, 1)

    def test_who_leaves_while_waiting_makes_way(self) -> None:
        self.enter(60)
        waiting = self.enter(60)
        self.enter(40)
        self.admission.leave(waiting)
        self.assertEqual((self.begun, self.admission.memory), ([60, 40], 100))

    def test_the_limit_of_a_container_counts(self) -> None:
        limit = Path(self.mktemp())
        limit.write_text("max\n")
        whole = memory_budget((limit, Path("/nonexistent")))
        self.assertEqual(whole, int(psutil.virtual_memory().total * 0.75))
        limit.write_text("1048576\n")
        self.assertEqual(memory_budget((limit,)), 786432)


REFUSED = FailureKind.REFUSED


class FailureTests(SynchronousTestCase):
    """The reason why a program failed, from its status and messages."""

    def test_the_signal_says_it(self) -> None:
        for number, kind in (
            (signal.SIGKILL, FailureKind.KILLED),
            (signal.SIGSEGV, FailureKind.CRASHED),
            (signal.SIGXFSZ, FailureKind.OUTGROWN),
            (signal.SIGXCPU, FailureKind.TIMED_OUT),
        ):
            self.assertIs(kind_of_end(None, number, ""), kind)
        said = "terminate called after throwing an instance of 'std::bad_alloc'"
        self.assertIs(kind_of_end(None, signal.SIGABRT, said), FailureKind.MEMORY)

    def test_any_other_signal_comes_from_outside(self) -> None:
        """Even signals without a name."""
        faults = {"SEGV", "BUS", "ILL", "FPE", "ABRT", "TRAP", "SYS", "PIPE", "XCPU", "XFSZ"}
        own = {signal.Signals[f"SIG{name}"] for name in faults}
        for number in set(range(1, signal.SIGRTMAX + 1)) - own:
            self.assertIs(kind_of_end(None, number, ""), FailureKind.KILLED)

    def test_only_a_kill_can_be_the_kernels(self) -> None:
        for number, kind in (
            (signal.SIGKILL, FailureKind.OOM_KILLED),
            (signal.SIGTERM, FailureKind.KILLED),
            (signal.SIGSEGV, FailureKind.CRASHED),
        ):
            self.assertIs(kind_of_end(None, number, "", oom_killed=True), kind)

    def test_the_kernel_tells_how_many_it_killed(self) -> None:
        vmstat = Path(self.mktemp())
        self.assertEqual(oom_kills(vmstat), 0)
        vmstat.write_text("nr_free_pages 1\noom_kill_other 9\noom_kill 7\nzswpin 0\n")
        self.assertEqual(oom_kills(vmstat), 7)
        vmstat.write_text("oom_kill many\n")
        self.assertEqual(oom_kills(vmstat), 0)

    def test_ffmpeg_says_that_it_was_told_to_end(self) -> None:
        """Text from the file does not count."""
        said = "[info] frame=1\n[info] Exiting normally, received signal 15.\n"
        self.assertIs(kind_of_end(255, None, said), FailureKind.KILLED)
        title = "[info]   title : x\n[info]  : Exiting normally, received signal 15.\n"
        for words in (title, f"{said}[error] Invalid data\n"):
            self.assertIs(kind_of_end(255, None, words), FailureKind.INPUT)
        self.assertIs(kind_of_end(1, None, said), FailureKind.INPUT)

    def test_what_it_said_says_it(self) -> None:
        for said, kind in (
            ("[error] Invalid data found when processing input", FailureKind.INPUT),
            ("[fatal] av_interleaved_write_frame(): No space left on device", FailureKind.SPACE),
            ("[error] Error while filtering: Cannot allocate memory", FailureKind.MEMORY),
            ("[libx264 @ 0x1] requested bitrate is too low. estimated 9", FailureKind.RATE),
        ):
            self.assertIs(kind_of_end(1, None, said), kind)

    def test_what_never_ran_is_refused_or_ours(self) -> None:
        """A shortage is temporary; anything else is a fault."""

        def kind(said: str) -> FailureKind:
            return kind_of_end(126, None, said, ran=False)

        self.assertIs(kind("launcher: [Errno 11] Resource temporarily unavailable"), REFUSED)
        self.assertIs(kind("launcher: [Errno 1] no"), FailureKind.OURS)
        self.assertIs(kind(""), FailureKind.OURS)
        child = "Upon execvpe /python ['/python'] in environment id 7\n:OSError: [Errno 24] no"
        self.assertIs(kind(child), REFUSED)

    def test_what_ran_can_not_say_that_it_did_not(self) -> None:
        """A shortage is retried without limit, and a file's title may contain anything."""
        for status in (1, 126):
            said = "launcher: [Errno 11] Resource temporarily unavailable"
            self.assertIs(kind_of_end(status, None, said), FailureKind.INPUT)


class LocalRunnerTests(TestCase):
    def setUp(self) -> None:
        self.root = Path(self.mktemp()).absolute()
        (self.root / "work").mkdir(parents=True)
        self.ffmpeg = find_ffmpeg()
        self.progress: list[Progress] = []

    def runner(
        self,
        ffmpeg: FFmpeg | None = None,
        stall_timeout: float = 300.0,
        budget: int = 1 << 40,
        **limits: Any,
    ) -> LocalRunner:
        sandbox = replace(Sandbox(address_space=4 << 30, file_size=1 << 30), **limits)
        return LocalRunner(
            reactor,
            ffmpeg or self.ffmpeg,
            sandbox,
            lambda key: self.root / key,
            stall_timeout,
            budget=budget,
        )

    def start(self, runner: LocalRunner, command: Command) -> MediaProcess:
        workspace = Workspace("inputs/none", "work")
        return runner.start(command, workspace, 2, self.progress.append)

    async def ends(self, running: MediaProcess, how: type[Ending]) -> Ending:
        """Wait until a command fails with `how`, and return the exception."""
        error: Any = await self.assertFailure(running.result, how)
        assert isinstance(error, how)
        return error

    async def test_a_command_runs_and_reports_progress(self) -> None:
        """The file exists, the progress ends at its duration, and no process is left."""
        runner = self.runner()
        done = await self.start(runner, make_command(2)).result
        self.assertGreater((self.root / "work" / "out.mkv").stat().st_size, 1000)
        self.assertLess(abs((self.progress[-1].out_time or 0) - 2.0), 0.2)
        self.assertGreater(done.elapsed, 0)
        self.assertEqual(runner.running, set())

    async def test_it_starts_in_its_folder_without_a_copy_of_this_process(self) -> None:
        """A fork would hold up the reactor for longer, the more memory this process has."""
        source = [argument.format(1) for argument in TEST_PATTERN]
        command = Command(
            program="ffmpeg", arguments=(*source, "relative.mkv"), stage="encoding", duration=1.0
        )
        with mock.patch("os.fork", side_effect=AssertionError):
            running = self.start(self.runner(), command)
        await running.result
        self.assertGreater((self.root / "work" / "relative.mkv").stat().st_size, 1000)

    async def test_the_memory_of_what_starts_it_does_not_count(self) -> None:
        """Before the launcher starts FFmpeg, it is the launcher's."""
        running = self.start(self.runner(), make_command(100000))
        running.measure()
        self.assertEqual(running.peak_memory, 0)
        while running.peak_memory < 1 << 20:  # FFmpeg takes its memory bit by bit
            await deferLater(reactor, 0.01)
            running.measure()
        running.stop()
        await self.assertFailure(running.result, CommandStopped)

    async def test_a_failing_command_tells_what_ffmpeg_said(self) -> None:
        """The reason is the exit status; the end of standard error is for the log."""
        failed = self.start(self.runner(), make_command(1, "-vf", "nonsense"))
        error = await self.ends(failed, CommandFailed)
        self.assertIs(error.kind, FailureKind.INPUT)
        self.assertIn("exit status", error.reason)
        self.assertIn("nonsense", error.stderr_tail)

    async def test_a_program_can_not_pass_for_one_that_never_ran(self) -> None:
        """Neither by messages or status, nor by the descriptor, which it does not have."""
        program = self.root / "program"
        program.write_text(
            "#!/bin/sh\n"
            "(echo '!' >&4) 2>/dev/null\n"
            "echo 'launcher: [Errno 11] Resource temporarily unavailable' >&2\n"
            "exit 126\n"
        )
        program.chmod(0o700)
        runner = self.runner(FFmpeg(str(program), "0", frozenset(), frozenset()))
        error = await self.ends(self.start(runner, make_command(1)), CommandFailed)
        self.assertIs(error.kind, FailureKind.INPUT)

    async def test_a_missing_program_fails_the_result(self) -> None:
        """At whatever step the start fails, the result fires and nothing remains in the set."""
        runner = self.runner(FFmpeg("/nonexistent/ffmpeg", "0", frozenset(), frozenset()))
        error = await self.ends(self.start(runner, make_command(1)), CommandFailed)
        self.assertIs(error.kind, FailureKind.OURS)
        self.assertEqual(runner.running, set())

    async def test_a_lack_of_descriptors_refuses_the_command(self) -> None:
        """However many are left. A later try succeeds, and no descriptor leaks."""
        runner = self.runner()
        await self.start(runner, make_command(1)).result
        before = open_files()
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        for left in range(12):
            # The lowest free numbers are taken first: leave `left` of them.
            taken = [os.open(os.devnull, os.O_RDONLY) for _ in range(left)]
            top = os.open(os.devnull, os.O_RDONLY)
            for fd in (*taken, top):
                os.close(fd)
            resource.setrlimit(resource.RLIMIT_NOFILE, (top, limits[1]))
            try:
                running = self.start(runner, make_command(1))
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            error = await self.ends(running, CommandFailed)
            self.assertIs(error.kind, FailureKind.REFUSED, f"{left} left: {error}")
        await self.start(runner, make_command(1)).result
        self.assertEqual(open_files(), before)

    async def test_stop_ends_the_process_before_the_result_fires(self) -> None:
        """An endless encode has ended when CommandStopped is raised."""
        runner = self.runner()
        running = self.start(runner, make_command(100000))
        reactor.callLater(0.2, running.stop)
        await self.ends(running, CommandStopped)
        self.assertFalse(psutil.pid_exists(running.pid or 0))

    async def test_what_a_process_leaves_behind_is_killed_and_logged(self) -> None:
        """If no layer prevents it from starting processes."""
        program = self.root / "program"
        program.write_text("#!/bin/sh\nsleep 1000 &\necho $! > child\n")
        program.chmod(0o700)
        logged: list[LogEvent] = []

        @implementer(ILogObserver)
        def observe(event: LogEvent) -> None:
            logged.append(event)

        self.patch(MediaProcess, "log", Logger("runner", observer=observe))
        runner = self.runner(FFmpeg(str(program), "0", frozenset(), frozenset()))
        await self.start(runner, make_command(1)).result
        child = int((self.root / "work" / "child").read_text())
        wait_for(lambda: has_ended(child))
        self.assertEqual(
            [event["log_format"] for event in logged if event["log_level"] == LogLevel.error],
            ["process {pid} left processes behind; killed them"],
        )

    async def test_the_environment_is_empty_and_the_group_its_own(self) -> None:
        """Neither the server's environment nor Ctrl-C in its terminal reaches FFmpeg."""
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
        await self.ends(running, CommandStopped)

    async def test_a_file_beyond_the_limit_ends_the_command(self) -> None:
        """Because of RLIMIT_FSIZE."""
        runner = self.runner(file_size=20_000)
        command = make_command(20, "-c:v", "ffv1")
        error = await self.ends(self.start(runner, command), CommandFailed)
        self.assertIs(error.kind, FailureKind.OUTGROWN, f"{error} {error.stderr_tail[-800:]}")
        self.assertLessEqual((self.root / "work" / "out.mkv").stat().st_size, 20_000)

    async def test_an_ffmpeg_whose_input_falls_silent_is_stopped(self) -> None:
        """It keeps reporting, but the reports do not change."""
        runner = self.runner(stall_timeout=4.0)
        os.mkfifo(self.root / "work" / "silent")
        arguments = ("-f", "rawvideo", "-video_size", "64x64", "-pix_fmt", "gray", "-i")
        command = Command(
            program="ffmpeg",
            arguments=(*arguments, input_file("silent"), output_file("out.mkv")),
            stage="encoding",
        )
        running = self.start(runner, command)
        writer = await deferToThread(os.open, self.root / "work" / "silent", os.O_WRONLY)
        self.addCleanup(os.close, writer)
        await deferToThread(os.write, writer, bytes(64 * 64 * 25))
        error = await self.ends(running, CommandFailed)
        self.assertIs(error.kind, FailureKind.STALLED)
        self.assertGreater(len(self.progress), 1)

    async def test_a_command_waits_until_there_is_memory_for_it(self) -> None:
        """Until then it has no process, and a stop ends the wait at once."""
        runner = self.runner(budget=1 << 30)
        first, second, third = (
            self.start(runner, replace(make_command(seconds), memory=600 << 20))
            for seconds in (100000, 1, 1)
        )
        self.assertEqual((second.pid, third.pid), (None, None))
        third.stop()
        self.failureResultOf(third.result, CommandStopped)
        first.stop()
        await self.assertFailure(first.result, CommandStopped)
        await second.result
        self.assertEqual(runner.running, set())

    async def test_what_a_command_may_take_follows_what_it_needs(self) -> None:
        """It is somewhat more than declared, not the machine's memory."""
        if not Path("/proc/self/limits").exists():
            raise SkipTest("needs /proc")
        found = []
        for memory in (64 << 20, 256 << 20, 1 << 40):
            running = self.start(
                self.runner(address_space=1 << 42), replace(make_command(100000), memory=memory)
            )
            self.progress.clear()
            while not self.progress:  # FFmpeg itself runs once it reports
                await deferLater(reactor, 0.02)
            limits = Path(f"/proc/{running.pid}/limits").read_text()
            found.append(int(re.search(r"address space +(\d+)", limits)[1]))  # type: ignore[index]
            running.stop()
            await self.ends(running, CommandStopped)
        self.assertEqual(found[1] - found[0], 2 * (192 << 20))
        self.assertLess(found[0], 100 << 30)
        self.assertEqual(found[2], 2 * (1 << 40) + found[0] - (128 << 20))

    async def test_a_process_killed_from_outside_says_so(self) -> None:
        """Whatever the signal. After SIGTERM, FFmpeg exits by itself with a status."""
        for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGRTMIN + 3):
            encoding: Deferred[Progress] = Deferred()
            workspace = Workspace("inputs/none", "work")

            def progressed(progress: Progress, encoding: Deferred[Progress] = encoding) -> None:
                if not encoding.called and progress.frame:
                    encoding.callback(progress)

            running = self.runner().start(make_command(100000), workspace, 2, progressed)
            await encoding
            os.kill(running.pid or 0, number)
            error = await self.ends(running, CommandFailed)
            self.assertIs(error.kind, FailureKind.KILLED, error)

    def test_the_child_dies_with_its_server(self) -> None:
        """After kill -9 of the process that started it, FFmpeg is gone."""
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
        wait_for(lambda: has_ended(child))
