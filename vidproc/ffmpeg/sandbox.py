"""What holds a media process: how it is started, and what it may use.

The first form: a process group of its own, death with the server, an empty environment,
no_new_privs and resource limits. `Sandbox.wrap` is the only place that knows.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_LAUNCHER = str(Path(__file__).with_name("launcher.py"))


@dataclass(frozen=True, slots=True)
class Sandbox:
    """Limits of every media process: address space and one file's size in bytes, descriptors."""

    address_space: int
    file_size: int
    open_files: int = 256

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers that are active, for `info` and the log."""
        common = ("own session", "empty environment", "rlimits")
        linux = ("no_new_privs", "dies with the server") if sys.platform == "linux" else ()
        return common + linux

    def wrap(self, argv: Sequence[str]) -> list[str]:
        """Return the argv that starts the program `argv` (an absolute path and its arguments)."""
        limits = {
            "RLIMIT_CORE": 0,
            "RLIMIT_NOFILE": self.open_files,
            "RLIMIT_FSIZE": self.file_size,
        }
        if sys.platform == "linux":
            limits["RLIMIT_AS"] = self.address_space
        spec = json.dumps({"parent": os.getpid(), "limits": limits})
        return [sys.executable, "-I", "-S", "-B", _LAUNCHER, spec, *argv]
