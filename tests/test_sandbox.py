"""The sandbox: each layer with a real process that tries to break out."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from vidproc.ffmpeg.binary import find_ffmpeg
from vidproc.ffmpeg.launcher import SETUP_FAILED
from vidproc.ffmpeg.sandbox import NICE, Sandbox, SandboxIncomplete, find_layers

CLIP = Path(__file__).parent / "media" / "screencast-480p-vp9-opus.webm"


class SandboxTests(SynchronousTestCase):
    def setUp(self) -> None:
        if sys.platform != "linux":
            raise SkipTest("the layers are Linux's")
        self.layers = find_layers("auto")
        self.root = Path(self.mktemp()).absolute()
        self.folder = self.root / "work"
        self.folder.mkdir(parents=True)

    def need(self, *layers: str) -> None:
        if not self.layers & set(layers):
            raise SkipTest(f"this machine has none of {layers}")

    def run_ffmpeg(
        self, *arguments: str, reads: tuple[str, ...] = (), **limits: int
    ) -> subprocess.CompletedProcess[str]:
        values = {"address_space": 4 << 30, "file_size": 1 << 30, **limits}
        sandbox = Sandbox(**values, layers=self.layers)
        argv = [find_ffmpeg().path, "-nostdin", "-loglevel", "error", "-y", *arguments]
        writes = [f"{self.folder}/out.mp4"]
        return subprocess.run(
            sandbox.wrap(argv, reads, str(self.folder), writes),
            capture_output=True,
            text=True,
            timeout=60,
        )

    def run_python(self, program: str, writes: Sequence[str] = (), file_size: int = 1 << 30) -> str:
        """Run Python in place of FFmpeg, with its standard library as an input."""
        sandbox = Sandbox(address_space=4 << 30, file_size=file_size, layers=self.layers)
        done = subprocess.run(
            sandbox.wrap(
                [sys.executable, "-I", "-S", "-c", program],
                (sysconfig.get_path("stdlib"),),
                str(self.folder),
                writes,
            ),
            capture_output=True,
            text=True,
            timeout=60,
        )
        return done.stdout + done.stderr

    def test_its_input_and_its_folder_are_all_it_needs(self) -> None:
        """An encode works with all layers."""
        done = self.run_ffmpeg(
            "-i", str(CLIP), "-t", "0.5", f"{self.folder}/out.mp4", reads=(str(CLIP),)
        )
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertGreater((self.folder / "out.mp4").stat().st_size, 1000)

    def test_another_file_cannot_be_read(self) -> None:
        """Such as another task's input, even if its name is known."""
        self.need("landlock")
        canary = self.root / "other-task"
        canary.write_bytes(CLIP.read_bytes())
        done = self.run_ffmpeg("-i", str(canary), f"{self.folder}/out.mp4", reads=(str(CLIP),))
        self.assertIn("Permission denied", done.stderr)

    def test_nothing_is_written_outside_the_folder(self) -> None:
        """Its input is not changed, either."""
        self.need("landlock")
        before = CLIP.read_bytes()
        for target in (self.root / "elsewhere.mp4", CLIP):
            done = self.run_ffmpeg(
                *("-f", "lavfi", "-i", "testsrc=duration=0.1"),
                *("-f", "mp4", str(target)),
                reads=(str(CLIP),),
            )
            self.assertIn("Permission denied", done.stderr)
        self.assertFalse((self.root / "elsewhere.mp4").exists())
        self.assertEqual(CLIP.read_bytes(), before)

    def test_what_it_can_take_of_the_disk_is_bounded(self) -> None:
        """At every moment: it can neither create files nor hide some by removing or renaming
        them."""
        self.need("landlock")
        earlier = self.folder / "earlier.mp4"
        earlier.write_bytes(b"of an earlier command")
        given = [str(self.folder / name) for name in ("a", "b")]
        said = self.run_python(
            "import errno, os, signal\n"
            "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
            f"folder, given = {str(self.folder)!r}, {given!r}\n"
            "def refused(call, *arguments):\n"
            "    try: call(*arguments)\n"
            "    except OSError as error: return error.errno in (errno.EACCES, errno.EPERM)\n"
            "held, taken = [], 0\n"
            "for path in given * 3:\n"
            "    held.append(os.open(path, os.O_WRONLY))\n"
            "    try:\n"
            "        while True: os.write(held[-1], bytes(4096))\n"
            "    except OSError: pass\n"
            "    print(refused(os.unlink, path), refused(os.rename, path, folder + '/c'),\n"
            "        refused(os.rename, path, given[0]), refused(os.rename, path, given[1]))\n"
            "print(refused(os.open, folder + '/new', os.O_WRONLY | os.O_CREAT),\n"
            "    refused(os.open, folder, os.O_WRONLY | os.O_TMPFILE),\n"
            "    refused(os.open, folder + '/earlier.mp4', os.O_WRONLY))\n"
            "found = {os.fstat(fd).st_ino: os.fstat(fd).st_size for fd in held}\n"
            "print(sum(found.values()))",
            writes=given,
            file_size=100_000,
        )
        *refusals, taken = said.split()
        self.assertEqual((set(refusals), len(refusals)), ({"True"}, 27), said)
        self.assertEqual(int(taken), 2 * 100_000)
        self.assertEqual(earlier.read_bytes(), b"of an earlier command")

    def test_no_connection_is_made(self) -> None:
        """Nothing reaches a listening socket on this machine."""
        self.need("seccomp", "namespaces")
        with socket.create_server(("127.0.0.1", 0)) as listener:
            url = f"http://127.0.0.1:{listener.getsockname()[1]}/film.mp4"
            done = self.run_ffmpeg("-i", url, f"{self.folder}/out.mp4")
            self.assertNotEqual(done.returncode, 0)
            listener.settimeout(0.05)
            self.assertRaises(TimeoutError, listener.accept)

    def test_no_other_program_can_be_run(self) -> None:
        """A shell may not be executed."""
        self.need("landlock")
        said = self.run_python("import os; os.execv('/bin/sh', ['sh', '-c', 'echo ow''ned'])")
        self.assertIn("PermissionError", said)
        self.assertNotIn("owned", said)

    def test_its_own_program_cannot_be_run_again(self) -> None:
        """Neither can the loader, which could run any readable program."""
        self.need("seccomp")
        said = self.run_python(f"import os; os.execv({sys.executable!r}, ['python', '-V'])")
        self.assertIn("PermissionError", said)

    def test_no_process_is_started(self) -> None:
        """So nothing can outlive its job. Encoders only need threads."""
        self.need("seccomp")
        said = self.run_python(
            "import os, threading\n"
            "t = threading.Thread(target=print, args=('thread',)); t.start(); t.join()\n"
            "os.fork()"
        )
        self.assertIn("thread\n", said)
        self.assertIn("PermissionError", said)

    def test_a_script_reads_only_its_input_and_its_package(self) -> None:
        """Not files next to them, such as a data folder inside the virtual environment."""
        self.need("landlock")
        packages = self.root / "site-packages"
        (packages / "data").mkdir(parents=True)
        secret = packages / "data" / "secret"
        secret.write_text("secret")
        script = self.root / "script.py"
        script.write_text(
            "import json, sys, os\n"
            "def main():\n"
            "    for path in sys.argv[1:]:\n"
            "        try: print(open(path).read(6))\n"
            "        except OSError as error: print(error.errno)\n"
        )
        given = self.root / "input"
        given.write_text("public")
        sandbox = Sandbox(address_space=4 << 30, file_size=1 << 30, layers=self.layers)
        paths = [str(given), str(secret), str(script), json.__file__, sys.executable]
        done = subprocess.run(
            sandbox.wrap_script([str(script), *paths], [str(given)]),
            capture_output=True,
            text=True,
            timeout=60,
        )
        self.assertEqual(done.stdout.split(), ["public", *["13"] * 4], done.stderr)

    def test_a_script_that_starts_threads_is_refused(self) -> None:
        """No layer would confine them, because each applies only to the calling thread."""
        script = self.root / "script.py"
        script.write_text(
            "import threading\n"
            "threading.Thread(target=threading.Event().wait, daemon=True).start()\n"
            "def main(): print('ran')\n"
        )
        sandbox = Sandbox(address_space=4 << 30, file_size=1 << 30, layers=self.layers)
        done = subprocess.run(
            sandbox.wrap_script([str(script)]), capture_output=True, text=True, timeout=60
        )
        self.assertEqual((done.returncode, done.stdout), (SETUP_FAILED, ""))

    def test_it_has_no_capabilities_and_is_the_first_to_die_of_lack_of_memory(self) -> None:
        """Even if the server runs as root, with or without a user namespace."""
        program = "import time; print('x', flush=True); time.sleep(60)"
        for layers in (self.layers, frozenset[str]()):
            sandbox = Sandbox(address_space=4 << 30, file_size=1 << 30, layers=layers)
            argv = sandbox.wrap(
                [sys.executable, "-I", "-S", "-c", program], (sysconfig.get_path("stdlib"),)
            )
            with subprocess.Popen(argv, stdout=subprocess.PIPE) as child:
                assert child.stdout is not None
                self.assertEqual(child.stdout.readline(), b"x\n")
                status = Path(f"/proc/{child.pid}/status").read_text()
                score = Path(f"/proc/{child.pid}/oom_score_adj").read_text()
                child.kill()
            fields = dict(line.split(":\t") for line in status.splitlines() if ":\t" in line)
            self.assertEqual(int(fields["CapPrm"], 16) | int(fields["CapEff"], 16), 0)
            self.assertEqual(fields["NoNewPrivs"], "1")
            self.assertEqual(int(score), 1000)

    def test_the_server_cannot_be_signalled_or_traced(self) -> None:
        """Although both run as the same user."""
        import ctypes
        import os

        self.need("landlock")
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.syscall(444, None, 0, 1) < 6:
            raise SkipTest("Landlock scopes signals from ABI 6 on")
        said = self.run_python(f"import os; os.kill({os.getpid()}, 0)")
        self.assertIn("PermissionError", said)

    def test_the_server_goes_first(self) -> None:
        """Whatever the media process is doing, it ends as well."""
        self.assertEqual(
            self.run_python("import os; print(os.nice(0))").strip(), str(min(19, os.nice(0) + NICE))
        )

    def test_memory_is_limited(self) -> None:
        """A decompression bomb ends only itself."""
        done = self.run_ffmpeg(
            *("-f", "lavfi", "-i", "testsrc=size=8000x8000:duration=0.1"),
            f"{self.folder}/out.mp4",
            address_space=300 << 20,
        )
        self.assertNotEqual(done.returncode, 0)

    def test_cpu_time_is_limited(self) -> None:
        """An endless computation is ended by the kernel."""
        done = self.run_ffmpeg(
            *("-f", "lavfi", "-i", "testsrc=size=640x480"), "-f", "null", "-", cpu_time=1
        )
        self.assertLess(done.returncode, 0)

    def test_strict_needs_files_network_and_memory_to_be_held(self) -> None:
        """`off` uses no layers, `auto` the available ones."""
        self.assertEqual(find_layers("off"), frozenset())
        if {"landlock", "seccomp", "memory"} <= self.layers:
            self.assertEqual(find_layers("strict"), self.layers)
        else:
            self.assertRaises(SandboxIncomplete, find_layers, "strict")
