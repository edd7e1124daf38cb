"""The interface of operations: they turn the probe's findings and typed parameters into commands.

A simple operation implements `Operation.plan`, a pure function. One that has to experiment before
it can decide (a search for the right quality) overrides `Operation.run` and awaits `Job.run` as
often as necessary; it never starts a process itself.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from vidproc.errors import ErrorCode, ServiceError
from vidproc.ffmpeg.capabilities import Capabilities
from vidproc.ffmpeg.command import Command, Completed
from vidproc.ffmpeg.media import MediaInfo
from vidproc.operations.parameters import Parameters

P = TypeVar("P", bound=Parameters)
R = TypeVar("R")

SHORT_SOURCE = 16 << 20
"""Bytes: operations on a whole source of at most this size count as short."""
_BITS_PER_PIXEL = 0.2
"""Bits per pixel of busy live-action video at CRF 20; most needs half of that."""
_AUDIO_RATE = 320_000
"""The highest bit rate of an audio track, in bits per second."""
SHORT_CLIP = 30.0
"""Seconds: a clip of at most this length counts as short."""


@dataclass(frozen=True, slots=True)
class Expectation:
    """Properties that the finished file must have, checked before it can be downloaded.

    `size` is the displayed (width, height) in pixels; `duration` is in seconds, give or take
    `tolerance` seconds; `audio_tracks` is their number. None means that it is not checked.
    """

    video: bool
    audio: bool
    size: tuple[int, int] | None = None
    duration: float | None = None
    tolerance: float = 0.5
    audio_tracks: int | None = None


@dataclass(frozen=True, slots=True)
class Product:
    """The finished file: its name in the attempt's folder, its media type, its expected properties.

    `details` become part of the status' `output`.
    """

    file: str
    media_type: str
    expectation: Expectation
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Plan:
    """Commands to run one after another, their product, and warnings for the client.

    The commands of a tuple run in parallel.
    """

    commands: Sequence[Command | tuple[Command, ...]]
    product: Product
    warnings: Sequence[str] = ()


class Job(Protocol[P]):
    """One task as its operation sees it."""

    media: MediaInfo
    parameters: P
    capabilities: Capabilities
    threads: int
    """The most threads for one of its commands; a command that wants fewer gets fewer."""

    def run(self, command: Command) -> Awaitable[Completed]:
        """Run a command; raises `CommandFailed` or `CommandStopped`."""

    def run_together(self, commands: Sequence[Command]) -> Awaitable[list[Completed]]:
        """Run commands in parallel; if one fails, the others are stopped before it is raised.

        The threads are not divided among them: each command says how many it wants.
        """

    def warn(self, sentence: str) -> None:
        """Tell the client in a sentence what was dropped or changed."""

    def size_of(self, name: str) -> int:
        """Return the size in bytes of a file that a command of this job wrote."""

    def examine(self, name: str, function: Callable[[bytes], R]) -> Awaitable[R]:
        """Return the result of `function` for the contents of a file that a command wrote.

        It gets at most the first 16 MiB, and may run in a thread.
        """


class Operation(Generic[P]):
    """Something that can be done to a video. Instances have no state."""

    name: ClassVar[str]

    def plan(self, media: MediaInfo, parameters: P, capabilities: Capabilities) -> Plan:
        """Return what to run. Raises `ServiceError` 415 or 422 if it cannot be done to `media`."""
        raise NotImplementedError

    def estimate_size(self, parameters: P, source_size: int) -> int:
        """Return an estimate of the output's bytes from the request alone, for the reservation."""
        return source_size

    def estimate_output(self, media: MediaInfo, parameters: P) -> int:
        """Return a generous limit for the total bytes of all files of an attempt.

        An attempt that reaches the limit is stopped, and the next one gets twice the space.
        """
        return filmed_bytes(media) + max(2 * media.size, 4 << 20)

    def is_short(self, parameters: P, source_size: int) -> bool:
        """Return whether the work will probably take less than a minute.

        Only the request and the size of the source are known at this point.
        """
        return source_size <= SHORT_SOURCE

    async def run(self, job: Job[P]) -> Product:
        """Run the plan's commands one after another and return the product."""
        return await follow(job, self.plan(job.media, job.parameters, job.capabilities))


def filmed_bytes(
    media: MediaInfo, size: tuple[float, float] | None = None, length: float | None = None
) -> int:
    """Return the largest expected bytes of an H.264 video of good quality, with its audio.

    It covers `length` seconds, or all of `media`, at `size` (pixels) or the source's size.
    """
    seconds = media.duration or 0.0
    if length is not None:
        seconds = min(length, seconds) if seconds else length
    rate = float(_AUDIO_RATE * len(media.audio))
    if media.video is not None:
        width, height = size or media.video.displayed_size
        frames = min(media.video.frame_rate or 30.0, 60.0)
        rate += width * height * frames * _BITS_PER_PIXEL
    return int(seconds * rate / 8)


async def follow(job: Job[P], plan: Plan) -> Product:
    """Run the plan's commands one after another and return the product."""
    for sentence in plan.warnings:
        job.warn(sentence)
    for step in plan.commands:
        if isinstance(step, tuple):
            await job.run_together(step)
        else:
            await job.run(step)
    return plan.product


def require_encoder(capabilities: Capabilities, *names: str) -> str:
    """Return the first of the encoders `names` that this FFmpeg has.

    Raises `ServiceError` 500 if it has none of them.
    """
    for name in names:
        if name in capabilities.encoders:
            return name
    raise ServiceError(
        ErrorCode.INTERNAL,
        f"This server's FFmpeg has no encoder {' or '.join(names)}.",
        "Ask the server's operator to use the bundled FFmpeg, or choose another codec.",
    )
