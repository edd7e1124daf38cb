"""One attempt at a task: probe, operation, commands, verification, publication.

An attempt works in a folder of its own and changes nothing outside it until its result is whole
and checked. It knows neither the queue nor the store: it returns an `Outcome` or raises.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from twisted.internet.defer import DeferredList
from twisted.python.failure import Failure as DeferredFailure

from vidproc.errors import ErrorCode, ServiceError
from vidproc.ffmpeg.capabilities import Capabilities
from vidproc.ffmpeg.command import (
    SOURCE,
    Command,
    CommandFailed,
    CommandStopped,
    Completed,
    FailureKind,
    Progress,
    Workspace,
)
from vidproc.ffmpeg.media import MediaInfo
from vidproc.ffmpeg.probe import ProbeError, parse_probe, probe_command
from vidproc.files.data_folder import DataFolder, attempt_key, result_key
from vidproc.files.threads import WorkerThreads
from vidproc.operations.base import Operation, Product
from vidproc.operations.parameters import Parameters
from vidproc.runners.interface import Runner, RunningCommand
from vidproc.tasks.model import Task
from vidproc.tasks.verification import compare
from vidproc.text import escape
from vidproc.topics import Topic, TopicLogger

R = TypeVar("R")

_NOT_THE_FILES = frozenset(
    {FailureKind.REFUSED, FailureKind.OURS, FailureKind.KILLED, FailureKind.OOM_KILLED}
)
_MAX_WARNINGS = 50
_MAX_READ = 16 << 20


class StopReason(StrEnum):
    """Why an attempt is stopped from outside."""

    CANCELLED = "cancelled"
    TIMED_OUT = "timed out"
    STOPPING = "stopping"


class AttemptStopped(Exception):
    """The attempt was stopped from outside, for `reason`; its process has ended."""

    def __init__(self, reason: StopReason | None) -> None:
        super().__init__(reason)
        self.reason = reason


class Outgrown(Exception):
    """What the attempt wrote passed the space reserved for it, `reserved` bytes."""

    def __init__(self, reserved: int) -> None:
        super().__init__(f"it wrote more than the {reserved} bytes reserved for it")
        self.reserved = reserved


class Outcome(msgspec.Struct, kw_only=True, frozen=True):
    """A finished attempt's result, published; sizes in bytes."""

    output_key: str
    output_type: str
    output_size: int
    output_sha256: str
    input: dict[str, Any]
    output: dict[str, Any]
    warnings: list[str]


