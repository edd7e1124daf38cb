"""One attempt at a task: probe, operation, commands, verification, publication.

An attempt works in a folder of its own and changes nothing outside it until its result is whole
and checked. It knows neither the queue nor the store: it returns an `Outcome` or raises.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from vidproc.errors import ServiceError
from vidproc.ffmpeg.capabilities import Capabilities
from vidproc.ffmpeg.command import (
    SOURCE,
    Command,
    CommandFailed,
    CommandStopped,
    Completed,
    FailureKind,
    Workspace,
)
from vidproc.ffmpeg.media import MediaInfo
from vidproc.ffmpeg.probe import ProbeError, parse_probe, probe_command
from vidproc.files.data_folder import DataFolder, attempt_key, result_key
from vidproc.files.threads import WorkerThreads
from vidproc.operations.base import Operation, Product
from vidproc.operations.parameters import Parameters
from vidproc.runners.interface import Runner
from vidproc.tasks.command_group import CommandGroup, UnderWay
from vidproc.tasks.model import Task
from vidproc.tasks.refused_files import (
    empty_result,
    explain_failure,
    not_a_video,
    unplayable_result,
    wrong_result,
)
from vidproc.tasks.verification import compare
from vidproc.text import escape
from vidproc.topics import Topic, TopicLogger

R = TypeVar("R")

_NOT_THE_FILES = frozenset(
    {FailureKind.REFUSED, FailureKind.OURS, FailureKind.KILLED, FailureKind.OOM_KILLED}
)
_MAX_WARNINGS = 50
_UNEVEN = 4
_MAX_READ = 16 << 20


class StopReason(StrEnum):
    """Why an attempt is stopped."""

    CANCELLED = "cancelled"
    TIMED_OUT = "timed out"
    STOPPING = "stopping"


class AttemptStopped(Exception):
    """The attempt was stopped for `reason`; its processes have ended."""

    def __init__(self, reason: StopReason | None) -> None:
        super().__init__(reason)
        self.reason = reason


class Outgrown(Exception):
    """The attempt wrote more than the `reserved` bytes that were reserved for it."""

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
    """Processes `task` once. Implements `vidproc.operations.base.Job` for its operation.

    `stage`, `progress` (0 to 1) and `speed` (times real time) say how far it is; `on_change` is
    called when the stage changes, `on_progress` when work has gone on; `stop_reason` is why it was
    stopped.
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
        on_progress: Callable[[], None] = lambda: None,
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
        self._group: CommandGroup | None = None
        self._operation = operation
        self._data_folder = data_folder
        self._disk = disk
        self._runner = runner
        self._on_change = on_change
        self._on_progress = on_progress
        self._reserve = reserve
        self._reserved: int | None = None
        self._outgrown = False
        self.stop_reason: StopReason | None = None
        self._done_weight = 0.0
        self.folder_key = attempt_key(task.task_id, task.attempt)
        self._workspace = Workspace(
            task.input_key or "", self.folder_key, request_id=task.request_id
        )

    def stop(self, reason: StopReason) -> None:
        """Stop the attempt; `perform` then raises `AttemptStopped` when its process has ended."""
        if self.stop_reason is None:
            self.stop_reason = reason
            self._stop_commands()

    def _stop_commands(self) -> None:
        if self._group is not None:
            self._group.stop()

    async def perform(self) -> Outcome:
        """Process the task; return the result.

        Raises `ServiceError` if it cannot be done, `AttemptStopped` after `stop`, `Outgrown`,
        `OSError`, and what `reserve` raises.
        """
        try:
            return await self._process()
        finally:
            self._runner.release(self._workspace)

    async def _process(self) -> Outcome:
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
        # From here on there is a result, and a cancel removes it like any other.
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
        """Run commands at once. When one fails, the others are stopped."""
        self._check_stopped()
        self._set_stage(commands[0].stage)
        await self._write_files(commands)
        writers = sum(bool(command.outputs) for command in commands)
        workspace = await self._bounded_workspace(max(1, writers))
        self._check_stopped()
        self.speed = None
        group = self._group = CommandGroup(
            self._runner, commands, workspace, self.threads, self._progressed
        )
        try:
            completed = await group.run()
        except (CommandFailed, CommandStopped) as error:
            self._check_outgrown()
            if isinstance(error, CommandStopped):
                raise AttemptStopped(self.stop_reason) from error
            raise
        finally:
            self._group = None
        self._check_outgrown()
        self._check_stopped()
        self._done_weight = min(0.99, self._done_weight + sum(c.weight for c in commands))
        self.progress = max(self.progress, self._done_weight)
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
        """Add a sentence to the task's warnings, unless it is there."""
        if sentence not in self.warnings:
            self.warnings.append(sentence)

    def size_of(self, name: str) -> int:
        """Return the size in bytes of a file that a command of this attempt has written."""
        return self._data_folder.size(self._workspace.key_of(name))

    async def examine(self, name: str, function: Callable[[bytes], R]) -> R:
        """Return the result of `function`, in a thread, on a file that a command has written."""

        def read() -> R:
            with self._path(name).open("rb") as file:
                return function(file.read(_MAX_READ))

        return await self._disk.call(read)

    # --- space --------------------------------------------------------------------------------

    async def _bounded_workspace(self, commands: int) -> Workspace:
        """Return the workspace with what is left of the reserved space, for commands run at once.

        With Landlock a command writes only the files that it names, and all of them together stay
        within this. Elsewhere it limits single files, and `check_growth` all of them together. Of
        many commands one may need more than the others: each may have `_UNEVEN` times its share.
        """
        if self._reserved is None:
            return self._workspace
        left = self._reserved - await self._disk.call(self._data_folder.size_below, self.folder_key)
        shares = max(min(commands, _UNEVEN), commands // _UNEVEN)
        return replace(self._workspace, space=max(1, left // shares))

    async def check_growth(self) -> None:
        """Stop the attempt if its folder has outgrown the space reserved for it."""
        if self._reserved is None or self._group is None or self._outgrown:
            return
        grown = await self._disk.call(self._data_folder.size_below, self.folder_key)
        if grown > self._reserved:
            self._outgrown = True
            self._stop_commands()

    def _check_outgrown(self) -> None:
        if self._outgrown and self.stop_reason is None:
            raise Outgrown(self._reserved or 0)

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

    def _progressed(self, under_way: UnderWay) -> None:
        speeds = [progress.speed for _, progress in under_way if progress.speed is not None]
        self.speed = sum(speeds) if speeds else None
        done = self._done_weight
        for command, progress in under_way:
            if command.duration and progress.out_time is not None:
                done += min(1.0, progress.out_time / command.duration) * command.weight
        self.progress = max(self.progress, min(0.99, done))
        self._on_progress()

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
            raise not_a_video() from error

    def _parse_probe(self, answer: bytes, name: str) -> MediaInfo:
        """Return what a probe's answer about the file `name` says. For a thread."""
        return parse_probe(answer, self.size_of(name))

    async def _verify(self, product: Product) -> MediaInfo:
        """Probe the product and compare it with what was expected; raises `ServiceError`."""
        if self.size_of(product.file) == 0:
            raise empty_result()
        try:
            found = await self._probe(product.file, verify=True)
        except ServiceError as error:
            self.log.error(
                "task {task_id}: the result can't be read: {error}",
                task_id=self.task.task_id,
                error=str(error),
            )
            raise unplayable_result() from error
        verdict = compare(found, product.expectation, self.media)
        if verdict.fault is not None:
            self.log.error(
                "task {task_id}: {fault}; {found}",
                task_id=self.task.task_id,
                fault=verdict.fault,
                found=found,
            )
            raise wrong_result(verdict.fault)
        if verdict.warning is not None:
            self.warn(verdict.warning)
        return found

    def _publish(self, product: Product) -> tuple[str, int, str]:
        source_key = self._workspace.key_of(product.file)
        if product.file == SOURCE:
            # The input stays until the task has ended in the store: after a crash before then it
            # is needed again.
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
        """Turn a failed command into an error that helps the client, and log FFmpeg's messages.

        A failure that the file did not cause is returned as it is.
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
        return explain_failure(error)
