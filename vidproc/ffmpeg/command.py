"""A command: what to run, said without naming a machine.

Its arguments hold placeholders for files and for the thread count; the runner fills in paths and
numbers when it starts the command. What a command reads and writes besides, by a name that a
program makes up or reads in another file, it declares in `reads` and `writes`: it runs in a folder
where all of its files have their names. `input_file` and `output_file` give the placeholders:

    source = ffmpeg.input(input_file(SOURCE))
    graph = ffmpeg.output(
        source.video, output_file("result.mp4"), threads=THREADS, vcodec="libx264"
    )
    command = ffmpeg_command(graph, stage="encoding", duration=media.duration)
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal

Program = Literal["ffmpeg", "probe"]

SOURCE = "source"
"""The file name that stands for the task's input; every other name is in the attempt's folder."""

_INPUT = "vidproc-input:"
_OUTPUT = "vidproc-output:"
THREADS = "vidproc-threads"
"""Stands, anywhere within an argument, for the number of threads that the runner gives the
command; ``+N`` behind it adds to that number."""

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
class Command:
    """One program run.

    `arguments` are argv without the program; `stage` names the work for people ("encoding");
    `duration` is the seconds of output expected, for progress, None when unknown; `share` is the
    part of the whole task that this command is, 0 to 1; `cpus` says how many cores it can keep
    busy, which is its wish for threads; `memory` is an estimate of its need in bytes; `capture`
    keeps that many bytes of standard output for the caller. `reads` and `writes` name files that
    no argument names; `files` are those that must be there before, with their contents.

    A program may write the files that are named here, and no other. One that writes `writes` under
    other names, to rename them when they are whole, has `written_as` behind the names until then;
    the runner renames what is left.
    """

    program: Program
    arguments: tuple[str, ...]
    stage: str
    duration: float | None = None
    share: float = 1.0
    cpus: float = 64.0
    memory: int = 512 << 20
    capture: int = 0
    files: tuple[tuple[str, bytes], ...] = ()
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    written_as: str = ""

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of all files that it reads, each once."""
        named = (a[len(_INPUT) :] for a in self.arguments if a.startswith(_INPUT))
        return tuple(dict.fromkeys((*named, *self.reads)))

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of all files that it writes, each once."""
        named = (a[len(_OUTPUT) :] for a in self.arguments if a.startswith(_OUTPUT))
        return tuple(dict.fromkeys((*named, *self.writes)))

    def resolve(self, path_of: Callable[[str], str], threads: int) -> list[str]:
        """Return argv with every placeholder filled in; `path_of` maps a file name to its path."""

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
    """How a command ended well: what it wrote to standard output, the last lines of its standard
    error, how long it took and the CPU time it used, in seconds, its peak memory in bytes."""

    stdout: bytes
    stderr_tail: str
    elapsed: float
    cpu_time: float = 0.0
    peak_memory: int = 0


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a command is: seconds of output written, frames, and speed against real time."""

    out_time: float | None
    frame: int | None
    speed: float | None


class FailureKind(StrEnum):
    """Why a command failed."""

    INPUT = "input"
    """The program gave up: the file is damaged or unusual, or what was asked can't be done."""
    CRASHED = "crashed"
    """The program ended by a fault of its own (SIGSEGV and the like)."""
    MEMORY = "memory"
    """The program ran out of the memory that it may have."""
    KILLED = "killed"
    """A signal from outside ended the program, which says nothing about the file."""
    OOM_KILLED = "killed for memory"
    """The kernel was short of memory and ended the program; another one may have used it."""
    SPACE = "space"
    """The disk had no space for what it writes."""
    OUTGROWN = "outgrown"
    """It wrote more than the space that was given to it."""
    STALLED = "stalled"
    """It made no progress and used no CPU time, and was stopped."""
    TIMED_OUT = "timed out"
    """It used more CPU time than a command may."""
    RATE = "rate"
    """The encoder can't make the video fit the bit rate that was asked for."""
    REFUSED = "refused"
    """The program was not started, for lack of descriptors, processes or memory: try again."""
    OURS = "ours"
    """The program was never run, or could not be ended."""

    @property
    def may_be_the_files(self) -> bool:
        """Whether the file may be the reason, so that another way through it is worth trying."""
        return self in _MAY_BE_THE_FILES


_MAY_BE_THE_FILES = frozenset(
    {FailureKind.INPUT, FailureKind.CRASHED, FailureKind.MEMORY, FailureKind.RATE}
)


class CommandFailed(Exception):
    """A command ended badly.

    `kind` says why, for programs; `reason` in a few words, for people; `stderr_tail` is for our
    logs and may hold paths.
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


def ffmpeg_command(graph: Any, *, stage: str, **rest: Any) -> Command:
    """Return the Command of an ffmpeg-python output `graph` (or several merged outputs).

    Keyword arguments are the fields of `Command`. Placeholders in the graph are those of
    `input_file`, `output_file` and `THREADS`.
    """
    import ffmpeg

    arguments = tuple(str(argument) for argument in ffmpeg.get_args(graph))
    return Command(program="ffmpeg", arguments=arguments, stage=stage, **rest)


@dataclass(frozen=True, slots=True)
class Workspace:
    """Where a command's files are: storage keys of the task's input and of the attempt's folder.

    `space` is the most bytes that a command may write, None for no limit of its own.
    """

    source_key: str
    folder_key: str
    space: int | None = None

    def key_of(self, name: str) -> str:
        """Return the storage key of a command's file."""
        return self.source_key if name == SOURCE else f"{self.folder_key}/{name}"


OnProgress = Callable[[Progress], None]
