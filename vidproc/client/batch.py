"""Many videos in one run: as many at once as the server allows, and resumable at any point.

Each video has a resume file, whatever its size: its upload_id before the first byte, its task as
soon as it is accepted, and the name and SHA-256 of its result before the result gets that name. So
the same command, after any kind of end, goes on with what is at the server and does nothing twice.
The files are removed when all videos are done.
"""

from __future__ import annotations

import hashlib
import logging
import signal
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TextIO

from twisted.internet.defer import (
    CancelledError,
    Deferred,
    DeferredSemaphore,
    FirstError,
    gatherResults,
)

from vidproc import __version__
from vidproc.client.answer import TERMINAL
from vidproc.client.batch_display import BatchDisplay
from vidproc.client.batch_report import Outcome, report_lines, short_reason
from vidproc.client.client import Client
from vidproc.client.display import write_line
from vidproc.client.errors import ConnectFailed, InputChanged, LostForGood, Refused
from vidproc.client.exit_status import DONE, FAILED, USAGE
from vidproc.client.explain import explain
from vidproc.client.files import Source
from vidproc.client.films import existing_result
from vidproc.client.link import RetryPolicy
from vidproc.client.next_steps import RunState
from vidproc.client.options import Film, Options
from vidproc.client.resume import ResumeFile
from vidproc.client.steps import Steps, resume_file
from vidproc.client.texts import unfinished_lines, warnings_of
from vidproc.client.words import printable

MAX_AT_ONCE = 8
"""Videos uploading or in work at a time, at most, whatever the server allows."""


@dataclass
class _Under:
    """A video in work: its place in the list and how far it is."""

    number: int
    film: Film
    state: RunState
    steps: Steps
    client: Client
    resume: ResumeFile | None = None
    warnings: list[str] = field(default_factory=list)


