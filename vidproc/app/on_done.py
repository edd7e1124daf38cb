"""`--on-done`: the operator's command, run once for each task that ends.

The commit that ends a task notes that the command must still be run for it; a second commit removes
the note before the command runs. So it runs at most once per task, and for a task that ended just
before a shutdown or a crash it runs at the next start.
"""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure

from vidproc.answers import StatusDetail
from vidproc.files.threads import WorkerThreads, when_fired
from vidproc.frontends.reports import status_report
from vidproc.reactor import IFullReactor
from vidproc.tasks.model import State, Task
from vidproc.tasks.store.on_done_rows import OnDoneRows
from vidproc.tasks.views import TaskView, view_of_ended
from vidproc.topics import Topic, TopicLogger

TIME_LIMIT = 60.0
"""Seconds that the command may take for a task."""
AT_A_TIME = 2
"""The most commands that run at a time."""
_KILL_DELAY = 10.0
"""Seconds after that until the command's supervisor is killed as well."""
_PIPES_DELAY = 2.0
"""Seconds for which the command's pipes are still read after its end."""
_MOST_OUTPUT = 2000
"""Bytes of the command's output that are kept for the log."""
_START = (sys.executable, "-I", "-S", "-B", str(Path(__file__).with_name("on_done_child.py")))


class TaskDone(StatusDetail, kw_only=True, omit_defaults=False):
    """What the command reads from standard input: the long status, and where the result is.

    `result_path` is absolute, null if there is no result.
    """

    result_path: str | None


class OnDone:
    """Runs `command`, a list of words, for each task that has ended. `path_of` returns the path of
    a storage key. `time_limit` is in seconds."""

    log = TopicLogger(Topic.TASKS)

    def __init__(
        self,
        reactor: IFullReactor,
        command: Sequence[str],
        rows: OnDoneRows,
        store_thread: WorkerThreads,
        path_of: Callable[[str], Path],
        time_limit: float = TIME_LIMIT,
    ) -> None:
        self._time_limit = time_limit
        self._reactor = reactor
        self._command = tuple(command)
        self._rows = rows
        self._store_thread = store_thread
        self._path_of = path_of
        self._waiting: deque[str] = deque()
        self._running: set[Deferred[None]] = set()
        self._stopping = False

    def start(self) -> None:
        """Start with the tasks that an earlier run left. Blocks; call it before the threads run."""
        self._waiting.extend(self._rows.all())
        self._fill()

    def ended(self, view: TaskView) -> None:
        """Note that a task has ended, and that this is in the store."""
        self._waiting.append(view.task.task_id)
        self._fill()

    async def stop(self) -> None:
        """Start no further command and wait for those that are running; the next start runs the
        rest."""
        self._stopping = True
        for running in list(self._running):
            await when_fired(running)

    def _fill(self) -> None:
        while self._waiting and len(self._running) < AT_A_TIME and not self._stopping:
            task_id = self._waiting.popleft()
            telling: Deferred[None] = ensureDeferred(self._tell(task_id))
            telling.addErrback(self._failed, task_id)
            self._running.add(telling)
            telling.addCallback(self._told, telling)

    def _told(self, _: object, telling: Deferred[None]) -> None:
        self._running.discard(telling)
        # Not directly: a thousand tasks in a row would be a thousand nested calls.
        self._reactor.callLater(0, self._fill)

    def _failed(self, failure: Failure, task_id: str) -> None:
        self.log.failure("task {task_id}: --on-done could not be told", failure, task_id=task_id)

    async def _tell(self, task_id: str) -> None:
        task = await self._store_thread.call(self._rows.take, task_id)
        if task is None:
            return
        ended: Deferred[tuple[int | None, bytes]] = Deferred()
        message = msgspec.json.encode(self._message(task)) + b"\n"
        command = _Command(self._reactor, message, self._time_limit, ended)
        arguments = [*_START, str(os.getpid()), *self._command]
        environment = {"PATH": os.environ.get("PATH", os.defpath)}
        self._reactor.spawnProcess(command, arguments[0], arguments, env=environment)
        status, output = await ended
        say = self.log.info if status == 0 else self.log.warn
        say(
            "task {task_id}: --on-done ended with status {status}{output}",
            task_id=task_id,
            request_id=task.request_id,
            status="unknown" if status is None else status,
            output=f": {output.decode(errors='replace').strip()}" if output.strip() else "",
        )

    def _message(self, task: Task) -> TaskDone:
        report = status_report(view_of_ended(task))
        path = None
        if task.state is State.COMPLETED and task.output_key is not None:
            path = str(self._path_of(task.output_key))
        fields = {name: getattr(report, name) for name in report.__struct_fields__}
        return TaskDone(**fields, result_path=path)


class _Command(ProcessProtocol):
    """One run of the command. `ended` fires with its exit status and the end of its output."""

    transport: Any

    def __init__(
        self,
        reactor: IFullReactor,
        message: bytes,
        time_limit: float,
        ended: Deferred[tuple[int | None, bytes]],
    ) -> None:
        self._time_limit = time_limit
        self._reactor = reactor
        self._message = message
        self._ended = ended
        self._output = b""

    def connectionMade(self) -> None:
        self._timer = self._reactor.callLater(self._time_limit, self._stop)
        self.transport.write(self._message)
        self.transport.closeStdin()

    def outReceived(self, data: bytes) -> None:
        self._output = (self._output + data)[-_MOST_OUTPUT:]

    errReceived = outReceived

    def processExited(self, reason: Failure) -> None:
        self._timer.cancel()
        # Read its output first, but a process that we can't kill may hold its pipes.
        self._timer = self._reactor.callLater(_PIPES_DELAY, self.transport.loseConnection)

    def processEnded(self, reason: Failure) -> None:
        if self._timer.active():
            self._timer.cancel()
        self._ended.callback((getattr(reason.value, "exitCode", None), self._output))

    def _stop(self) -> None:
        self._output += f"\nstopped after {self._time_limit:g} s".encode()
        self._timer = self._reactor.callLater(_KILL_DELAY, self.transport.signalProcess, "KILL")
        self.transport.signalProcess("TERM")
