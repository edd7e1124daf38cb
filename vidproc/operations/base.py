"""What an operation is: from what the probe found and typed parameters to commands.

A simple operation implements `Operation.plan`, a pure function. One that must look before it
decides (a search for the right quality) overrides `Operation.run` and awaits `Job.run` as often
as it needs to; it still spawns nothing itself.
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
"""Bytes of a source up to which the operations on all of it count as short."""
_BITS_PER_PIXEL = 0.2
"""Bits for each pixel that CRF 20 takes of busy filmed video; most takes half of that."""
_AUDIO_RATE = 320_000
"""Bits per second of an audio track, at most."""
SHORT_CLIP = 30.0
"""Seconds of a clip up to which making it counts as short."""


@dataclass(frozen=True, slots=True)
class Expectation:
    """What the finished file must be, checked before anybody may have it.

    `size` is (width, height) displayed, in pixels; `duration` is in seconds and may be missed by
    `tolerance` seconds; None means not checked.
    """

    video: bool
    audio: bool
    size: tuple[int, int] | None = None
    duration: float | None = None
    tolerance: float = 0.5


@dataclass(frozen=True, slots=True)
class Product:
    """The finished file: its name in the attempt's folder, its kind, what it must be.

    `details` goes into the status' `output` as it is.
    """

    file: str
    media_type: str
    expectation: Expectation
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Plan:
    """Commands to run one after another, what they make, and what a person should know of it.

    Those of a tuple run at once.
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
    """The most that one of its commands is given; one gets fewer where it wants fewer."""

    def run(self, command: Command) -> Awaitable[Completed]:
        """Run a command; raises `CommandFailed` or `CommandStopped`."""

    def run_together(self, commands: Sequence[Command]) -> Awaitable[list[Completed]]:
        """Run commands at once; when one fails, the others are stopped before its error is raised.

        The threads are not shared out: each command says how many it wants.
        """

    def warn(self, sentence: str) -> None:
        """Tell the client, in a sentence, what was given up or changed."""

    def size_of(self, name: str) -> int:
        """Return the bytes of a file that a command of this job wrote."""

    def examine(self, name: str, function: Callable[[bytes], R]) -> Awaitable[R]:
        """Return what `function` makes of a file that a command of this job wrote.

        It gets at most the first 16 MiB, and may run in a thread.
        """


class Operation(Generic[P]):
    """One thing that can be done to a film. Instances hold no state."""

    name: ClassVar[str]

    def plan(self, media: MediaInfo, parameters: P, capabilities: Capabilities) -> Plan:
        """Return what to run. Raises `ServiceError` 415 or 422 when it can't be done to `media`."""
        raise NotImplementedError

    def estimate_size(self, parameters: P, source_size: int) -> int:
        """Return a guess of the output's bytes from its request alone, to reserve space by."""
        return source_size

    def estimate_output(self, media: MediaInfo, parameters: P) -> int:
        """Return the bytes that all files of an attempt may take together, generously.

        A guess that is too low costs an attempt: it is stopped there, and the next one has twice
        the space.
        """
        return filmed_bytes(media) + max(2 * media.size, 4 << 20)

    def is_short(self, parameters: P, source_size: int) -> bool:
        """Return whether the work is likely to be over within a minute.

        Nothing but the request and the source's bytes is known at this point.
        """
        return source_size <= SHORT_SOURCE

    async def run(self, job: Job[P]) -> Product:
        """Do it: run the plan's commands one after another and return the product."""
        return await follow(job, self.plan(job.media, job.parameters, job.capabilities))


def filmed_bytes(
    media: MediaInfo, size: tuple[float, float] | None = None, length: float | None = None
) -> int:
    """Return the bytes that an H.264 video of good quality may take, with its audio.

    Of all of `media` unless `length` (seconds) says less, at `size` (pixels) or the source's.
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
    """Return the first of `names` that the FFmpeg at hand can encode with.

    Raises `ServiceError` 500 when it has none of them.
    """
    for name in names:
        if name in capabilities.encoders:
            return name
    raise ServiceError(
        ErrorCode.INTERNAL,
        f"This server's FFmpeg has no encoder {' or '.join(names)}.",
        "Ask the server's operator to use the bundled FFmpeg, or choose another codec.",
    )
