"""Prepares a media process from the inside, then becomes it.

Run as ``python -I -S -B launcher.py LIMITS PROGRAM [ARGUMENT ...]`` where LIMITS is a JSON object
(see `vidproc.ffmpeg.sandbox`). Stands alone: it imports nothing of vidproc and little of the
standard library, for it is started for every command and adds its start to the command's time.
"""

import json
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1
_PR_SET_NO_NEW_PRIVS = 38


def _prctl(option: int, value: int) -> None:
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option})")


def _apply_limits(limits: dict[str, int]) -> None:
    import resource

    for name, wanted in limits.items():
        which = getattr(resource, name)
        hard = resource.getrlimit(which)[1]
        value = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(which, (value, value))


def main() -> None:
    """Give up what the program must not have, and become the program."""
    spec = json.loads(sys.argv[1])
    argv = sys.argv[2:]
    os.setsid()
    if sys.platform == "linux":
        _prctl(_PR_SET_NO_NEW_PRIVS, 1)
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != spec["parent"]:
        sys.exit("launcher: the server is gone")  # it died before the death signal was set
    _apply_limits(spec["limits"])
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)  # Python ignores them, and exec keeps what is ignored
    os.execve(argv[0], argv, {})  # noqa: S606 - no shell is the point


if __name__ == "__main__":
    main()
