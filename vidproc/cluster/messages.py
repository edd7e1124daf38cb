"""What travels between the server and a worker: bytes of msgpack, never pickled objects."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from vidproc import __version__
from vidproc.cluster.digest import Digest
from vidproc.ffmpeg.binary import FFmpeg
from vidproc.ffmpeg.command import Command, Part

PROTOCOL = 3
"""Raised when these messages change their meaning."""
_LEAST_OUTPUT = 16 << 20


class ShippedFile(msgspec.Struct, frozen=True):
    """A file that a command reads: an object, or `data` if it is small.

    `blocks` is the object with its blocks' digests, for reading only the bytes `ranges`.
    """

    name: str
    digest: Digest
    key: str = ""
    data: bytes | None = None
    blocks: str = ""
    ranges: tuple[tuple[int, int], ...] | None = None


class MadeFile(msgspec.Struct, frozen=True):
    """A file that a command wrote, as an object."""

    name: str
    key: str
    digest: Digest


class RemoteCommand(msgspec.Struct, frozen=True):
    """The fields of a `Command` that its runner needs."""

    program: str
    arguments: tuple[str, ...]
    stage: str
    duration: float | None
    cpus: float
    memory: int
    capture: int
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    written_as: str


class Order(msgspec.Struct, frozen=True):
    """A command for a worker: `prefix` is where its outputs go, `topic` where its reports go."""

    key: str
    prefix: str
    topic: str
    command: RemoteCommand
    inputs: tuple[ShippedFile, ...]
    threads: int
    space: int | None
    file_size: int
    cpu_time: int
    request_id: str | None = None


class Outcome(msgspec.Struct, frozen=True):
    """How a command ended on a worker.

    `failed` is the command's own failure, with its `kind`; `unable` says that the worker could not
    run it (its disk is full, the object store is away), which says nothing about the command.
    """

    state: Literal["completed", "failed", "stopped", "unable"]
    reason: str = ""
    kind: str = ""
    stdout: bytes = b""
    stderr_tail: str = ""
    elapsed: float = 0.0
    cpu_time: float = 0.0
    peak_memory: int = 0
    outputs: tuple[MadeFile, ...] = ()
    fetched: int = 0
    """Bytes that were fetched for it."""
    fetching: float = 0.0
    storing: float = 0.0
    """Seconds that fetching its inputs and putting its outputs took."""
    bad_inputs: bool = False
    """With `unable`: its inputs are not in the store, or damaged there."""


class WorkerFacts(msgspec.Struct, frozen=True):
    """What a worker says about itself. Memory in bytes."""

    id: str
    host: str
    pid: int
    version: str
    protocol: int
    ffmpeg: str
    features: str
    """A digest of the names of its FFmpeg's encoders and filters."""
    layers: tuple[str, ...]
    cores: int
    memory: int


class WorkerState(msgspec.Struct, frozen=True):
    """What changes about a worker: whether it takes commands, and its free scratch in bytes."""

    taking: bool
    scratch: int


class Report(msgspec.Struct, frozen=True):
    """The progress of a command: `key`, and the fields of `Progress`."""

    key: str
    out_time: float | None = None
    frame: int | None = None
    speed: float | None = None
    began: bool = False
    """Whether the program has started; before that, files are fetched."""


def remote(command: Command) -> RemoteCommand:
    """Return what a worker must know of a command."""
    return RemoteCommand(
        **{name: getattr(command, name) for name in RemoteCommand.__struct_fields__}
    )


def local(command: RemoteCommand, part: Part | None = None) -> Command:
    """Return the `Command` that a worker runs."""
    fields: dict[str, Any] = msgspec.structs.asdict(command)
    return Command(**fields, part=part)


def bytes_of(files: Sequence[ShippedFile]) -> int:
    """Return the bytes of scratch that inputs take on a worker."""
    return sum(
        file.digest.size if file.ranges is None else sum(end - start for start, end in file.ranges)
        for file in files
    )


def expected_output(inputs: Sequence[ShippedFile], file_size: int, space: int | None) -> int:
    """Return the bytes of scratch to keep free for a command's outputs.

    `file_size` and `space`, which limit one file and all of them, are far above most.
    """
    return min(file_size, space or file_size, max(_LEAST_OUTPUT, bytes_of(inputs)))


def features_of(ffmpeg: FFmpeg) -> str:
    """Return a digest of what an FFmpeg can do: two builds of a version may differ."""
    names = "\n".join([*sorted(ffmpeg.encoders), "", *sorted(ffmpeg.filters)])
    return hashlib.sha256(names.encode()).hexdigest()[:16]


def same_version(facts: WorkerFacts) -> bool:
    """Return whether a worker has this version of vidproc."""
    return facts.version == __version__ and facts.protocol == PROTOCOL


encode = msgspec.msgpack.Encoder().encode
decode_order = msgspec.msgpack.Decoder(Order).decode
decode_outcome = msgspec.msgpack.Decoder(Outcome).decode
decode_report = msgspec.msgpack.Decoder(Report).decode
decode_facts = msgspec.msgpack.Decoder(WorkerFacts).decode
decode_state = msgspec.msgpack.Decoder(WorkerState).decode
