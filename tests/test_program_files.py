"""The files of a program."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from vidproc.ffmpeg.binary import find_ffmpeg
from vidproc.ffmpeg.program_files import find_program_files


class ProgramFilesTests(SynchronousTestCase):
    def setUp(self) -> None:
        if sys.platform != "linux":
            raise SkipTest("ELF files are Linux's")

    def test_only_the_program_and_its_loader_are_executed(self) -> None:
        """Libraries are only read."""
        for program in (find_ffmpeg().path, sys.executable):
            files = find_program_files(program)
            self.assertLessEqual(len(files.execute), 3)
            self.assertEqual([path for path in files.execute if Path(path).is_dir()], [])
            self.assertEqual([path for path in files.read if Path(path).is_dir()], [])
            self.assertEqual(set(files.execute) & set(files.read), set())

    def test_a_file_that_is_not_elf_consists_of_itself(self) -> None:
        """No other file is added, whether it exists or not."""
        script = Path(self.mktemp()).absolute()
        self.assertEqual(find_program_files(str(script)).execute, (str(script),))
        for content in (b"", b"#!/bin/sh\n", b"\x7fELF\x02\x01" + b"\xff" * 100):
            script.write_bytes(content)
            self.assertEqual(find_program_files(str(script)).read, ())

    def test_a_program_that_was_replaced_is_looked_at_again(self) -> None:
        """After an upgrade no restart is needed."""
        program = Path(self.mktemp()).absolute()
        program.write_text("#!/bin/sh\n")
        os.utime(program, (1, 1))
        self.assertEqual(find_program_files(str(program)).read, ())
        shutil.copy(sys.executable, program)
        self.assertNotEqual(find_program_files(str(program)).read, ())
