"""Finds out why a command failed: the one place that reads what programs say of their end."""

from __future__ import annotations

import errno
import re
import signal
from pathlib import Path

from vidproc.ffmpeg.command import CommandFailed, FailureKind

SETUP_FAILED = 126
"""Exit status of a launcher that could not become the program."""

_INTERRUPTED = 255
_SHORTAGES = frozenset({errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM})
_NEVER_RAN = re.compile(r"(launcher: |Upon execvpe )")
"""What the launcher, or the child of Twisted that was to become it, says before it gives up."""
_ERRNO = re.compile(r"\[Errno (\d+)\]")
_FAULTS = frozenset(
    {
        signal.SIGSEGV,
        signal.SIGBUS,
        signal.SIGILL,
        signal.SIGFPE,
        signal.SIGABRT,
        signal.SIGTRAP,
        signal.SIGSYS,
        signal.SIGPIPE,
    }
)
"""Signals that a program gets for what it did itself."""
_LIMITS = {signal.SIGXCPU: FailureKind.TIMED_OUT, signal.SIGXFSZ: FailureKind.OUTGROWN}
_ENDED_BY_SIGNAL = re.compile(
    r"^\[info\] Exiting normally, received signal \d+\.\s*\Z", re.MULTILINE
)
"""The last words of an FFmpeg that somebody told to end (SIGTERM, SIGINT); its status is 255."""
_VMSTAT = Path("/proc/vmstat")
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


def oom_kills(vmstat: Path = _VMSTAT) -> int:
    """Return how many processes the kernel has ended for lack of memory, in any group, since boot.

    0 where the kernel does not tell.
    """
    try:
        for line in vmstat.read_text().splitlines():
            name, _, value = line.partition(" ")
            if name == "oom_kill":
                return int(value)
    except (OSError, ValueError):
        pass
    return 0


def name_of_signal(number: int) -> str:
    """Return what to call any signal; those for real time have no names of their own."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)


def kind_of_end(
    status: int | None, number: int | None, stderr_tail: str, *, oom_killed: bool = False
) -> FailureKind:
    """Return why a process failed that ended with exit `status`, or by the signal `number`.

    `oom_killed` says that the kernel has ended processes for lack of memory while it ran.
    """
    if number in _LIMITS:
        return _LIMITS[signal.Signals(number)]
    said = next((kind for words, kind in _SAID if words in stderr_tail), None)
    if number in _FAULTS:
        # Much of what is written in C++ ends itself when it gets no memory.
        return FailureKind.MEMORY if said is FailureKind.MEMORY else FailureKind.CRASHED
    if number:
        by_kernel = oom_killed and number == signal.SIGKILL
        return FailureKind.OOM_KILLED if by_kernel else FailureKind.KILLED
    if status == _INTERRUPTED and _ENDED_BY_SIGNAL.search(stderr_tail):
        return FailureKind.KILLED
    if status == SETUP_FAILED or _NEVER_RAN.match(stderr_tail):
        found = _ERRNO.search(stderr_tail)
        short = found is not None and int(found[1]) in _SHORTAGES
        return FailureKind.REFUSED if short else FailureKind.OURS
    return said or FailureKind.INPUT
