"""One run of the command: does what the options ask and returns an exit status."""

from __future__ import annotations

import logging
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from twisted.internet.defer import Deferred

from vidproc import __version__
from vidproc.client.client import Client
from vidproc.client.display import Display, write_line
from vidproc.client.errors import InputChanged
from vidproc.client.exit_status import DONE, FAILED
from vidproc.client.explain import explain
from vidproc.client.files import safe_stem
from vidproc.client.films import existing_result
from vidproc.client.next_steps import RunState
from vidproc.client.options import Options
from vidproc.client.source import Input, open_input
from vidproc.client.steps import Steps
from vidproc.client.texts import (
    cancel_sentence,
    held_block,
    info_block,
    list_lines,
    status_block,
    summary,
    unfinished_lines,
    warnings_of,
)
from vidproc.client.words import printable
from vidproc.reactor import IFullReactor
from vidproc.result_names import result_stem

if TYPE_CHECKING:
    from vidproc.client.early import EarlyUpload


class Session:
    """One run. `out` gets the result, `err` and `display` everything else.

    `client` and `display` can be given for tests; `reactor` runs it all. `early` is the upload, if
    it has begun.
    """

    def __init__(
        self,
        options: Options,
        reactor: IFullReactor,
        *,
        client: Client,
        display: Display,
        out: TextIO,
        err: TextIO,
        log: logging.Logger,
        early: EarlyUpload | None = None,
    ) -> None:
        self.options = options
        self._early = early
        self._client = client
        self._display = display
        self._out = out
        self._err = err
        self._log = log
        self._state = RunState(options, options.task_id, accepted=bool(options.task_id))
        self._running: Deferred[int] | None = None
        self._steps = Steps(options, reactor, client=client, display=display, log=log)

    def start(self) -> Deferred[int]:
        """Start; the result is the exit status. It never fails."""
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
            stem = f"{safe_stem(options.task_id)}_processed"
            path, _ = await self._download(options.task_id, stem)
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
        self._print_block(
            [
                *info_block(options.host, options.port, answer.fields),
                *held_block(options.held),
            ]
        )
        return DONE

    # --- processing a file

    async def _process(self) -> int:
        options = self.options
        assert options.input is not None
        if options.skip_existing:
            there = existing_result(options)
            if there is not None:
                self._say(f"Skipped: {printable(there)} exists already.")
                self._print(str(there))
                return DONE
        found = self._input()
        task_id = await self._upload(found)
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
        last = await self._steps.watch(task_id)
        if last.get("status") != "completed":
            return self._unfinished(last)
        self._state.finished = True
        details = await self._steps.details(task_id, last)
        for warning in warnings_of(details):
            self._display.line(f"Warning: {warning}")
        path, size = await self._download(task_id, result_stem(options.input.stem))
        self._display.close()
        self._say(summary(details, found.source.size, size))
        self._print(str(path))
        return DONE

    def _input(self) -> Input:
        """Return what to send, of which some may be gone already. Raises `InputChanged`."""
        if self._early is not None:
            return self._early.hand_over(self._log)
        try:
            return open_input(self.options, self._log)
        except OSError as error:
            raise InputChanged(f"The input file cannot be read: {error.strerror}") from None

    async def _upload(self, found: Input) -> str:
        """Upload the input, close it and return the task's ID."""
        resume = found.resume
        try:
            task_id = await self._steps.upload(found.source, resume, found.begun_id)
            resume.forget()
            return task_id
        finally:
            self._state.upload_kept = resume.kept
            found.close()

    async def _follow(self) -> int:
        task_id = self.options.task_id
        last = await self._steps.watch(task_id)
        if last.get("status") != "completed":
            return self._unfinished(last)
        details = await self._steps.details(task_id, last)
        self._display.close()
        for warning in warnings_of(details):
            self._say(f"Warning: {warning}")
        self._say(f"Fetch the result: {self._state.command('--download', task_id)}")
        self._print(f"{printable(task_id)}: completed")
        return DONE

    def _unfinished(self, last: dict[str, Any]) -> int:
        """Say why there is no result."""
        self._display.close()
        self._state.finished = True
        self._say(*unfinished_lines(last))
        return FAILED

    async def _download(self, task_id: str, stem: str) -> tuple[Path, int]:
        """Download a result; return its path and its size in bytes."""
        output, folder = self.options.output, self._state.folder
        if output is not None and output.is_dir():
            output = None
        fetch = self._steps.fetch(folder, output)
        return await fetch.fetch(task_id, stem), fetch.size

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
