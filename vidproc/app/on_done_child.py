"""Runs the operator's command for a task that has ended, and leaves nothing of it behind.

Run as ``python -I -S -B on_done_child.py PARENT PROGRAM [ARGUMENT ...]``. It imports nothing of
vidproc, because it is a separate process: if the server is killed, it lives on until it has ended
the command. Processes that the command has started end as well: if orphaned they become our
children (PR_SET_CHILD_SUBREAPER), and we kill them.
"""

import ctypes
import os
import signal
import sys
import time

# From the kernel's linux/prctl.h.
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36

STOPPED = 124
"""Exit status if we ended the command because of SIGTERM, as with coreutils' timeout."""
CANNOT_RUN = 127
"""Exit status if it can't be started, as with a shell."""
_PATIENCE = 5.0
"""Seconds for which we try to kill remaining processes."""
_AWAITED = (signal.SIGTERM, signal.SIGCHLD)


def main() -> None:
    """Run the command and exit with its status."""
    parent, argv = int(sys.argv[1]), sys.argv[2:]
    signal.pthread_sigmask(signal.SIG_BLOCK, _AWAITED)
    if sys.platform == "linux":
        prctl = ctypes.CDLL(None).prctl
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit(STOPPED)  # the server died before the death signal was set
    child = os.fork()
    if child == 0:
        _become(argv)
    status = _await(child)
    _kill_all(child)
    sys.exit(status)


def _become(argv: list[str]) -> None:
    os.setsid()
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _AWAITED)
    try:
        # Not our own environment: Python adds to it (LC_CTYPE, PEP 538).
        path = {"PATH": os.environ.get("PATH", os.defpath)}
        os.execvpe(argv[0], argv, path)  # noqa: S606 - no shell is the point
    except OSError as error:
        os.write(2, f"{argv[0]}: {error.strerror}\n".encode())
    finally:
        os._exit(CANNOT_RUN)


def _await(child: int) -> int:
    """Return the command's exit status as a shell would, `STOPPED` if we were told to end."""
    while signal.sigwait(_AWAITED) != signal.SIGTERM:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return STOPPED
            if pid == child:
                code = os.waitstatus_to_exitcode(status)
                return code if code >= 0 else 128 - code
            if pid == 0:
                break
    return STOPPED


def _kill_all(child: int) -> None:
    """Kill the command's session and all its other descendants, until none is left."""
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        try:
            os.killpg(child, signal.SIGKILL)
        except OSError:
            pass  # all of its group have ended
        for pid in _children():
            try:
                os.kill(pid, signal.SIGKILL)
            except OSError:
                pass
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            time.sleep(0.005)


def _children() -> list[int]:
    try:
        with open(f"/proc/self/task/{os.getpid()}/children") as file:
            return [int(word) for word in file.read().split()]
    except OSError:
        return []


if __name__ == "__main__":
    main()
