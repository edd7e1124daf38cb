"""The server's options, and the service that is made from them."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from vidproc.tap import Options, makeService


def parse(*arguments: str) -> Options:
    options = Options()
    options.parseOptions(arguments)
    return options


def service_for(*arguments: str) -> Any:
    return makeService(parse(*arguments))


class RetentionTests(SynchronousTestCase):
    def min_retention(self, *arguments: str) -> float:
        return float(service_for(*arguments).config.settings.min_retention)

    def test_an_unfetched_result_is_safe_for_an_hour_by_default(self) -> None:
        self.assertEqual(self.min_retention(), 3600.0)

    def test_min_retention_is_a_duration_and_may_be_zero(self) -> None:
        self.assertEqual(self.min_retention("--min-retention=90m"), 5400.0)
        self.assertEqual(self.min_retention("--min-retention=0s"), 0.0)

    def test_a_shorter_retention_wins(self) -> None:
        self.assertEqual(self.min_retention("--min-retention=2h", "--retention=30m"), 1800.0)


class PathTests(SynchronousTestCase):
    def test_relative_folders_are_resolved_before_twistd_changes_its_own(self) -> None:
        options = parse("--data-dir=here", "--log-dir=there")
        self.assertEqual(options["data-dir"], Path("here").absolute())
        self.assertEqual(options["log-dir"], Path("there").absolute())


class RefusalTests(SynchronousTestCase):
    def refused(self, *arguments: str) -> str:
        """Return the line that the wrong arguments print."""
        error = io.StringIO()
        with contextlib.redirect_stderr(error):
            exited = self.assertRaises(SystemExit, parse, *arguments)
        self.assertEqual((exited.code, error.getvalue().count("\n")), (1, 1))
        return error.getvalue()

    def test_files_and_folders_are_looked_at_before_anything_is_forked(self) -> None:
        path = Path(self.mktemp())
        self.assertIn("cannot be read (No such file", self.refused(f"--token-file={path}"))
        path.touch()
        self.assertIn(f"{path} is not a folder", self.refused(f"--log-dir={path.absolute()}"))

    def test_a_limit_that_nothing_could_meet_or_no_timer_reach_is_refused(self) -> None:
        for option in ("--max-upload=0", "--storage-limit=0", "--retention=0s", "--job-timeout=0"):
            self.assertIn("is out of range; use 1", self.refused(option))
        for option in ("--max-upload=9000T", "--grace=99999999d", "--upload-retention=40000d"):
            self.assertRegex(self.refused(option), r"is out of range; use \d\w to \d+[Td]\n")
        self.assertEqual(parse("--max-upload=1K", "--grace=0s")["max-upload"], 1024)

    def test_an_argument_that_is_no_option_is_named(self) -> None:
        self.assertIn("'9999' is not expected", self.refused("--owner-only", "9999"))


class OutputTests(SynchronousTestCase):
    """What options such as --help print, into a pipe that nobody reads and onto a full disk."""

    COMMANDS = (
        ("twisted", "vidproc", "--show-config"),
        ("twisted", "vidproc", "--help"),
        ("vidproc.client", "--version"),
        ("vidproc.client", "--help"),
        ("vidproc.app.worker_command", "--version"),
    )

    def run_into(self, output: int, *command: str) -> tuple[int, str]:
        """Return the status of a command and what it writes to standard error."""
        done = subprocess.run(
            [sys.executable, "-m", *command], stdout=output, stderr=subprocess.PIPE, text=True
        )
        return done.returncode, done.stderr

    def test_a_reader_that_has_gone_is_no_error(self) -> None:
        for command in self.COMMANDS:
            reader, writer = os.pipe()
            os.close(reader)
            try:
                self.assertEqual(self.run_into(writer, *command), (0, ""), command)
            finally:
                os.close(writer)

    def test_a_full_disk_is_one_line(self) -> None:
        full = os.open("/dev/full", os.O_WRONLY)
        self.addCleanup(os.close, full)
        status, error = self.run_into(full, "twisted", "vidproc", "--show-config")
        self.assertEqual(status, 1)
        self.assertRegex(error, r"\Avidproc: the output cannot be written \(No space .*\)\n\Z")


class ConfigTests(SynchronousTestCase):
    def test_every_option_reaches_its_setting(self) -> None:
        options = ["--storage-limit=1G", "--grace=5s", "--queue-size=7", "--owner-only"]
        config = service_for(*options).config
        self.assertEqual((config.storage_limit, config.grace), (1 << 30, 5))
        self.assertEqual((config.settings.queue_size, config.settings.owner_only), (7, True))

    def test_without_twistd_there_is_no_pid_file(self) -> None:
        config = service_for().config
        self.assertIsNone(config.pid_file)
        self.assertEqual(replace(config, twistd={"pidfile": "x.pid"}).pid_file, Path("x.pid"))
        self.assertIsNone(replace(config, twistd={"pidfile": ""}).pid_file)


class OnDoneTests(SynchronousTestCase):
    def test_the_command_is_split_as_by_a_shell_and_its_program_found(self) -> None:
        config = service_for("--on-done=sh -c 'echo \"a b\"'").config
        self.assertEqual(config.on_done, (shutil.which("sh"), "-c", 'echo "a b"'))
        self.assertIsNone(service_for().config.on_done)

    def test_a_command_that_can_not_run_is_one_clear_line(self) -> None:
        for command in ("/nowhere/at-all", "", "'unclosed", "tests"):
            errors = io.StringIO()
            self.patch(sys, "stderr", errors)
            with self.assertRaises(SystemExit) as stopped:
                parse(f"--on-done={command}")
            self.assertEqual(stopped.exception.code, 1)
            self.assertRegex(errors.getvalue(), r"\Avidproc: --on-done: .+\n\Z")
