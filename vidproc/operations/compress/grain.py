"""compress with `grain` auto: film grain is removed, and synthesised by the player (AV1).

Grain can't be predicted, so it takes most of a grainy film's bytes, and no viewer knows one grain
from another. The same denoiser runs before the encoder and before the reference that its encodes
are scored against; the score is that of the film without grain. The finished file gets the
parameters of its grain (`vidproc.ffmpeg.grain`), so that all that leads to it need know nothing of
them. Then the grain is measured once more.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import ffmpeg

from vidproc.ffmpeg.command import (
    THREADS,
    Command,
    CommandFailed,
    ffmpeg_command,
    input_file,
    output_file,
)
from vidproc.ffmpeg.grain import (
    FRAME_BYTES,
    REFRESH_BYTES,
    GrainFailed,
    grain_command,
    parse_grain,
)
from vidproc.operations.base import Product
from vidproc.operations.compress.noise import Noise, added, combine, measure_place, synthesis
from vidproc.operations.compress.scoring import KEY_INTERVAL
from vidproc.operations.compress.work import Work
from vidproc.operations.delivery import encoding_memory
from vidproc.operations.frames import Pixels, normalised, require_video
from vidproc.operations.reading import seconds, source
from vidproc.operations.sizes import Size

_PLACES, _SECONDS = 8, 2.0
"""How many places are measured at most, and how far apart at least."""
_FRAMES = 3
"""Frames of a place: the first and third are compared, as a film may show each frame twice."""
_PATCH = (640, 352)
"""The largest frame that is looked at whole; of larger ones it is a part, each time another."""
_CORNERS = ((0.5, 0.5), (0.25, 0.25), (0.75, 0.75), (0.75, 0.25), (0.25, 0.75))
_FORMAT = "yuv420p10le"
SAMPLE_BYTES = 2 * 3 * _PATCH[0] * _PATCH[1] * _FRAMES * _PLACES
"""The bytes of all samples, twice: two bytes for each of one and a half samples per pixel."""
_FILTER = "vaguedenoiser"


@dataclass(frozen=True, slots=True)
class Grain:
    """The grain of a video at a size of its frames. `reason` says why it stays as it is, if it
    does."""

    noise: Noise
    reason: str | None = None
    size: Size | None = None

    @property
    def removed(self) -> bool:
        """Whether it is removed and synthesised."""
        return self.reason is None and self.noise.found


async def find_grain(work: Work) -> Grain:
    """Measure the grain of the source. From then on the video is denoised if it is grainy."""
    if _FILTER not in work.job.capabilities.filters:
        return Grain(Noise(0.0), "this server's FFmpeg can't remove it")
    if not work.duration or work.job.media.ends_early:
        return Grain(Noise(0.0), "the video's duration is unknown")
    try:
        noise = await _measure(work, None, weight=work.weight(0.03))
    except CommandFailed as error:
        if not error.kind.may_be_the_files:
            raise
        return Grain(Noise(0.0), "it could not be measured")
    if noise.found:
        pixels = replace(work.video_encoder.pixels, denoise=noise.thresholds)
        work.video_encoder = replace(work.video_encoder, pixels=pixels)
    return Grain(noise, size=work.size)


def grain_bytes(work: Work) -> int:
    """Return the most bytes that the parameters of grain add to a video."""
    return int(work.frames * (FRAME_BYTES + REFRESH_BYTES / KEY_INTERVAL)) + 4 * REFRESH_BYTES


async def synthesise(work: Work, product: Product, grain: Grain) -> Product | None:
    """Return the product with grain like the source's; None if that can't be done."""
    name = "grained.mp4"
    try:
        if work.size != grain.size:  # for a target size
            smaller = await _measure(work, None, weight=work.weight(0.1))
            if not smaller.found:
                told = described(replace(grain, reason="hardly any is left in frames this small"))
                return replace(product, details={**product.details, "grain": told})
            grain = replace(grain, noise=smaller, size=work.size)
        left = await _measure(work, product.file, weight=work.weight(0.3))
        part = added(grain.noise, left.level)
        done = await work.job.run(
            grain_command(product.file, name, synthesis(grain.noise, part), weight=work.weight(0.5))
        )
        parse_grain(done.stdout)
        result = await _measure(work, name, weight=work.weight(0.9))
    except GrainFailed:
        return None
    except CommandFailed as error:
        if not error.kind.may_be_the_files:
            raise
        return None
    if result.level < grain.noise.level / 2:
        return None
    work.encode_time += done.elapsed
    return replace(
        product,
        file=name,
        details={
            **product.details,
            "percent_of_source": round(100 * work.job.size_of(name) / work.job.media.size, 1),
            "grain": {
                **described(grain),
                "synthesised": True,
                "result_level": round(result.level, 2),
            },
        },
    )


def described(grain: Grain) -> dict[str, Any]:
    """Return what is reported of a video's grain before it is known whether it is synthesised."""
    found: dict[str, Any] = {"found": grain.noise.found, "level": round(grain.noise.level, 2)}
    if grain.reason is not None:
        found["reason"] = grain.reason
    return {**found, "synthesised": False}


async def _measure(work: Work, name: str | None, *, weight: float) -> Noise:
    """Return the grain of an encoded file, or of the source as it is encoded."""
    size = _patch(work.size)
    files, command = _samples_command(work, name, size, weight)
    done = await work.job.run(command)
    work.search_time += done.elapsed
    measure = partial(measure_place, width=size[0], height=size[1])
    return combine([await work.job.examine(file, measure) for file in files])


def _patch(size: Size) -> Size:
    return min(size[0], _PATCH[0]), min(size[1], _PATCH[1])


def _samples_command(
    work: Work, name: str | None, patch: Size, weight: float
) -> tuple[list[str], Command]:
    """Return the command that decodes a few frames at several places, and the files that it writes:
    one for each place."""
    media, capabilities = work.job.media, work.job.capabilities
    video = require_video(media)
    rate = video.frame_rate or 25.0
    count = min(max(int(work.duration / _SECONDS), 1), _PLACES)
    files, outputs = [], []
    for number in range(count):
        start = work.duration * (number + 0.5) / (count + 0.5)
        start = max(0.0, min(start, work.duration - (_FRAMES + 1) / rate))
        length = (_FRAMES + 2) / rate
        if name is None:
            stream = normalised(
                source(media, start=start, duration=length),
                media,
                capabilities,
                work.size,
                pixels=Pixels(_FORMAT, work.video_encoder.pixels.hdr),
            )
        else:
            stream = ffmpeg.input(
                input_file(name), ss=seconds(start), t=seconds(length), threads=1
            )["v:0"].filter("format", _FORMAT)
        left, top = (
            int((whole - part) * at / 2) * 2
            for whole, part, at in zip(work.size, patch, _CORNERS[number % 5], strict=True)
        )
        stream = stream.filter("crop", *patch, left, top, exact=1)
        files.append(f"grain-{number}.yuv")
        outputs.append(
            ffmpeg.output(
                stream,
                output_file(files[-1]),
                format="rawvideo",
                fps_mode="passthrough",
                filter_complex_threads=THREADS,
                **{"frames:v": _FRAMES},
            )
        )
    command = ffmpeg_command(
        ffmpeg.merge_outputs(*outputs),
        stage="searching",
        duration=count * _FRAMES / rate,
        weight=weight,
        cpus=2.0,
        memory=encoding_memory(work.size, *[(video.width, video.height)] * count),
    )
    return files, command
