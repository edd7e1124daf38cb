"""compress with `codec` auto: the smallest result at the same score, whatever time it takes.

Each codec that the client can play compresses the whole video. Scores differ by what a search
allows, so sizes are compared at the target's score, by the encoders' usual curves.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from vidproc.errors import ErrorCode, ServiceError
from vidproc.ffmpeg.command import Command, Completed
from vidproc.operations.base import Job, Product, require_encoder
from vidproc.operations.compress.allocation import PERFECT
from vidproc.operations.compress.encode import ENCODERS, Codec, video_encoder_for
from vidproc.operations.compress.work import Work
from vidproc.operations.frames import require_video
from vidproc.operations.parameters import Compress

R = TypeVar("R")

_FILES = 100
"""How far apart the numbers of two codecs' files begin."""
_REACHED = 0.5
"""Score points below the target at which it counts as reached."""


class _CodecJob:
    """The job of one codec: warnings wait until it is known whether its result is delivered."""

    def __init__(self, job: Job[Compress], codec: Codec) -> None:
        self.media = job.media
        self.capabilities = job.capabilities
        self.threads = job.threads
        hdr = None if codec == "h264" else job.parameters.hdr
        grain = job.parameters.grain if codec == "av1" else "off"
        self.parameters = msgspec.structs.replace(job.parameters, codec=codec, hdr=hdr, grain=grain)
        self.warnings: list[str] = []
        self._job = job

    def run(self, command: Command) -> Awaitable[Completed]:
        """Run a command."""
        return self._job.run(command)

    def run_together(self, commands: Sequence[Command]) -> Awaitable[list[Completed]]:
        """Run commands at once."""
        return self._job.run_together(commands)

    def warn(self, sentence: str) -> None:
        """Keep a sentence for the client."""
        self.warnings.append(sentence)

    def size_of(self, name: str) -> int:
        """Return the bytes of a file."""
        return self._job.size_of(name)

    def examine(self, name: str, function: Callable[[bytes], R]) -> Awaitable[R]:
        """Return what `function` makes of a file."""
        return self._job.examine(name, function)


@dataclass(frozen=True, slots=True)
class _Result:
    """What one codec made: its size in bytes, and the size that the target's score would take."""

    codec: Codec
    product: Product
    warnings: Sequence[str]
    size: int
    comparable: float

    @property
    def score(self) -> float | None:
        """The measured score."""
        score: float | None = self.product.details.get("measured_score")
        return score


async def compress_smallest(
    job: Job[Compress], compress: Callable[[Work], Awaitable[Product]]
) -> Product:
    """Return the smallest of the results of all codecs that the client can play.

    Raises `ServiceError` 422 for a size that none of them meets.
    """
    codecs = choose_codecs(job)
    results: list[_Result] = []
    refused: list[ServiceError] = []
    for number, codec in enumerate(codecs):
        own = _CodecJob(job, codec)
        work = Work.of(own)
        work.left = 1.0 / len(codecs)
        work.files = number * _FILES
        try:
            product = await compress(work)
        except ServiceError as error:
            if error.code != ErrorCode.INVALID_PARAMETER:
                raise
            refused.append(error)
            continue
        results.append(_result(own, codec, product))
    if not results:
        raise min(refused, key=lambda error: float(error.extra.get("least_size", math.inf)))
    best = _best(job.parameters, results)
    for sentence in best.warnings:
        job.warn(sentence)
    tried: dict[str, dict[str, Any]] = {}
    for each in results:
        tried[each.codec] = {"bytes": each.size}
        if each.score is not None:
            tried[each.codec]["measured_score"] = each.score
    details = {**best.product.details, "tried_codecs": tried}
    return Product(best.product.file, best.product.media_type, best.product.expectation, details)


def choose_codecs(job: Job[Compress]) -> list[Codec]:
    """Return the codecs to try: those that the client plays, this FFmpeg has, and HDR allows."""
    plays = list(dict.fromkeys(job.parameters.plays or ()))
    codecs = [codec for codec in plays if ENCODERS[codec] in job.capabilities.encoders]
    if not codecs:
        require_encoder(job.capabilities, *(ENCODERS[codec] for codec in plays))
    if require_video(job.media).hdr and job.parameters.hdr != "sdr":
        codecs = [codec for codec in codecs if codec != "h264"] or codecs
    return codecs


def _result(job: _CodecJob, codec: Codec, product: Product) -> _Result:
    size = job.media.size if product.details["already_optimal"] else job.size_of(product.file)
    score = product.details.get("measured_score")
    comparable = float(size)
    if score is not None:
        parameters = job.parameters
        video = require_video(job.media)
        encoder = video_encoder_for(codec, parameters.preset, job.capabilities, video)
        lacks = math.log(PERFECT - parameters.quality) - math.log(PERFECT - min(score, 100.0))
        steps = lacks / encoder.curve.score_slope
        comparable *= math.exp(encoder.curve.size_slope * steps)
    return _Result(codec, product, job.warnings, size, comparable)


def _best(parameters: Compress, results: Sequence[_Result]) -> _Result:
    """Return the smallest result of those that reach the quality, else the best; with a target
    size the best."""
    scores = [100.0 if each.score is None else each.score for each in results]
    if parameters.target_size is not None and all(
        "target_size" in each.product.details for each in results
    ):
        return max(zip(scores, results, strict=True), key=lambda pair: pair[0])[1]
    reached = [
        each
        for score, each in zip(scores, results, strict=True)
        if score >= parameters.quality - _REACHED
    ]
    if not reached:
        return max(zip(scores, results, strict=True), key=lambda pair: pair[0])[1]
    return min(reached, key=lambda each: each.comparable)
