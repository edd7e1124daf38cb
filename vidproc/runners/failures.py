"""Finds out why a command failed: the one place that reads what programs say of their end."""

from __future__ import annotations

import errno
import re
import signal

from vidproc.ffmpeg.command import CommandFailed, FailureKind

SETUP_FAILED = 126
"""Exit status of a launcher that could not become the program."""

_SHORTAGES = frozenset({errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM})
_NEVER_RAN = re.compile(r"(launcher: |Upon execvpe )")
"""What the launcher, or the child of Twisted that was to become it, says before it gives up."""
_ERRNO = re.compile(r"\[Errno (\d+)\]")
_SIGNALS = {
    signal.SIGKILL: FailureKind.KILLED,
    signal.SIGTERM: FailureKind.KILLED,
    signal.SIGINT: FailureKind.KILLED,
    signal.SIGHUP: FailureKind.KILLED,
    signal.SIGXCPU: FailureKind.TIMED_OUT,
    signal.SIGXFSZ: FailureKind.OUTGROWN,
}
_SAID = (
    ("No space left on device", FailureKind.SPACE),
    ("File too large", FailureKind.OUTGROWN),
    ("Disk quota exceeded", FailureKind.SPACE),
    ("Cannot allocate memory", FailureKind.MEMORY),
    ("Memory allocation error", FailureKind.MEMORY),
    ("malloc of size", FailureKind.MEMORY),
    ("bad_alloc", FailureKind.MEMORY),
    ("MemoryError", FailureKind.MEMORY),
    ("bitrate is too low", FailureKind.RATE),
)
"""What FFmpeg, its encoders and the probe say in English, and what it means."""


def is_shortage(error: BaseException) -> bool:
    """Return whether the machine lacked descriptors, processes or memory at that moment."""
    if isinstance(error, CommandFailed):
        return error.kind is FailureKind.REFUSED
    return isinstance(error, OSError) and error.errno in _SHORTAGES


def kind_of_end(status: int | None, number: int | None, stderr_tail: str) -> FailureKind:
    """Return why a process failed that ended with exit `status`, or by the signal `number`."""
    if number and signal.Signals(number) in _SIGNALS:
        return _SIGNALS[signal.Signals(number)]
    said = next((kind for words, kind in _SAID if words in stderr_tail), None)
    if number:
        # Much of what is written in C++ ends itself when it gets no memory.
        return FailureKind.MEMORY if said is FailureKind.MEMORY else FailureKind.CRASHED
    if status == SETUP_FAILED or _NEVER_RAN.match(stderr_tail):
        found = _ERRNO.search(stderr_tail)
        short = found is not None and int(found[1]) in _SHORTAGES
        return FailureKind.REFUSED if short else FailureKind.OURS
    return said or FailureKind.INPUT
