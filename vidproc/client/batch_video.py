"""One video of a batch, from its file to its result."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from twisted.internet.defer import CancelledError

from vidproc.client.answer import TERMINAL
from vidproc.client.batch_report import Outcome, short_reason
from vidproc.client.batch_shared import Halt, Slots
from vidproc.client.client import Client
from vidproc.client.display import Display
from vidproc.client.errors import InputChanged, Refused
from vidproc.client.exit_status import DONE, FAILED, USAGE
from vidproc.client.explain import explain
from vidproc.client.films import existing_result
from vidproc.client.next_steps import RunState
from vidproc.client.options import Film, Options
from vidproc.client.source import Source, resume_file
from vidproc.client.steps import Steps
from vidproc.client.texts import unfinished_lines, warnings_of
from vidproc.client.words import printable
from vidproc.reactor import IFullReactor
from vidproc.resume import ResumeFile


def resume_file_of(film: Film, source: Source, options: Options, log: logging.Logger) -> ResumeFile:
    """Return the resume file of a batch's video: one for each result of the same input."""
    result = str(film.folder.absolute() / film.stem)
    return resume_file(options, source, log, result=result)


class Video:
    """Processes `film`. `on_waiting` is called with the reason when it must wait for a slot.

    `prune` is whether to remove old resume files.
    """

    def __init__(
        self,
        film: Film,
        options: Options,
        reactor: IFullReactor,
        *,
        client: Client,
        display: Display,
        log: logging.Logger,
        slots: Slots,
        halt: Halt,
        on_waiting: Callable[[str], None],
        prune: bool,
    ) -> None:
        own = replace(options, action="process", films=(), input=film.path, output=film.folder)
        self._film = film
        self._name = printable(film.path)
        self._options = options
        self._reactor = reactor
        self._client = client
        self._log = log
        self._slots = slots
        self._halt = halt
        self._on_waiting = on_waiting
        self._prune = prune
        self._state = RunState(own, "", accepted=False)
        self._steps = Steps(own, reactor, client=client, display=display, log=log)
        self._resume: ResumeFile | None = None
        self._warnings: list[str] = []

    async def run(self) -> Outcome:
        """Process the video. Never fails, so that the others continue."""
        began = self._reactor.seconds()
        if self._film.problem:
            return self._outcome("unreadable", USAGE, note=printable(self._film.problem))
        try:
            outcome = await self._process()
        except CancelledError:
            return self._outcome("interrupted", DONE)
        except Exception as error:
            self._state.upload_kept = self._resume is not None and self._resume.kept
            status, lines = explain(error, self._state, self._log)
            self._halt.consider(error)
            kind = "refused" if isinstance(error, Refused) else "failed"
            lasting = isinstance(error, Refused) and error.for_good
            outcome = self._outcome(kind, status, note=short_reason(lines), lasting=lasting)
        finally:
            self._client.close()
            if self._resume is not None:
                self._resume.close()
        outcome.seconds = self._reactor.seconds() - began
        outcome.warnings = self._warnings
        return outcome

    def _outcome(
        self, what: str, status: int, *, note: str = "", result: str = "", lasting: bool = False
    ) -> Outcome:
        return Outcome(self._name, what, status, note=note, result=result, lasting=lasting)

    async def _process(self) -> Outcome:
        options, film = self._options, self._film
        if options.skip_existing:
            there = existing_result(options, film)
            if there is not None:
                return self._outcome("skipped", DONE, note="the result exists", result=str(there))
        try:
            source = Source(film.path)
        except OSError as error:
            raise InputChanged(f"The input file cannot be read: {error.strerror}") from None
        try:
            resume = self._resume = resume_file_of(film, source, options, self._log)
            resume.open(prune=self._prune)
            if resume.locked_elsewhere:
                note = "another run of vidproc is processing this video"
                return self._outcome("left out", FAILED, note=note)
            earlier = None if options.force else await self._earlier_result(resume)
            if earlier is not None:
                return self._outcome("done earlier", DONE, result=str(earlier))
            for _ in range(2):
                outcome = await self._work(source, resume)
                if outcome is not None:
                    return outcome
                resume.forget()  # the server no longer has the result: start again
            raise Refused(
                410,
                "The result was removed from the server before it was fetched.",
                "Run the command again, or ask for a longer --retention of the server.",
                {},
            )
        finally:
            source.close()

    async def _earlier_result(self, resume: ResumeFile) -> Path | None:
        """Return the result that an earlier run finished, if it has not changed since."""
        if not resume.notes.get("result"):
            return None
        path = Path(resume.notes["result"])
        try:
            same = await self._steps.in_thread(lambda: _sha256(path)) == resume.notes.get("sha256")
        except OSError:
            same = False
        return path if same else None

    async def _work(self, source: Source, resume: ResumeFile) -> Outcome | None:
        """Upload, watch and download. Return None if the server no longer has the result."""
        steps, state = self._steps, self._state
        async with self._slots:
            if self._halt.reason:
                return self._outcome("not started", DONE)
            try:
                task_id = await self._earlier_task(resume) or await self._upload(source, resume)
                state.task_id, state.accepted = task_id, True
                resume.note(task_id=task_id)
                self._log.info("%s was accepted as task %s", self._name, task_id)
                if self._options.detach:
                    return self._outcome("accepted", DONE, result=printable(task_id))
                last = await steps.watch(task_id)
            except Exception as error:
                self._halt.consider(error)  # before another video takes the slot
                raise
        state.finished = True
        if last.get("status") != "completed":
            resume.forget()
            note = short_reason(unfinished_lines(last))
            return self._outcome("failed", FAILED, note=note, lasting=True)
        self._warnings = warnings_of(await steps.details(task_id, last))
        try:
            fetch = steps.fetch(
                self._film.folder,
                before_name=lambda target, sha256: resume.note(
                    result=str(target.absolute()), sha256=sha256
                ),
            )
            path = await fetch.fetch(task_id, self._film.stem)
        except Refused as refusal:
            if refusal.code not in (404, 410):
                raise
            return None
        outcome = self._outcome("done", DONE, result=str(path))
        outcome.size_in, outcome.size_out = source.size, fetch.size
        return outcome

    async def _earlier_task(self, resume: ResumeFile) -> str | None:
        """Return the task that an earlier run got for this video, if it may have a result."""
        task_id = resume.notes.get("task_id")
        if not task_id:
            return None
        try:
            answer = await self._client.request("status", task_id=task_id)
            ended = answer.fields.get("status") in TERMINAL - {"completed"}
        except Refused as refusal:
            if not refusal.for_good:
                raise
            ended = True
        if ended:
            resume.forget()
            return None
        return task_id

    async def _upload(self, source: Source, resume: ResumeFile) -> str:
        """Upload the video and return its task. Waits while the server has no slot for it."""
        refused = 0
        while True:
            try:
                return await self._steps.upload(source, resume)
            except Refused as refusal:
                # 507: when other videos are downloaded, the server has space again.
                full = refusal.code == 507 and self._slots.taken > 1
                if refusal.code not in (429, 503) and not full:
                    raise
                refused += 1
                seconds = self._slots.pause(refused)
                self._log.info("refused, next try in %.1f s: %s", seconds, refusal)
                self._on_waiting(printable(refusal.description))
                await self._slots.wait(seconds)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
