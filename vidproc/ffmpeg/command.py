"""A command: what to run, without naming a machine.

Its arguments contain placeholders for files and for the thread count; the runner fills in paths and
numbers when it starts the command. Files whose names do not appear in the arguments, because a
program derives the name or reads it from another file, are declared in `reads` and `writes`; the
command runs in a folder where its files have those names. `input_file` and `output_file` return
placeholders:

    source = ffmpeg.input(input_file(SOURCE))
    graph = ffmpeg.output(
        source["v:0"], output_file("result.mp4"), threads=THREADS, vcodec="libx264"
    )
    command = ffmpeg_command(graph, stage="encoding", duration=media.duration)
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Literal, TypedDict, Unpack

if TYPE_CHECKING:
    from ffmpeg.nodes import OutputStream

Program = Literal["ffmpeg", "probe", "survey", "grain"]

SOURCE = "source"
"""The file name of the task's input; all other names are in the attempt's folder."""

_INPUT = "vidproc-input:"
_OUTPUT = "vidproc-output:"
THREADS = "vidproc-threads"
"""Within an argument, the number of threads that the runner gives the command; a following
``+N`` is added to it."""

_THREADS = re.compile(re.escape(THREADS) + r"(\+\d+)?")
_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")


def input_file(name: str) -> str:
    """Return the placeholder for reading the file `name`: `SOURCE` or an earlier output."""
    return _INPUT + _checked(name)


def output_file(name: str) -> str:
    """Return the placeholder for writing the file `name` in the attempt's folder."""
    return _OUTPUT + _checked(name)


def _checked(name: str) -> str:
    if _NAME.fullmatch(name) is None:
        raise ValueError(f"{name!r} is no name for a command's file")
    return name


@dataclass(frozen=True, slots=True)
class Part:
    """The part of `SOURCE` that a command reads: from `start` to `end`, in seconds from the
    container's start; None means the end of the file.

    `ranges` are the bytes, as (offset, end), that this takes: in a file of the full size that has
    only these, the command finds what it would find in the whole file. None if they are unknown.
    """

    start: float
    end: float | None = None
    ranges: tuple[tuple[int, int], ...] | None = None

    @property
    def size(self) -> int | None:
        """The bytes of `ranges`, None if they are unknown."""
        return None if self.ranges is None else sum(end - offset for offset, end in self.ranges)


@dataclass(frozen=True, slots=True)
class Command:
    """One run of a program.

    `arguments` are argv without the program. `stage` is a name of the work for people ("encoding").
    `duration` is the expected length of the output in seconds, for progress, or None if unknown.
    `weight` is the weight of this command in the task's progress, 0 to 1. `cpus` is how many cores
    it can keep busy, and so how many threads it wants. `memory` is an estimate of the memory that
    it needs, in bytes. `capture` is how many bytes of standard output are kept for the caller.
    `reads` and `writes` are files that do not appear in the arguments. `files` are files that must
    exist before, with their contents. `part` is the part of `SOURCE` that it reads, None if it may
    read all of it. `near` means that it computes little for the bytes that it moves, so that it is
    best run where its files are.

    A program may write no other files than these, and rename none. If it writes `writes` under
    temporary names, `written_as` is their suffix, and the runner renames them afterwards.
    """

    program: Program
    arguments: tuple[str, ...]
    stage: str
    duration: float | None = None
    weight: float = 1.0
    cpus: float = 64.0
    memory: int = 512 << 20
    capture: int = 0
    files: tuple[tuple[str, bytes], ...] = ()
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    written_as: str = ""
    part: Part | None = None
    near: bool = False

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of all files that it reads, without duplicates."""
        named = (a[len(_INPUT) :] for a in self.arguments if a.startswith(_INPUT))
        return tuple(dict.fromkeys((*named, *self.reads)))

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of all files that it writes, without duplicates."""
        named = (a[len(_OUTPUT) :] for a in self.arguments if a.startswith(_OUTPUT))
        return tuple(dict.fromkeys((*named, *self.writes)))

    def resolve(self, path_of: Callable[[str], str], threads: int) -> list[str]:
        """Return argv with all placeholders filled in; `path_of` maps a file name to its path."""

        def number(found: re.Match[str]) -> str:
            return str(threads + int(found[1] or 0))

        argv = []
        for argument in self.arguments:
            if argument.startswith(_INPUT):
                argv.append(path_of(argument[len(_INPUT) :]))
            elif argument.startswith(_OUTPUT):
                argv.append(path_of(argument[len(_OUTPUT) :]))
            else:
                argv.append(_THREADS.sub(number, argument))
        return argv


