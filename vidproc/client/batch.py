"""Many videos in one run: as many at once as the server allows, and resumable at any point.

Each video has a resume file, whatever its size. It gets the upload_id before the first byte is
sent, the task ID as soon as the task is accepted, and the name and SHA-256 of the result before the
result gets that name. So the same command continues with what the server has, whatever ended the
last run, and does nothing twice. The files are removed when all videos are done.
"""

from __future__ import annotations

import logging
import signal
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TextIO

from twisted.internet.defer import Deferred, FirstError, gatherResults

from vidproc import __version__
from vidproc.client.batch_display import BatchDisplay
from vidproc.client.batch_report import Outcome, report_lines
from vidproc.client.batch_shared import Halt, Slots
from vidproc.client.batch_video import Video, resume_file_of
from vidproc.client.client import Client
from vidproc.client.display import write_line
from vidproc.client.errors import Refused
from vidproc.client.exit_status import DONE
from vidproc.client.explain import explain
from vidproc.client.link import RetryPolicy
from vidproc.client.next_steps import RunState
from vidproc.client.options import Film, Options
from vidproc.client.source import Source
from vidproc.client.words import printable
from vidproc.reactor import IFullReactor
from vidproc.resume import ResumeFile

MAX_AT_ONCE = 8
"""The most videos to upload or process at a time, even if the server allows more."""


class Batch:
    """Processes many videos. `out` gets the results' paths, `err` and `display` everything else.

    `connect` returns a client with its own connections; its argument is whether the server has
    answered before. `retry` says how long to wait for a slot.
    """

    def __init__(
        self,
        options: Options,
        reactor: IFullReactor,
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
        self._halt = Halt(options, log, self._queue.clear)
        self._signal = 0
        self._running: Deferred[int] | None = None
        self._began = 0.0

    def start(self) -> Deferred[int]:
        """Start; the result is the exit status. It never fails."""
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
            slots = Slots(self._reactor, at_once, self._retry)
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
            status, lines = explain(error, state, self._log)
            self._halt.reason = [] if self._signal else lines
            if not self._signal:
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
        for line in ["Interrupted."] if self._signal else self._halt.reason:
            write_line(self._err, line)
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
        """Ask the server how many tasks one address may have. Fails if it can't be reached."""
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
            return resume_file_of(film, source, self.options, self._log)
        finally:
            source.close()

    def _forget_all(self) -> None:
        for film in self.options.films:
            resume = self._resume_file(film)
            if resume is not None:
                resume.open(prune=False)
                resume.forget()
                resume.close()

    async def _worker(self, slots: Slots) -> None:
        while self._queue:
            number = self._queue.popleft()
            film = self.options.films[number]
            video = Video(
                film,
                self.options,
                self._reactor,
                client=self._connect(True),
                display=self._display.begin(number, film.path.name),
                log=self._log,
                slots=slots,
                halt=self._halt,
                on_waiting=partial(self._display.waiting, number),
                prune=number == 0,
            )
            outcome = await video.run()
            if self._signal and not outcome.finished and not outcome.lasting:
                outcome = Outcome(outcome.name, "interrupted", DONE)
            self._outcomes[number] = outcome
            self._display.ended(number, outcome)


async def _all(workers: list[Deferred[None]]) -> None:
    """Wait for all workers to end. A cancel goes to each of them."""
    together = gatherResults(workers, consumeErrors=True)
    try:
        await together
    except FirstError as error:
        error.subFailure.raiseException()