class Batch:
    """One run over many videos. `out` gets the results' paths, `err` and `display` all else.

    `connect` returns a client with connections of its own; it is told whether the server has
    answered before. `retry` says how long to wait for a slot.
    """

    def __init__(
        self,
        options: Options,
        reactor: Any,
        *,
        connect: Callable[[bool], Client],
        display: BatchDisplay,
        out: TextIO,
        err: TextIO,
        log: logging.Logger,
        retry: RetryPolicy | None = None,
    ) -> None:
        self.options = options
        self._reactor = reactor
        self._connect = connect
        self._display = display
        self._out = out
        self._err = err
        self._log = log
        self._retry = retry or RetryPolicy(cap=15.0)
        self._outcomes: dict[int, Outcome] = {}
        self._queue: deque[int] = deque()
        self._waiting: set[Deferred[None]] = set()
        self._in_work = 0
        self._signal = 0
        self._halted: list[str] = []
        self._running: Deferred[int] | None = None
        self._began = 0.0

    def start(self) -> Deferred[int]:
        """Begin; the result is the exit status. It never fails."""
        self._running = Deferred.fromCoroutine(self._run())
        return self._running

    def interrupt(self, signal_number: int = signal.SIGINT) -> None:
        """End the run early, as Ctrl-C does. What the server has accepted continues there."""
        self._signal = signal_number
        self._queue.clear()
        if self._running is not None:
            self._running.cancel()

    async def _run(self) -> int:
        options = self.options
        films = options.films
        self._log.info(
            "vidproc %s: %s of %d videos at %s port %d",
            __version__,
            options.type,
            len(films),
            options.host,
            options.port,
        )
        self._began = self._reactor.seconds()
        try:
            at_once = await self._at_once()
            self._queue.extend(self._order())
            slots = DeferredSemaphore(at_once)
            # One more than there are slots: it downloads while the next one is sent.
            workers = [
                Deferred.fromCoroutine(self._worker(slots))
                for _ in range(min(at_once + 1, len(films)))
            ]
            await _all(workers)
        except BaseException as error:
            if isinstance(error, GeneratorExit):
                raise
            state = RunState(options, "", accepted=False, signal=self._signal)
            status, self._halted = explain(error, state, self._log)
            if self._signal:
                self._halted = []
            else:
                self._outcomes.setdefault(-1, Outcome("", "", status))
        return self._end()

    def _end(self) -> int:
        self._display.close()
        outcomes = [
            self._outcomes.get(number) or Outcome(printable(film.path), "not started", DONE)
            for number, film in enumerate(self.options.films)
        ]
        done = all(one.finished for one in outcomes)
        if done:
            self._forget_all()
        seconds = self._reactor.seconds() - self._began
        for line in report_lines(outcomes, seconds):
            write_line(self._err, line)
        for line in self._halted:
            write_line(self._err, line)
        if self._signal:
            write_line(self._err, "Interrupted.")
        if not all(one.finished or one.lasting for one in outcomes):
            write_line(
                self._err,
                "Run the same command again to continue: finished videos are not processed again.",
            )
        for one in outcomes:
            if one.result:
                write_line(self._out, one.result)
        status = max(one.exit_status for one in [*outcomes, *self._outcomes.values()])
        status = 128 + self._signal if self._signal else status
        self._log.info("exit status %d", status)
        return status

    async def _at_once(self) -> int:
        """Ask the server how many tasks one address may have. Fails if it cannot be reached."""
        client = self._connect(False)
        try:
            answer = await client.request("info", detail=True)
        except Refused as refusal:
            self._log.info("no limits known: %s", refusal)
            return 1
        finally:
            client.close()
        limits = answer.fields.get("limits")
        limit = limits.get("tasks_per_ip") if isinstance(limits, dict) else None
        return min(MAX_AT_ONCE, limit) if isinstance(limit, int) and limit > 0 else 1

    def _order(self) -> list[int]:
        """Return the videos' numbers: first those that the server has, which hold its slots."""
        known, unknown = [], []
        for number, film in enumerate(self.options.films):
            resume = self._resume_file(film)
            if resume is not None and resume.peek().get("task_id"):
                known.append(number)
            else:
                unknown.append(number)
        return known + unknown

    def _resume_file(self, film: Film) -> ResumeFile | None:
        try:
            source = Source(film.path)
        except OSError:
            return None
        try:
            return resume_file(self.options, source, self._log, **_place(film))
        finally:
            source.close()

    def _forget_all(self) -> None:
        for film in self.options.films:
            resume = self._resume_file(film)
            if resume is not None:
                resume.open(prune=False)
                resume.forget()
                resume.close()

    async def _worker(self, slots: DeferredSemaphore) -> None:
        while self._queue:
            number = self._queue.popleft()
            film = self.options.films[number]
            client = self._connect(True)
            display = self._display.begin(number, film.path.name)
            options = replace(
                self.options, action="process", films=(), input=film.path, output=film.folder
            )
            one = _Under(
                number,
                film,
                RunState(options, "", accepted=False),
                Steps(options, self._reactor, client=client, display=display, log=self._log),
                client,
            )
            try:
                outcome = await self._outcome(one, slots)
            finally:
                client.close()
                if one.resume is not None:
                    one.resume.close()
            self._outcomes[number] = outcome
            self._display.ended(number, outcome)

    async def _outcome(self, one: _Under, slots: DeferredSemaphore) -> Outcome:
        """Do one video; whatever becomes of it, the others go on."""
        name = printable(one.film.path)
        began = self._reactor.seconds()
        if one.film.problem:
            return Outcome(name, "unreadable", USAGE, note=printable(one.film.problem))
        try:
            outcome = await self._process(one, slots)
        except CancelledError:
            return Outcome(name, "interrupted", DONE)
        except Exception as error:
            if self._signal:
                return Outcome(name, "interrupted", DONE)
            one.state.upload_kept = one.resume is not None and one.resume.kept
            status, lines = explain(error, one.state, self._log)
            self._halt_on(error)
            kind = "refused" if isinstance(error, Refused) else "failed"
            lasting = isinstance(error, Refused) and error.for_good
            outcome = Outcome(name, kind, status, note=short_reason(lines), lasting=lasting)
        outcome.seconds = self._reactor.seconds() - began
        outcome.warnings = one.warnings
        return outcome

    def _halt_on(self, error: Exception) -> None:
        """Begin no other video if the same would happen to all that follow."""
        lasting = isinstance(error, Refused) and error.code == 401
        if not lasting and not isinstance(error, ConnectFailed | LostForGood):
            return
        self._queue.clear()
        if not self._halted:
            _, lines = explain(error, RunState(self.options, "", accepted=False), self._log)
            # Only the reason; the way to go on is said at the end.
            self._halted = lines[: 2 if lasting else 1]

    async def _process(self, one: _Under, slots: DeferredSemaphore) -> Outcome:
        options, film, name = self.options, one.film, printable(one.film.path)
        if options.skip_existing:
            there = existing_result(options, film)
            if there is not None:
                return Outcome(name, "skipped", DONE, note="the result exists", result=str(there))
        try:
            source = Source(film.path)
        except OSError as error:
            raise InputChanged(f"The input file cannot be read: {error.strerror}") from None
        try:
            resume = one.resume = resume_file(self.options, source, self._log, **_place(film))
            resume.open(prune=one.number == 0)
            if resume.locked_elsewhere:
                note = "another run of vidproc is processing this video"
                return Outcome(name, "left out", FAILED, note=note)
            earlier = None if options.force else await self._earlier_result(one)
            if earlier is not None:
                return Outcome(name, "done earlier", DONE, result=str(earlier))
            for _ in range(2):
                outcome = await self._work(one, source, slots)
                if outcome is not None:
                    return outcome
                resume.forget()  # the server no longer has the result: from the start
            raise Refused(
                410,
                "The result was removed from the server before it was fetched.",
                "Run the command again, or ask for a longer --retention of the server.",
                {},
            )
        finally:
            source.close()

    async def _earlier_result(self, one: _Under) -> Path | None:
        """Return the result that an earlier run finished, if it is still what it was."""
        notes = one.resume.notes if one.resume is not None else {}
        if not notes.get("result"):
            return None
        path = Path(notes["result"])
        try:
            same = await one.steps.in_thread(lambda: _sha256(path)) == notes.get("sha256")
        except OSError:
            same = False
        return path if same else None

    async def _work(self, one: _Under, source: Source, slots: DeferredSemaphore) -> Outcome | None:
        """Upload, watch and download; None if the server had the result, and has it no more."""
        steps, state, resume, name = one.steps, one.state, one.resume, printable(one.film.path)
        assert resume is not None
        await slots.acquire()
        self._in_work += 1
        try:
            if self._halted:
                return Outcome(name, "not started", DONE)
            task_id = await self._earlier_task(one) or await self._accepted(one, source)
            state.task_id, state.accepted = task_id, True
            resume.note(task_id=task_id)
            self._log.info("%s was accepted as task %s", name, task_id)
            if self.options.detach:
                return Outcome(name, "accepted", DONE, result=printable(task_id))
            last = await steps.watch(task_id)
        except Exception as error:
            self._halt_on(error)  # before another video takes the slot
            raise
        finally:
            self._in_work -= 1
            slots.release()
            self._wake()
        if last.get("status") != "completed":
            state.finished = True
            resume.forget()
            note = short_reason(unfinished_lines(last))
            return Outcome(name, "failed", FAILED, note=note, lasting=True)
        state.finished = True
        details = await steps.details(task_id, last)
        one.warnings = warnings_of(details)
        try:
            fetch = steps.fetch(
                one.film.folder,
                before_name=lambda target, sha256: resume.note(
                    result=str(target.absolute()), sha256=sha256
                ),
            )
            path = await fetch.fetch(task_id, one.film.stem)
        except Refused as refusal:
            if refusal.code not in (404, 410):
                raise
            return None
        outcome = Outcome(name, "done", DONE, result=str(path))
        outcome.size_in, outcome.size_out = source.size, path.stat().st_size
        return outcome

    async def _earlier_task(self, one: _Under) -> str | None:
        """Return the task that an earlier run got for this video, if it may have a result."""
        task_id = one.resume.notes.get("task_id") if one.resume is not None else None
        if not task_id or one.resume is None:
            return None
        try:
            answer = await one.client.request("status", task_id=task_id)
            ended = answer.fields.get("status") in TERMINAL - {"completed"}
        except Refused as refusal:
            if not refusal.for_good:
                raise
            ended = True
        if ended:
            one.resume.forget()
            return None
        return task_id

    async def _accepted(self, one: _Under, source: Source) -> str:
        """Send a video and return its task; waits as long as the server has no slot for it."""
        assert one.resume is not None
        refused = 0
        while True:
            try:
                return await one.steps.upload(source, one.resume)
            except Refused as refusal:
                # 507: what is downloaded makes room at the server.
                if not (refusal.code in (429, 503) or (refusal.code == 507 and self._in_work > 1)):
                    raise
                refused += 1
                seconds = self._retry.pause(refused)
                self._log.info("refused, next try in %.1f s: %s", seconds, refusal)
                self._display.waiting(one.number, printable(refusal.description))
                await self._pause(seconds)

    async def _pause(self, seconds: float) -> None:
        """Wait; shorter if one of our own videos ends, which may free what we wait for."""
        waiting: Deferred[None] = Deferred()
        self._waiting.add(waiting)
        call = self._reactor.callLater(seconds, waiting.callback, None)
        try:
            await waiting
        finally:
            self._waiting.discard(waiting)
            if call.active():
                call.cancel()

    def _wake(self) -> None:
        for waiting in list(self._waiting):
            if not waiting.called:
                waiting.callback(None)


def _place(film: Film) -> dict[str, str]:
    return {"result": str(film.folder.absolute() / film.stem)}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


async def _all(workers: list[Deferred[None]]) -> None:
    """Wait for all workers to end. A cancel goes to each of them."""
    together = gatherResults(workers, consumeErrors=True)
    try:
        await together
    except FirstError as error:
        error.subFailure.raiseException()
