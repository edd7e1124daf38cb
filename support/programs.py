"""Programs that some tests need besides what `make setup` installs."""

from __future__ import annotations

import os
import shutil

from twisted.trial.unittest import SkipTest

REQUIRE = "VIDPROC_REQUIRE_PROGRAMS"
"""If this environment variable is set, as `.ci/run` does, a test whose program is missing fails."""


def need_program(name: str, package: str = "") -> str:
    """Return the path of the program `name`, which Debian has in `package` (default: `name`).

    If it is not installed, raises `SkipTest`, or `AssertionError` if `REQUIRE` is set.
    """
    path = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
    if path is not None:
        return path
    missing = f"{name} is not installed (Debian: apt-get install {package or name})"
    if os.environ.get(REQUIRE):
        raise AssertionError(missing)
    raise SkipTest(missing)