class Attempt:
    """Does the work of `task` once. Implements `vidproc.operations.base.Job` for its operation.

    `stage`, `progress` (0 to 1) and `speed` (times real time) say how far it is; `on_change` is
    called when the stage changes; `stop_reason` is why it was stopped.
    """

    log = TopicLogger(Topic.TASKS)

    media: MediaInfo

    def __init__(
        self,
        task: Task,
        operation: Operation[Any],
        parameters: Parameters,
        *,
        data_folder: DataFolder,
        disk: WorkerThreads,
        runner: Runner,
        capabilities: Capabilities,
        threads: int,
        started_at: float,
        on_change: Callable[[], None],
        reserve: Callable[[int], Awaitable[int]],
    ) -> None:
        self.task = task
        self.parameters = parameters
        self.threads = threads
        self.started_at = started_at
        self.capabilities = capabilities
        self.stage = "starting"
        self.progress = 0.0
        self.speed: float | None = None
        self.warnings = list(task.warnings)
        self.input: dict[str, Any] = {}
        self._running: list[RunningCommand] = []
        self._operation = operation
        self._data_folder = data_folder
        self._disk = disk
        self._runner = runner
        self._on_change = on_change
        self._reserve = reserve
        self._reserved: int | None = None
        self._outgrown = False
        self.stop_reason: StopReason | None = None
        self._done_share = 0.0
        self.folder_key = attempt_key(task.task_id, task.attempt)
        self._workspace = Workspace(task.input_key or "", self.folder_key)

    def stop(self, reason: StopReason) -> None:
        """Stop the attempt; `perform` then raises `AttemptStopped` when its process has ended."""
        if self.stop_reason is None:
            self.stop_reason = reason
            self._stop_commands()

    def _stop_commands(self) -> None:
        for running in list(self._running):
            try:
                running.stop()
            except Exception:
                self.log.failure(
                    "task {task_id}: a command can't be stopped", task_id=self.task.task_id
                )

    async def perform(self) -> Outcome:
        """Do the task; return what came of it.

        Raises `ServiceError` when it can't be done, `AttemptStopped` after `stop`, `Outgrown`,
        `OSError`, and what `reserve` raises.
        """
        await self._disk.call(self._data_folder.make_folder, self.folder_key)
        self.media = await self._probe(SOURCE, verify=False)
        self.input = self.media.summary()
        self._reserved = await self._reserve(
            self._operation.estimate_output(self.media, self.parameters)
        )
        self._set_stage("preparing")
        try:
            product = await self._operation.run(self)
        except CommandFailed as error:
            raise self._explain(error) from error
        output = await self._verify(product)
        self._set_stage("finishing")
        self._check_stopped()
        # From here on there is a result, and a cancel removes it as it does any other.
        key, size, digest = await self._disk.call(self._publish, product)
        return Outcome(
            output_key=key,
            output_type=product.media_type,
            output_size=size,
            output_sha256=digest,
            input=self.input,
            output={**output.summary(), **product.details, "bytes": size},
            warnings=self.warnings[:_MAX_WARNINGS],
        )

    # --- the Job that an operation sees -------------------------------------------------------

    async def run(self, command: Command) -> Completed:
        """Run a command; raises `CommandFailed` or `AttemptStopped`."""
        return (await self.run_together([command]))[0]

    async def run_together(self, commands: Sequence[Command]) -> list[Completed]:
        """Run commands at once; the first that fails has the others stopped."""
        self._check_stopped()
        self._set_stage(commands[0].stage)
        await self._write_files(commands)
        workspace = await self._bounded_workspace(len(commands))
        self._check_stopped()
        self.speed = None
        latest: dict[int, Progress] = {}

        def progressed(number: int, progress: Progress) -> None:
            latest[number] = progress
            self._progressed([(commands[n], each) for n, each in latest.items()])

        running: list[RunningCommand] = []
        fault: Exception | None = None
        try:
            for number, command in enumerate(commands):
                running.append(
                    self._runner.start(
                        command, workspace, self.threads, partial(progressed, number)
                    )
                )
                self._running.append(running[-1])
        except Exception as raised:
            fault = raised  # raised again when those that did start have ended

        def stop_the_others(failure: DeferredFailure) -> DeferredFailure:
            self._stop_commands()
            return failure

        for each in running:
            each.result.addErrback(stop_the_others)
        if fault is not None:
            self._stop_commands()
        ended: Any = await DeferredList([each.result for each in running], consumeErrors=True)
        self._running.clear()
        if fault is not None:
            raise fault
        if self._outgrown and self.stop_reason is None:
            raise Outgrown(self._reserved or 0)
        errors = [found.value for succeeded, found in ended if not succeeded]
        for error in errors:
            if not isinstance(error, CommandStopped):
                raise error
        if errors:
            raise AttemptStopped(self.stop_reason)
        self._check_stopped()
        self._done_share = min(0.99, self._done_share + sum(c.share for c in commands))
        self.progress = max(self.progress, self._done_share)
        completed: list[Completed] = [found for _, found in ended]
        self.log.debug(
            "task {task_id}: {stage} took {elapsed:.2f} s",
            task_id=self.task.task_id,
            stage=commands[0].stage,
            elapsed=max(each.elapsed for each in completed),
        )
        return completed

    async def _write_files(self, commands: Sequence[Command]) -> None:
        for command in commands:
            for name, contents in command.files:
                await self._disk.call(self._path(name).write_bytes, contents)
                self._check_stopped()

    def warn(self, sentence: str) -> None:
        """Tell the client something in a sentence, once."""
        if sentence not in self.warnings:
            self.warnings.append(sentence)

    def size_of(self, name: str) -> int:
        """Return the bytes of a file that a command of this attempt wrote."""
        return self._data_folder.size(self._workspace.key_of(name))

    async def examine(self, name: str, function: Callable[[bytes], R]) -> R:
        """Return what `function`, in a thread, makes of a file that a command has written."""

        def read() -> R:
            with self._path(name).open("rb") as file:
                return function(file.read(_MAX_READ))

        return await self._disk.call(read)

    # --- space --------------------------------------------------------------------------------

    async def _bounded_workspace(self, commands: int) -> Workspace:
        """Return the workspace with what is left of the reserved space, for commands run at once.

        The limit is one of single files; `check_growth` sees to all of them together.
        """
        if self._reserved is None:
            return self._workspace
        left = self._reserved - await self._disk.call(self._data_folder.size_below, self.folder_key)
        return replace(self._workspace, space=max(1, left // commands))

    async def check_growth(self) -> None:
        """Stop the attempt if its folder has passed the space reserved for it."""
        if self._reserved is None or not self._running or self._outgrown:
            return
        grown = await self._disk.call(self._data_folder.size_below, self.folder_key)
        if grown > self._reserved:
            self._outgrown = True
            self._stop_commands()

    # --- the steps ----------------------------------------------------------------------------

    def _path(self, name: str) -> Path:
        return self._data_folder.path(self._workspace.key_of(name))

    def _check_stopped(self) -> None:
        if self.stop_reason is not None:
            raise AttemptStopped(self.stop_reason)

    def _set_stage(self, stage: str) -> None:
        if stage != self.stage:
            self.stage = stage
            self._on_change()

    def _progressed(self, under_way: Sequence[tuple[Command, Progress]]) -> None:
        speeds = [progress.speed for _, progress in under_way if progress.speed is not None]
        self.speed = sum(speeds) if speeds else None
        done = self._done_share
        for command, progress in under_way:
            if command.duration and progress.out_time is not None:
                done += min(1.0, progress.out_time / command.duration) * command.share
        self.progress = max(self.progress, min(0.99, done))

    async def _probe(self, name: str, *, verify: bool) -> MediaInfo:
        try:
            completed = await self.run(probe_command(name, verify=verify))
            return await self._disk.call(self._parse_probe, completed.stdout, name)
        except CommandFailed as error:
            raise self._explain(error) from error
        except ProbeError as error:
            self.log.error(
                "task {task_id}: probe: {error}", task_id=self.task.task_id, error=str(error)
            )
            raise ServiceError(
                ErrorCode.UNSUPPORTED_MEDIA,
                "This file can't be read as a video.",
                "Check that it plays from start to end, or send it in another format.",
            ) from error

    def _parse_probe(self, answer: bytes, name: str) -> MediaInfo:
        """Return what a probe's answer about the file `name` says. For a thread."""
        return parse_probe(answer, self.size_of(name))

    async def _verify(self, product: Product) -> MediaInfo:
        """Look at the product as a player would; raises `ServiceError` when it is not whole."""
        if self.size_of(product.file) == 0:
            raise ServiceError(
                ErrorCode.UNSUPPORTED_MEDIA,
                "Nothing could be made from this file.",
                "Check that it plays from start to end, or send it in another format.",
            )
        try:
            found = await self._probe(product.file, verify=True)
        except ServiceError as error:
            self.log.error(
                "task {task_id}: the result can't be read: {error}",
                task_id=self.task.task_id,
                error=str(error),
            )
            raise ServiceError(
                ErrorCode.UNSUPPORTED_MEDIA,
                "The result made from this file can't be played, so it was thrown away.",
                "Check that the file plays from start to end, or send it in another format.",
            ) from error
        verdict = compare(found, product.expectation, self.media)
        if verdict.fault is not None:
            self.log.error(
                "task {task_id}: {fault}; {found}",
                task_id=self.task.task_id,
                fault=verdict.fault,
                found=found,
            )
            raise ServiceError(
                ErrorCode.UNSUPPORTED_MEDIA,
                f"The result made from this file is not right: {verdict.fault}.",
                "Check that the file plays from start to end, or send it in another format.",
            )
        if verdict.warning is not None:
            self.warn(verdict.warning)
        return found

    def _publish(self, product: Product) -> tuple[str, int, str]:
        source_key = self._workspace.key_of(product.file)
        if product.file == SOURCE:
            # The input stays until the store says that the task has ended: a crash before then
            # must find it.
            source_key = f"{self.folder_key}/{SOURCE}"
            self._data_folder.duplicate(self._workspace.source_key, source_key)
        digest = hashlib.sha256()
        path = self._data_folder.path(source_key)
        with path.open("rb") as file:
            while data := file.read(1 << 20):
                digest.update(data)
        key = result_key(self.task.task_id, product.media_type)
        size = path.stat().st_size
        self._data_folder.publish(source_key, key)
        return key, size, digest.hexdigest()

    def _explain(self, error: CommandFailed) -> Exception:
        """Turn a failed command into an error that helps its sender, and log what FFmpeg said.

        One that never really ran, or was killed, is no matter of the file's: it stays as it is.
        """
        tail = error.stderr_tail
        self.log.error(
            "task {task_id}: {error}: {tail}",
            task_id=self.task.task_id,
            error=str(error),
            tail=escape(tail[-2000:]),
        )
        if error.kind in _NOT_THE_FILES:
            return error
        if error.kind is FailureKind.OUTGROWN:
            return Outgrown(self._reserved or 0)
        if error.kind is FailureKind.SPACE:
            return ServiceError(
                ErrorCode.NO_SPACE,
                "The server ran out of room while it worked on this task.",
                "Try again later, or ask the server's operator for room.",
            )
        if error.kind is FailureKind.MEMORY:
            return too_much_memory()
        if error.kind is FailureKind.TIMED_OUT:
            return ServiceError(
                ErrorCode.TOO_LARGE,
                "The work on this file took more CPU time than the server gives one task.",
                "Send a shorter or smaller film.",
            )
        if error.kind is FailureKind.STALLED:
            return ServiceError(
                ErrorCode.TOO_LARGE,
                "The work on this file made no progress and was stopped.",
                "Check that the file plays from start to end, or send it in another format.",
            )
        return ServiceError(
            ErrorCode.UNSUPPORTED_MEDIA,
            f"FFmpeg could not process this file ({error.command.stage}: {error.reason}).",
            "Check that it plays from start to end, or send it in another format.",
        )


def too_much_memory() -> ServiceError:
    """Return the error of a file whose processing takes too much memory."""
    return ServiceError(
        ErrorCode.TOO_LARGE,
        "This file needs more memory than the server gives one task.",
        "Send a smaller or less unusual file.",
    )
