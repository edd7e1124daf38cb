"""One run of the command: does what the options ask and returns an exit status."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThreadPool
from twisted.python.failure import Failure

from vidproc import __version__
from vidproc.client.client import Client
from vidproc.client.display import Display, write_line
from vidproc.client.errors import InputChanged, Refused, WaitOver
from vidproc.client.exit_status import DONE, FAILED
from vidproc.client.explain import explain
from vidproc.client.fetch import Fetch
from vidproc.client.files import Source, safe_stem
from vidproc.client.next_steps import RunState
from vidproc.client.options import Options
from vidproc.client.resume import REMEMBER_FROM, ResumeFile
from vidproc.client.texts import (
    cancel_sentence,
    info_block,
    list_lines,
    status_block,
    summary,
    unfinished_lines,
    warnings_of,
)
from vidproc.client.upload import UploadRequest
from vidproc.client.words import describe_status, printable

T = TypeVar("T")


class Session:
    """One run. `out` gets the result, `err` and `display` everything else.

    `client` and `display` can be given for tests; `reactor` runs it all.
    """

    def __init__(
        self,
        options: Options,
        reactor: Any,
        *,
        client: Client,
        display: Display,
        out: TextIO,
        err: TextIO,
        log: logging.Logger,
    ) -> None:
        self.options = options
        self._reactor = reactor
        self._client = client
        self._display = display
        self._out = out
        self._err = err
        self._log = log
        self._state = RunState(options, options.task_id, accepted=bool(options.task_id))
        self._running: Deferred[int] | None = None

    def start(self) -> Deferred[int]:
        """Begin; the result is the exit status. It never fails."""
        self._running = Deferred.fromCoroutine(self._run())
        return self._running

    def interrupt(self, signal_number: int = signal.SIGINT) -> None:
        """End the run early, as Ctrl-C does."""
        self._state.signal = signal_number
        if self._running is not None:
            self._running.cancel()

    async def _run(self) -> int:
        options = self.options
        self._log.info(
            "vidproc %s: %s %s at %s port %d",
            __version__,
            options.action,
            options.task_id or (f"{options.type} of {options.input}" if options.input else ""),
            options.host,
            options.port,
        )
        status = FAILED
        try:
            status = await self._act()
        except BaseException as error:
            if isinstance(error, GeneratorExit):
                raise
            self._display.close()
            status, lines = explain(error, self._state, self._log)
            self._say(*lines)
        finally:
            self._display.close()
            self._client.close()
        self._log.info("exit status %d", status)
        return status

    async def _act(self) -> int:
        options = self.options
        if options.action == "process":
            return await self._process()
        if options.action == "status":
            answer = await self._client.request("status", task_id=options.task_id, detail=True)
            self._print_block(status_block(options.task_id, answer.fields))
            return DONE
        if options.action == "watch":
            return await self._follow()
        if options.action == "download":
            path = await self._download(options.task_id, f"{safe_stem(options.task_id)}_processed")
            self._display.close()
            self._print(str(path))
            return DONE
        if options.action == "cancel":
            answer = await self._client.request("cancel", task_id=options.task_id)
            self._print(cancel_sentence(options.task_id, answer.fields))
            return DONE
        if options.action == "list":
            answer = await self._client.request("list")
            lines = list_lines(answer.fields)
            for line in lines:
                self._print(line)
            if not lines:
                self._say("There are no tasks of this token.")
            return DONE
        answer = await self._client.request("info", detail=True)
        self._print_block(info_block(options.host, options.port, answer.fields))
        return DONE

    # --- processing a file

    async def _process(self) -> int:
        options = self.options
        assert options.input is not None
        try:
            source = Source(options.input)
        except OSError as error:
            raise InputChanged(f"The input file can't be read: {error.strerror}") from None
        try:
            task_id = await self._upload(source)
        finally:
            source.close()
        self._state.task_id = task_id
        self._state.accepted = True
        self._log.info("accepted as task %s", task_id)
        if options.detach:
            self._display.close()
            self._say(
                "The server has accepted the task and works on it.",
                f"Watch it:         {self._state.command('--watch', task_id)}",
                f"Fetch the result: {self._state.command('--download', task_id)}",
            )
            self._print(printable(task_id))
            return DONE
        self._display.line(f"Accepted as task {printable(task_id)}")
        last = await self._watch(task_id)
        if last.get("status") != "completed":
            return self._unfinished(last)
        self._state.finished = True
        details = await self._details(task_id, last)
        for warning in warnings_of(details):
            self._display.line(f"Warning: {warning}")
        path = await self._download(task_id, f"{options.input.stem}_processed")
        self._display.close()
        self._say(summary(details, source.size, path.stat().st_size))
        self._print(str(path))
        return DONE

    async def _upload(self, source: Source) -> str:
        """Send the file, or what an earlier run of the same command did not; return the task."""
        options = self.options
        # No token: it may change between two runs, and has no place in a file of ours.
        request = {"type": options.type, "parameters": options.parameters}
        server = {"host": options.host, "port": options.port}
        resume = ResumeFile({**source.identity, **request, **server}, self._log)
        if source.size >= REMEMBER_FROM:
            resume.open()
        try:
            task_id = await self._client.upload(
                UploadRequest(
                    operation=options.type,
                    parameters=options.parameters,
                    file=source.file,
                    size=source.size,
                    media_type=source.media_type,
                    filename=source.label,
                    on_progress=lambda sent: self._display.upload(sent, source.size),
                    unchanged=source.unchanged,
                    earlier_id=resume.upload_id,
                    on_upload_id=resume.remember,
                    sha256=lambda: self._in_thread(source.sha256),
                )
            )
            resume.forget()
            return task_id
        except (InputChanged, Refused) as error:
            if isinstance(error, InputChanged) or error.for_good:
                resume.forget()
            raise
        finally:
            self._state.upload_kept = resume.kept
            resume.close()

    async def _follow(self) -> int:
        task_id = self.options.task_id
        last = await self._watch(task_id)
        if last.get("status") != "completed":
            return self._unfinished(last)
        details = await self._details(task_id, last)
        self._display.close()
        for warning in warnings_of(details):
            self._say(f"Warning: {warning}")
        self._say(f"Fetch the result: {self._state.command('--download', task_id)}")
        self._print(f"{printable(task_id)}: completed")
        return DONE

    async def _watch(self, task_id: str) -> dict[str, Any]:
        """Follow a task; raises `WaitOver` when the time for it has passed."""
        last_seen = ""

        def seen(fields: dict[str, Any]) -> None:
            nonlocal last_seen
            what = f"{fields.get('status')} {fields.get('stage') or ''}"
            if what != last_seen:
                self._log.info("task %s: %s", task_id, describe_status(fields))
                last_seen = what
            self._display.status(fields)

        # Once a second is what bars need, and what a poll of an old server costs at most.
        interval = min(1.0, max(0.1, self.options.check_interval))
        watching = Deferred.fromCoroutine(self._client.watch(task_id, interval, seen))
        return await watching.addTimeout(self.options.max_wait_time, self._reactor, _wait_over)

    def _unfinished(self, last: dict[str, Any]) -> int:
        """Say why there is no result."""
        self._display.close()
        self._state.finished = True
        self._say(*unfinished_lines(last))
        return FAILED

    async def _details(self, task_id: str, last: dict[str, Any]) -> dict[str, Any]:
        """Return the long form of a status; the short one where the server has no other."""
        try:
            answer = await self._client.request("status", task_id=task_id, detail=True)
        except Refused as refusal:
            self._log.warning("no details of the task: %s", refusal)
            return last
        return answer.fields

    # --- the result

    async def _download(self, task_id: str, stem: str) -> Path:
        """Fetch a result, check it, give it its name and return that."""
        fetch = Fetch(
            self._client,
            self._display,
            self._log,
            self._in_thread,
            folder=self._state.folder,
            output=self._output(),
            force=self.options.force,
        )
        return await fetch.fetch(task_id, stem)

    def _output(self) -> Path | None:
        output = self.options.output
        return None if output is None or output.is_dir() else output

    async def _in_thread(self, function: Callable[[], T]) -> T:
        pool = self._reactor.getThreadPool()
        result: T = await deferToThreadPool(self._reactor, pool, function)
        return result

    # --- saying it

    def _say(self, *lines: str) -> None:
        for line in lines:
            write_line(self._err, line)

    def _print(self, line: str) -> None:
        write_line(self._out, line)

    def _print_block(self, pairs: list[tuple[str, str]]) -> None:
        width = max((len(name) for name, value in pairs), default=0) + 1
        for name, value in pairs:
            self._print(f"{name + ':':<{width}} {value}".rstrip())


def _wait_over(result: dict[str, Any] | Failure, seconds: float) -> dict[str, Any]:
    """Say what a cancelled watch means; one that ended just then has a result all the same."""
    if isinstance(result, Failure):
        raise WaitOver("--max-wait-time passed")
    return result
