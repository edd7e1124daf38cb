"""What a machine needs to run vidproc for years: units, settings, the image, the packages."""

from __future__ import annotations

import configparser
import os
import re
import subprocess
import sys
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from support.check_dist import IN_SDIST, NOWHERE, Wrong, check_names
from support.programs import need_program
from vidproc.app.worker_command import parser as worker_parser
from vidproc.program_options import parse
from vidproc.tap import Options

ROOT = Path(__file__).resolve().parents[1]
DEPLOY = ROOT / "deploy"
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
THRESHOLD = 2.0
"""The highest exposure of a unit, from 0 (safest) to 10, as systemd-analyze counts it."""


class UnitTests(SynchronousTestCase):
    def test_they_expose_little(self) -> None:
        analyze = need_program("systemd-analyze", "systemd")
        self.assertEqual(
            [unit.name for unit in UNITS], ["vidproc-worker.service", "vidproc.service"]
        )
        for unit in UNITS:
            done = subprocess.run(
                [analyze, "security", "--offline=yes", f"--threshold={THRESHOLD * 10:.0f}", unit],
                capture_output=True,
                text=True,
                timeout=60,
                env={**os.environ, "SYSTEMD_COLORS": "0"},
            )
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
            exposure = re.search(r"exposure level for \S+: ([\d.]+)", done.stdout)
            assert exposure is not None
            self.assertLessEqual(float(exposure[1]), THRESHOLD)

    def test_they_leave_the_sandbox_what_it_needs(self) -> None:
        """Namespaces, Landlock and seccomp: without them FFmpeg would be confined less."""
        for unit in UNITS:
            text = unit.read_text()
            (namespaces,) = re.findall("^RestrictNamespaces=(.*)$", text, re.MULTILINE)
            self.assertEqual(set(namespaces.split()), {"user", "net", "ipc"})
            allowed = re.findall("^SystemCallFilter=([^~].*)$", text, re.MULTILINE)[-1].split()
            self.assertLessEqual(
                {"capset", "landlock_create_ruleset", "landlock_add_rule"}, set(allowed)
            )

    def test_the_server_stops_before_systemd_kills_it(self) -> None:
        unit = configparser.ConfigParser(strict=False, interpolation=None)
        unit.read(DEPLOY / "systemd/vidproc.service")
        options = Options()
        options.parseOptions([f"--data-dir={Path(self.mktemp())}"])
        self.assertGreater(int(unit["Service"]["TimeoutStopSec"]), options["grace"] + 5)


class SettingsTests(SynchronousTestCase):
    """The example files are read as the server reads them."""

    def settings(self, *path: str) -> Options:
        options = Options()
        folder = Path(self.mktemp())
        options.parseOptions([f"--config={DEPLOY.joinpath(*path)}", f"--data-dir={folder}"])
        return options

    def test_of_a_machine(self) -> None:
        options = self.settings("server.toml")
        self.assertEqual(options["log-dir"], Path("/var/log/vidproc"))
        self.assertIn("interface=127.0.0.1", options["endpoints"]["mmp"][0])

    def test_of_a_container(self) -> None:
        options = self.settings("container", "server.toml")
        self.assertIsNone(options["log-dir"])
        self.assertEqual(options["log-format"], "json")
        container = (DEPLOY / "container/Containerfile").read_text()
        for ports in options["endpoints"].values():
            self.assertIn(f"{ports[0].split(':')[1]}", container)

    def test_of_a_worker(self) -> None:
        arguments = ["tcp://127.0.0.1:8786", f"--config={DEPLOY / 'worker.toml'}"]
        given, sources = parse(worker_parser(), arguments, "worker", environ={})
        self.assertEqual(given.log_dir, "/var/log/vidproc-worker")
        self.assertEqual(sources["object-store"], str(DEPLOY / "worker.toml"))
        unit = (DEPLOY / "systemd/vidproc-worker.service").read_text()
        self.assertIn(f"CacheDirectory={Path(given.scratch).name}\n", unit)

    def test_commented_lines_are_options_too(self) -> None:
        for path in (DEPLOY / "server.toml", DEPLOY / "container/server.toml"):
            text = path.read_text()
            names = re.findall(r"^#? ?([a-z-]+) = ", text, re.MULTILINE)
            options = Options()
            options.parseOptions([f"--data-dir={Path(self.mktemp())}"])
            self.assertLessEqual(set(names), {one.name for one in options.held})
            self.assertTrue(names)


class ImageTests(SynchronousTestCase):
    def test_it_is_not_run_as_root_and_says_how_it_is(self) -> None:
        lines = (DEPLOY / "container/Containerfile").read_text().splitlines()
        words = [line.split(" ", 1)[0] for line in lines]
        (user,) = [line for line in lines if line.startswith("USER ")]
        self.assertNotIn("0", user.removeprefix("USER ").split(":"))
        for instruction in ("HEALTHCHECK", "VOLUME", "EXPOSE", "STOPSIGNAL", "ENTRYPOINT"):
            self.assertIn(instruction, words)

    def test_what_it_copies_is_there(self) -> None:
        text = (DEPLOY / "container/Containerfile").read_text()
        for line in re.findall(r"^COPY (?!--)(.*) \S+$", text, re.MULTILINE):
            for name in line.split():
                if not name.startswith("dist/"):
                    self.assertTrue((ROOT / name).exists(), name)


class DistributionTests(SynchronousTestCase):
    """`make dist` checks the packages by these lists; here the check itself is checked."""

    def test_what_is_wanted_must_be_there(self) -> None:
        check_names(["a/b.py", "c"], ["a/*.py"], ["*"])
        error = self.assertRaises(Wrong, check_names, ["a/b.py"], ["a/*.py", "d", "e"], ["*"])
        self.assertEqual(str(error), "it lacks d, e")

    def test_nothing_else_may_be(self) -> None:
        for strange in ("x/__pycache__/y.py", "tests/secret", "data/tasks.sqlite"):
            error = self.assertRaises(
                Wrong, check_names, ["a/b", strange], [], ["a/*", "data/*", "x/*"]
            )
            self.assertIn(strange, str(error))

    def test_the_lists_name_what_is_in_the_checkout(self) -> None:
        for name in IN_SDIST:
            self.assertTrue((ROOT / name).is_file(), name)
        self.assertIn("*.pyc", NOWHERE)

    def test_its_tools_are_not_needed_to_run_vidproc(self) -> None:
        program = "import vidproc.tap, sys; assert 'shtab' not in sys.modules"
        subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT, timeout=120)
