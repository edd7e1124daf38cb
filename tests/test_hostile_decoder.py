"""The sandbox against a decoder under an attacker's control, which tries everything."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import cast

from twisted.internet import reactor
from twisted.trial.unittest import SkipTest, TestCase

from tests.forking_case import Child
from tests.hostile_decoder import call
from vidproc.ffmpeg.sandbox import Sandbox, find_layers, fork_server, job_of
from vidproc.reactor import IFullReactor
from vidproc.runners.forking import ForkServer

ATTACKER = str(Path(__file__).with_name("hostile_decoder.py"))
REFUSALS = {"EPERM", "EACCES", "ENOSYS"}


def foreign_interface() -> list[str]:
    """Return the libraries that ctypes needs in addition to Python's own."""
    maps = Path("/proc/self/maps").read_text().splitlines()
    return sorted({line.split()[-1] for line in maps if "libffi" in line})


class HostileDecoderTests(TestCase):
    def setUp(self) -> None:
        self.layers = find_layers("auto") if sys.platform == "linux" else frozenset[str]()
        if not {"landlock", "seccomp"} <= self.layers:
            raise SkipTest("needs Landlock and seccomp")
        self.root = Path(self.mktemp()).absolute()
        self.own = self.root / "own"
        self.others = self.root / "others"
        self.own.mkdir(parents=True)
        self.others.mkdir()
        (self.own / "given").touch()
        self.file = self.others / "film"
        self.file.write_bytes(b"another task's input")
        self.input = self.root / "input"
        self.input.write_bytes(b"its own input")
        self.before = self.state()

    def state(self) -> dict[str, tuple[float, int, bytes]]:
        """Return everything about the files that an attacker might change."""
        found = {}
        for path in (self.file, self.input):
            stat = path.stat()
            found[path.name] = (stat.st_mtime, stat.st_mode, path.read_bytes())
        names = sorted(os.listdir(self.own) + os.listdir(self.others))
        return {**found, "names": (0.0, 0, "\n".join(names).encode())}

    def attack(self, argv: list[str]) -> None:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
        self.check(done.stdout, done.stderr)

    def check(self, answered: str, said: str) -> None:
        answers = dict(json.loads(line) for line in answered.splitlines())
        self.assertGreater(len(answers), 150, said)
        # The last attempt kills the attacker if the kernel does not run 32-bit programs.
        self.assertIn("a call of the future", answers)
        got_through = {name: a for name, a in answers.items() if a not in REFUSALS}
        self.assertEqual(got_through, {})
        self.assertEqual(self.state(), self.before)

    def target(self, own: Path | None) -> dict[str, object]:
        return {
            "pid": os.getpid(),
            "file": str(self.file),
            "folder": str(self.others),
            "input": str(self.input),
            "own": None if own is None else str(own),
            "program": sys.executable,
        }

    def test_nothing_gets_through_in_the_place_of_ffmpeg(self) -> None:
        """As a separate program with a folder to write to."""
        sandbox = Sandbox(address_space=4 << 30, file_size=1 << 30, layers=self.layers)
        target = json.dumps(self.target(self.own))
        program = [sys.executable, "-I", "-S", "-B", ATTACKER, target]
        reads = [str(self.input), ATTACKER, sysconfig.get_path("stdlib"), *foreign_interface()]
        self.attack(
            sandbox.wrap(program, reads, str(self.own), [str(self.own / "given")]),
        )

    def test_nothing_gets_through_in_the_place_of_the_probe(self) -> None:
        """As a script with only its input."""
        sandbox = Sandbox(address_space=4 << 30, file_size=1 << 30, layers=self.layers)
        argv = sandbox.wrap_script([ATTACKER, json.dumps(self.target(None))], (str(self.input),))
        self.attack(
            argv,
        )

    async def test_nothing_gets_through_in_a_forked_probe(self) -> None:
        """As a child of the fork server, whose process it attacks too."""
        server = ForkServer(cast(IFullReactor, reactor), lambda: fork_server(ATTACKER))
        server.start()
        self.addCleanup(server.stop)
        sandbox = Sandbox(address_space=4 << 30, file_size=1 << 30, layers=self.layers)
        for pid in (os.getpid(), server.pid):
            target = json.dumps({**self.target(None), "pid": pid})
            child = Child()
            argv = sandbox.wrap_script([ATTACKER, target], (str(self.input),))
            server.fork(child, job_of(argv))
            await child.ended
            self.check(child.said[1].decode(), child.said[2].decode())

    def test_the_attempts_are_real(self) -> None:
        """Without the sandbox, the attempts succeed."""
        path, pid = os.fsencode(self.file), os.getpid()
        buffer = ctypes.create_string_buffer(64)
        answers = [
            call("openat", -100, path, os.O_RDWR),
            call("fchmodat", -100, path, 0o600),
            call("prlimit64", pid, 0, 0, buffer),
            call("kill", pid, 0),
            call("inotify_init1", 0),
            call("socket", 1, 2, 0),
        ]
        self.assertEqual(answers, ["done"] * len(answers))