@dataclass(frozen=True, slots=True)
class Completed:
    """The result of a successful command: its standard output, the last lines of its standard
    error, the elapsed time and CPU time in seconds, and its peak memory in bytes."""

    stdout: bytes
    stderr_tail: str
    elapsed: float
    cpu_time: float = 0.0
    peak_memory: int = 0


@dataclass(frozen=True, slots=True)
class Progress:
    """The progress of a command: seconds of output written, frames, and speed relative to real
    time."""

    out_time: float | None
    frame: int | None
    speed: float | None


class FailureKind(StrEnum):
    """Why a command failed."""

    INPUT = "input"
    """The program gave up: the file is damaged or unusual, or the request is impossible."""
    CRASHED = "crashed"
    """The program crashed (SIGSEGV and the like)."""
    MEMORY = "memory"
    """The program reached its memory limit."""
    KILLED = "killed"
    """A signal from outside ended the program, which says nothing about the file."""
    OOM_KILLED = "killed for memory"
    """The kernel ran out of memory and killed the program; another program may have used it."""
    SPACE = "space"
    """The disk had no space for the output."""
    OUTGROWN = "outgrown"
    """It wrote more than the space that it was given."""
    STALLED = "stalled"
    """It made no progress and used no CPU time, and was stopped."""
    TIMED_OUT = "timed out"
    """It reached its CPU time limit."""
    RATE = "rate"
    """The encoder cannot reach the requested bit rate."""
    REFUSED = "refused"
    """The program was not started, for lack of descriptors, processes or memory: try again."""
    OURS = "ours"
    """The program could not be run, or could not be stopped."""

    @property
    def may_be_the_files(self) -> bool:
        """Whether the file may be the reason, so that it is worth trying another way."""
        return self in _MAY_BE_THE_FILES


_MAY_BE_THE_FILES = frozenset(
    {FailureKind.INPUT, FailureKind.CRASHED, FailureKind.MEMORY, FailureKind.RATE}
)


class CommandFailed(Exception):
    """A command failed.

    `kind` is the reason for programs and `reason` a short text for people; `stderr_tail` is for our
    logs and may contain paths.
    """

    def __init__(
        self,
        command: Command,
        reason: str,
        stderr_tail: str = "",
        *,
        kind: FailureKind = FailureKind.INPUT,
    ) -> None:
        super().__init__(f"{command.program} ({command.stage}): {reason}")
        self.command = command
        self.reason = reason
        self.stderr_tail = stderr_tail
        self.kind = kind


class CommandStopped(Exception):
    """A command was stopped on request (a cancel or a shutdown); its process has ended."""


class CommandFields(TypedDict, total=False):
    """Fields of `Command` that `ffmpeg_command` takes besides `stage`."""

    duration: float | None
    weight: float
    cpus: float
    memory: int
    capture: int
    files: tuple[tuple[str, bytes], ...]
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    written_as: str
    part: Part | None
    near: bool


def ffmpeg_command(graph: OutputStream, *, stage: str, **rest: Unpack[CommandFields]) -> Command:
    """Return the Command for an ffmpeg-python output `graph` (or several merged outputs).

    Keyword arguments are fields of `Command`. The graph contains the placeholders of `input_file`,
    `output_file` and `THREADS`.
    """
    import ffmpeg

    arguments = tuple(str(argument) for argument in ffmpeg.get_args(graph))
    return Command(program="ffmpeg", arguments=arguments, stage=stage, **rest)


@dataclass(frozen=True, slots=True)
class Workspace:
    """Where a command's files are: the storage keys of the task's input and of the attempt's
    folder.

    `space` is the maximum size of each file that it writes, or None for no additional limit.
    `request_id` is for the log lines about the command, here or on another machine.
    """

    source_key: str
    folder_key: str
    space: int | None = None
    request_id: str | None = None

    def key_of(self, name: str) -> str:
        """Return the storage key of a command's file."""
        return self.source_key if name == SOURCE else f"{self.folder_key}/{name}"


OnProgress = Callable[[Progress], None]
