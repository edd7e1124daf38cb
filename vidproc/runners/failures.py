"""Finds out why a command failed; the only module that reads programs' error messages."""

from __future__ import annotations

import errno
import re
import signal
from pathlib import Path

from vidproc.ffmpeg.command import CommandFailed, FailureKind

_INTERRUPTED = 255
_SHORTAGES = frozenset({errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM})
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
"""Signals that a program receives because of its own actions."""
_LIMITS = {signal.SIGXCPU: FailureKind.TIMED_OUT, signal.SIGXFSZ: FailureKind.OUTGROWN}
_ENDED_BY_SIGNAL = re.compile(
    r"^\[info\] Exiting normally, received signal \d+\.\s*\Z", re.MULTILINE
)
"""The last message of an FFmpeg that was told to stop (SIGTERM, SIGINT); its status is 255."""
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
"""Messages of FFmpeg, its encoders and the probe, and what they mean."""


def is_shortage(error: BaseException) -> bool:
    """Return whether the machine lacked descriptors, processes or memory at that moment."""
    if isinstance(error, CommandFailed):
        return error.kind is FailureKind.REFUSED
    return isinstance(error, OSError) and error.errno in _SHORTAGES


def oom_kills(vmstat: Path = _VMSTAT) -> int:
    """Return how many processes, in any group, the kernel has killed for lack of memory since boot.

    0 if the kernel does not say.
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
    """Return the name of a signal; real-time signals have no names of their own."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)


def kind_of_end(
    status: int | None,
    number: int | None,
    stderr_tail: str,
    *,
    ran: bool = True,
    oom_killed: bool = False,
) -> FailureKind:
    """Return why a process failed that ended with exit `status` or by the signal `number`.

    `ran` says whether the program had started: from then on, its output may be what a file says.
    `oom_killed` says whether the kernel killed processes for lack of memory meanwhile.
    """
    if number in _LIMITS:
        return _LIMITS[signal.Signals(number)]
    said = next((kind for words, kind in _SAID if words in stderr_tail), None)
    if number in _FAULTS:
        # Many C++ programs abort when they get no memory.
        return FailureKind.MEMORY if said is FailureKind.MEMORY else FailureKind.CRASHED
    if number:
        by_kernel = oom_killed and number == signal.SIGKILL
        return FailureKind.OOM_KILLED if by_kernel else FailureKind.KILLED
    if not ran:
        found = _ERRNO.search(stderr_tail)
        short = found is not None and int(found[1]) in _SHORTAGES
        return FailureKind.REFUSED if short else FailureKind.OURS
    if status == _INTERRUPTED and _ENDED_BY_SIGNAL.search(stderr_tail):
        return FailureKind.KILLED
    return said or FailureKind.INPUT
