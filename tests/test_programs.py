"""Tests for `support.programs`."""

from __future__ import annotations

import os
from pathlib import Path

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from support.programs import REQUIRE, need_program


class NeedProgramTests(SynchronousTestCase):
    def test_one_that_is_installed(self) -> None:
        path = Path(need_program("sh"))
        self.assertTrue(path.is_file() and os.access(path, os.X_OK))

    def test_a_missing_one_skips_the_test_for_a_developer(self) -> None:
        self.patch(os, "environ", {"PATH": os.environ["PATH"]})
        error = self.assertRaises(SkipTest, need_program, "no-such-program", "its-package")
        self.assertIn("apt-get install its-package", str(error))

    def test_a_missing_one_fails_the_test_in_ci(self) -> None:
        self.patch(os, "environ", {"PATH": os.environ["PATH"], REQUIRE: "1"})
        error = self.assertRaises(AssertionError, need_program, "no-such-program")
        self.assertIn("apt-get install no-such-program", str(error))
