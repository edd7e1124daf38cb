"""Forks a ready child for each file to probe: it has imported the probe, and PyAV, already.

`vidproc.runners.forking` runs it as ``python -I -S -B fork_server.py parent=PID import=PATH --
SCRIPT``, with a socket (`CONTROL`) on which each message of one byte asks for a child and brings
four descriptors: a pipe to read the job from, pipes for its standard output and error, and its
status pipe. A job is a command line of `vidproc.ffmpeg.launcher`, each word with a NUL at its end.
What comes on the status pipe:

    P<pid>;     from here: the child has been forked (if it cannot be, the pipe is closed)
    . or !      from the child's launcher: the script starts, or cannot
    E<status>;  from here: it has ended, with this wait status

The child is what the launcher would have made of the same job, under the same layers, which it
enters before it opens its file. It needs no execve, so the seccomp filter refuses that.

This process never reads a job: whatever is in its memory is in that of all its later children, and
an exploited decoder could read there which files came before. For the same reason it is started
with an empty environment and knows nothing of the server. All its children have the same address
layout, so the server replaces it after a child has crashed, and from time to time.

An ended child stays a zombie until the server has closed the status pipe: until then its process ID
is nobody else's. When the socket is closed, this process ends with its last child.
"""

import fcntl
import gc
import importlib.machinery
import importlib.util
import os
import select
import socket
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from vidproc.ffmpeg import launcher
else:
    _path = f"{os.path.dirname(__file__)}/launcher.py"  # noqa: PTH120
    _loader = importlib.machinery.SourceFileLoader("launcher", _path)
    launcher = importlib.util.module_from_spec(importlib.machinery.ModuleSpec("launcher", _loader))
    _loader.exec_module(launcher)

CONTROL = 3
"""The descriptor of the socket on which children are asked for."""
READY = 4
"""The descriptor on which a child's launcher reports, as in its job."""
_ABOVE = 16
_OPEN_FILES = 1024
_MOST_CHILDREN = 256  # two descriptors each, while they run
_DESCRIPTORS = 4
_TAKE_AT_ONCE = 16


class ForkServer:
    """Forks children that call `run` in a sandbox."""

    def __init__(self, control: socket.socket, run: "Callable[[], None]") -> None:
        self._control: socket.socket | None = control
        self._run = run
        self._poll = select.poll()
        self._poll.register(control, select.POLLIN)
        self._running: dict[int, tuple[int, int]] = {}  # pidfd: process, status pipe
        self._ended: dict[int, int] = {}  # status pipe: process

    def serve(self) -> None:
        """Fork until the socket is closed and the last child has ended."""
        while self._control is not None or self._running or self._ended:
            for fd, _ in self._poll.poll():
                if fd in self._running:
                    self._tell_end(fd)
                elif fd in self._ended:
                    self._forget(fd)
                elif self._control is not None and fd == self._control.fileno():
                    self._take(self._control)

    def _take(self, control: socket.socket) -> None:
        message, descriptors, _, _ = socket.recv_fds(control, _TAKE_AT_ONCE, _DESCRIPTORS)
        try:
            if not message:
                self._poll.unregister(control)
                control.close()
                self._control = None
            elif len(descriptors) == _DESCRIPTORS:
                self._fork(*descriptors)
        finally:
            for fd in descriptors:
                os.close(fd)

    def _fork(self, job: int, output: int, error: int, status: int) -> None:
        server = os.getpid()
        if len(self._running) + len(self._ended) >= _MOST_CHILDREN:
            return
        try:
            pid = os.fork()
        except OSError:
            return
        if pid == 0:
            become_child(server, job, output, error, status, self._run)
        tell(status, f"P{pid};")
        ours = os.dup(status)
        watch = os.pidfd_open(pid)
        self._running[watch] = (pid, ours)
        self._poll.register(watch, select.POLLIN)

    def _tell_end(self, watch: int) -> None:
        pid, status = self._running.pop(watch)
        self._poll.unregister(watch)
        os.close(watch)
        ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        assert ended is not None
        how = ended.si_status << 8 if ended.si_code == os.CLD_EXITED else ended.si_status
        tell(status, f"E{how};")
        self._ended[status] = pid
        self._poll.register(status, 0)  # an error comes once the server has closed its end

    def _forget(self, status: int) -> None:
        self._poll.unregister(status)
        os.close(status)
        os.waitpid(self._ended.pop(status), 0)


def tell(status: int, word: str) -> None:
    """Write to a status pipe; a server that has closed it does not want to know."""
    try:
        os.write(status, word.encode())
    except (BrokenPipeError, BlockingIOError):
        pass


def become_child(
    server: int, job: int, output: int, error: int, status: int, run: "Callable[[], None]"
) -> None:
    """Take the job and do it, in this new process; never returns."""
    end = 1
    try:
        # Away from the numbers that they shall have.
        job, output, error, status = (
            fcntl.fcntl(fd, fcntl.F_DUPFD, _ABOVE) for fd in (job, output, error, status)
        )
        os.dup2(output, 1)
        os.dup2(error, 2)
        os.dup2(status, READY)
        words = _read_all(job).decode("utf-8", "surrogateescape").split("\0")[:-1]
        os.closerange(CONTROL, READY)
        os.closerange(READY + 1, _OPEN_FILES)
        settings, argv = launcher.parse(words)
        settings["parent"] = [str(server)]
        settings["ready"] = [str(READY)]  # which the script does not get
        launcher.run_in_layers(settings, argv, run)
        end = 0
    except SystemExit as exit:
        if isinstance(exit.code, str):
            sys.stderr.write(f"{exit.code}\n")
        else:
            end = exit.code or 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(end)


def _read_all(fd: int) -> bytes:
    data = b""
    while more := os.read(fd, 1 << 16):
        data += more
    return data


def main() -> None:
    """Import the script, and serve."""
    settings, script = launcher.parse(sys.argv[1:])
    os.setsid()
    launcher.apply_limits({"RLIMIT_CORE": 0, "RLIMIT_NOFILE": _OPEN_FILES})
    launcher.offer_to_the_oom_killer()
    launcher.die_with(settings.get("parent", []))
    with socket.socket(fileno=CONTROL) as control:
        run = launcher.load(script, settings.get("import", []))
        gc.collect()
        gc.freeze()  # else the first collection of each child would copy these objects' pages
        ForkServer(control, run).serve()


if __name__ == "__main__":
    main()
