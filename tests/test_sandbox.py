"""What holds a media process: each layer with a real process that tries to get around it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from vidproc.ffmpeg.binary import find_ffmpeg
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
        return subprocess.run(
            sandbox.wrap(argv, reads, str(self.folder)), capture_output=True, text=True, timeout=60
        )

    def run_python(self, program: str) -> str:
        sandbox = Sandbox(address_space=4 << 30, file_size=1 << 30, layers=self.layers)
        done = subprocess.run(
            sandbox.wrap([sys.executable, "-I", "-c", program], (), str(self.folder)),
            capture_output=True,
            text=True,
            timeout=60,
        )
        return done.stdout + done.stderr

    def test_its_input_and_its_folder_are_all_it_needs(self) -> None:
        """An encode works with every layer on."""
        done = self.run_ffmpeg(
            "-i", str(CLIP), "-t", "0.5", f"{self.folder}/out.mp4", reads=(str(CLIP),)
        )
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertGreater((self.folder / "out.mp4").stat().st_size, 1000)

    def test_another_file_can_not_be_read(self) -> None:
        """Such as another task's input, whose name it may know."""
        self.need("landlock")
        canary = self.root / "other-task"
        canary.write_bytes(CLIP.read_bytes())
        done = self.run_ffmpeg("-i", str(canary), f"{self.folder}/out.mp4", reads=(str(CLIP),))
        self.assertIn("Permission denied", done.stderr)

    def test_nothing_is_written_outside_the_folder(self) -> None:
        """Nor is its input changed."""
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

    def test_no_connection_is_made(self) -> None:
        """A listening socket on this machine hears nothing."""
        self.need("seccomp", "namespaces")
        with socket.create_server(("127.0.0.1", 0)) as listener:
            url = f"http://127.0.0.1:{listener.getsockname()[1]}/film.mp4"
            done = self.run_ffmpeg("-i", url, f"{self.folder}/out.mp4")
            self.assertNotEqual(done.returncode, 0)
            listener.settimeout(0.05)
            self.assertRaises(TimeoutError, listener.accept)

    def test_no_other_program_can_be_run(self) -> None:
        """A shell is not among what may be executed."""
        self.need("landlock")
        said = self.run_python("import os; os.execv('/bin/sh', ['sh', '-c', 'echo ow''ned'])")
        self.assertIn("PermissionError", said)
        self.assertNotIn("owned", said)

    def test_the_server_can_not_be_signalled_or_traced(self) -> None:
        """Though it runs as the same user."""
        import ctypes
        import os

        self.need("landlock")
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.syscall(444, None, 0, 1) < 6:
            raise SkipTest("Landlock scopes signals from ABI 6 on")
        said = self.run_python(f"import os; os.kill({os.getpid()}, 0)")
        self.assertIn("PermissionError", said)

    def test_the_server_goes_first(self) -> None:
        """Whatever the media process does."""
        self.assertEqual(
            self.run_python("import os; print(os.nice(0))").strip(), str(min(19, os.nice(0) + NICE))
        )

    def test_memory_is_limited(self) -> None:
        """A bomb dies alone."""
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
        """Off uses none; auto uses what there is."""
        self.assertEqual(find_layers("off"), frozenset())
        if {"landlock", "seccomp", "memory"} <= self.layers:
            self.assertEqual(find_layers("strict"), self.layers)
        else:
            self.assertRaises(SandboxIncomplete, find_layers, "strict")
