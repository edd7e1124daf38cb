"""How the compressor judges a video: samples of it, and the scores of encodes.

A score is the mean of VMAF (model vmaf_v0.6.1) over the frames, at the delivered size, with
the encoder's own input as the reference: HDR is scored as the SDR that it was mapped to or, where
it is kept, as the SDR that both would be mapped to. Frames are paired by number, never by time,
because containers round times differently.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import ffmpeg
from ffmpeg.nodes import FilterableStream, OutputStream

from vidproc.ffmpeg.capabilities import Capabilities
from vidproc.ffmpeg.command import THREADS, Command, Completed, ffmpeg_command, input_file
from vidproc.ffmpeg.media import MediaInfo, VideoStream
from vidproc.operations.delivery import encoding_memory
from vidproc.operations.frames import Pixels, as_shown, normalised, require_video
from vidproc.operations.reading import seconds, source
from vidproc.operations.sizes import Size

Metric = Literal["vmaf", "ssim"]

KEY_INTERVAL = 250
"""Frames at most from one keyframe to the next, in all that the compressor encodes."""
PAIRING_RATE = 25
"""Frames per second of the time scale on which frames are paired by number."""
_SAME_LABELS = {
    # Differing colour tags would make FFmpeg convert one of the two before they are compared.
    "range": "tv",
    "colorspace": "bt709",
    "color_primaries": "bt709",
    "color_trc": "bt709",
}
_SCORE = {
    "vmaf": re.compile(r"VMAF score: ([0-9.]+)"),
    "ssim": re.compile(r"SSIM Y:([0-9.]+)"),
}

SSIM_TO_VMAF: Sequence[tuple[float, float]] = (
    (0.800, 20.0),
    (0.900, 45.0),
    (0.950, 66.0),
    (0.967, 76.0),
    (0.979, 85.5),
    (0.985, 90.4),
    (0.988, 92.8),
    (0.992, 96.0),
    (0.994, 98.5),
    (0.997, 99.5),
    (1.000, 100.0),
)
"""Luma SSIM and the VMAF that goes with it: measured on live action with x264 medium, from 0.966
up; below that a continuation. Videos differ by some 2 points either way."""


@dataclass(frozen=True, slots=True)
class Samples:
    """The samples of a video that a trial encodes: each `length` seconds long, from `starts`.

    Without starts the whole video is the sample, and `length` its duration. `fraction` is their
    part of the video, 0 to 1. With `frames`, the approximate numbers (first, end) of each one's
    frames, the video is decoded once for all of them: for short ones that is quicker than seeking.
    """

    starts: tuple[float, ...]
    length: float
    fraction: float
    frames: tuple[tuple[int, int], ...] = ()

    @property
    def seconds(self) -> float:
        """How long they are together."""
        return self.length * max(1, len(self.starts))


def whole_film(duration: float) -> Samples:
    """Return the sample that is the whole video, `duration` seconds long."""
    return Samples((), duration, 1.0)


def spread(duration: float, fraction: float, length: float, most: int) -> Samples:
    """Return samples of about `length` seconds that make up `fraction` of a video, evenly spread.

    There are at most `most` of them; what is nearly everything becomes the whole video.
    """
    if fraction >= 0.8:
        return whole_film(duration)
    number = min(max(round(duration * fraction / length), 1), most)
    length = duration * fraction / number
    gap = duration / number
    starts = tuple(round(gap * i + (gap - length) / 2, 3) for i in range(number))
    return Samples(starts, round(length, 3), fraction)


def decoded_once(samples: Samples, frame_rate: float) -> Samples:
    """Return the same samples, for a video that is decoded once for all of them."""
    frames = tuple(
        (round(start * frame_rate), round((start + samples.length) * frame_rate))
        for start in samples.starts
    )
    return replace(samples, frames=frames)


def sampled_frames(
    media: MediaInfo,
    capabilities: Capabilities,
    size: Size,
    pixels: Pixels,
    samples: Samples,
) -> FilterableStream:
    """Return the normalised video of the samples, one after another."""
    if not samples.starts:
        return normalised(source(media), media, capabilities, size, pixels=pixels)
    if samples.frames:
        rate = (media.video.frame_rate if media.video is not None else None) or PAIRING_RATE

        def selected(stream: FilterableStream) -> FilterableStream:
            stream = stream.filter("setpts", "PTS-STARTPTS")
            stream = stream.filter("trim", end=seconds(samples.starts[-1] + samples.length))
            # By time, for a frame rate can be far from what a file says of it.
            runs = "+".join(
                f"gte(t,{seconds(start)})*lt(t,{seconds(start + samples.length)})"
                for start in samples.starts
            )
            return stream.filter("select", runs).filter("setpts", f"N/({rate}*TB)")

        return normalised(source(media), media, capabilities, size, pixels=pixels, sample=selected)
    parts = [
        normalised(
            source(media, start=start, duration=samples.length),
            media,
            capabilities,
            size,
            pixels=pixels,
        )
        for start in samples.starts
    ]
    return parts[0] if len(parts) == 1 else ffmpeg.concat(*parts, v=1, a=0)


def score_command(
    media: MediaInfo,
    capabilities: Capabilities,
    name: str,
    *,
    metric: Metric,
    size: Size,
    pixels: Pixels,
    samples: Samples,
    stage: str,
    weight: float,
    every: int = 1,
    best: bool = False,
) -> Command:
    """Return the command that scores the file `name`.

    `every` looks at every nth frame only (VMAF alone can). With `best` the source is
    scored against itself besides, which costs less than another command.
    """
    video = require_video(media)
    reference = sampled_frames(media, capabilities, size, pixels, samples)
    reference = as_shown(reference, video, capabilities, pixels)
    encoded = ffmpeg.input(input_file(name), threads=THREADS)["v:0"]
    encoded = as_shown(encoded.filter("format", pixels.format), video, capabilities, pixels)
    if best and metric == "vmaf":
        thrice = reference.filter_multi_output("split", 3)
        pairs = [
            (encoded, thrice.stream(0)),
            (thrice.stream(1), thrice.stream(2)),
        ]
    else:
        pairs = [(encoded, reference)]
    options: dict[str, object] = {"shortest": 1}
    if metric == "vmaf":
        options.update(n_threads=THREADS, n_subsample=every)
    results = [
        ffmpeg.filter(
            [numbered(stream) for stream in pair],
            "libvmaf" if metric == "vmaf" else metric,
            **options,
        )
        for pair in pairs
    ]
    outputs = [measured(result, THREADS) for result in results]
    graph = outputs[0] if len(outputs) == 1 else ffmpeg.merge_outputs(*outputs)
    rate = media.video.frame_rate if media.video is not None else None
    return ffmpeg_command(
        graph,
        stage=stage,
        duration=samples.seconds * (rate or PAIRING_RATE) / PAIRING_RATE,
        weight=weight,
        memory=_memory(media, size, best)
        + mapping_memory(video, size, pixels)
        + len(samples.starts) * 24 * size[0] * size[1],
    )


def _memory(media: MediaInfo, size: Size, best: bool) -> int:
    video = media.video
    decoded = (video.width, video.height) if video is not None else size
    return encoding_memory(size, decoded, *((size,) if best else ()))


def mapping_memory(video: VideoStream, size: Size, pixels: Pixels) -> int:
    """Return the bytes that it takes to make SDR of what is scored, in floating point: of the
    reference and, where HDR is kept, of the result."""
    mapped = 0 if not video.hdr else 2 if pixels.hdr else 1
    denoised = 0 if pixels.denoise is None else 1
    return (mapped * 60 + denoised * 12) * size[0] * size[1]


def numbered(stream: FilterableStream) -> FilterableStream:
    """Return a stream whose frames are timed by their number and tagged like any other's."""
    stream = stream.filter("setparams", **_SAME_LABELS)
    return stream.filter("settb", f"1/{PAIRING_RATE}").filter("setpts", "N")


def measured(compared: FilterableStream, threads: int | str) -> OutputStream:
    """Return the output node that compares `numbered` streams and discards the frames."""
    return ffmpeg.output(
        compared,
        "-",
        format="null",
        fps_mode="passthrough",
        enc_time_base=f"1:{PAIRING_RATE}",
        filter_complex_threads=threads,
    )


def parse_score(completed: Completed, metric: Metric) -> float | None:
    """Return the VMAF score that a scoring command printed (one on SSIM is mapped to it)."""
    values = _printed(completed, metric)
    if not values:
        return None
    return min(values) if metric == "vmaf" else vmaf_of_ssim(min(values))


def parse_scores(completed: Completed) -> list[float]:
    """Return the VMAF scores that a command which scores several encodes of one video printed, the
    best one first."""
    return sorted(_printed(completed, "vmaf"), reverse=True)


def parse_best(completed: Completed, metric: Metric) -> float:
    """Return the source's score against itself from a scoring command that also took `best`.

    The two are told apart by their size: nothing is more like the source than itself.
    """
    return max(_printed(completed, metric), default=100.0) if metric == "vmaf" else 100.0


def _printed(completed: Completed, metric: Metric) -> list[float]:
    return [float(value) for value in _SCORE[metric].findall(completed.stderr_tail)]


def vmaf_of_ssim(ssim: float) -> float:
    """Return the VMAF score that usually goes with a luma SSIM (`SSIM_TO_VMAF`)."""
    points = SSIM_TO_VMAF
    for (low, at_low), (high, at_high) in itertools.pairwise(points):
        if ssim <= high:
            return max(0.0, at_low + (at_high - at_low) * (ssim - low) / (high - low))
    return points[-1][1]


# What the samples weigh


def film_bytes(head: bytes, size: int, samples: Samples, frames: int | None) -> float:
    """Return the bytes that the whole video would take.

    `head` is the beginning of the encoded samples (Matroska), or all of it, `size` their bytes
    and `frames` the frames of the video. Each sample begins with a keyframe that the video
    would not have there; what these cost more than others is not counted.
    """
    sizes = frame_sizes(head)
    seen = sum(weight for weight, _ in sizes)
    keys = [weight for weight, key in sizes if key]
    others = [weight for weight, key in sizes if not key]
    if not seen:
        return max(size, 1) / samples.fraction
    scale = max(size - 600 - 8 * len(sizes), seen) / seen if size > len(head) else 1.0
    if not samples.starts or not others:
        return seen * scale / samples.fraction
    if len(keys) < len(samples.starts) and not samples.frames:
        return seen * scale / samples.fraction
    film = frames or len(sizes) * scale / samples.fraction
    if samples.frames:
        return _by_runs(sizes, samples, film) * scale
    inner = (len(keys) - len(samples.starts)) / samples.fraction
    film_keys = min(inner + 1 + film / KEY_INTERVAL, film)
    key_size = sum(keys) / len(keys)
    return film_keys * key_size + (film - film_keys) * sum(others) / len(others)


def _by_runs(sizes: Sequence[tuple[int, bool]], samples: Samples, frames: float) -> float:
    """Return the bytes of a video of `frames` frames by samples that were encoded as one stream.

    A sample's first frame costs about as much as a keyframe, but is seldom one. The encoder writes
    it a few frames early, before those that refer to it. Counting these frames gave 104 to 134 % of
    the real bytes of eleven clips, leaving them out 55 to 105 %; the geometric mean of both, 76 to
    116 %.
    """
    firsts, at = set(), 0
    for first, end in samples.frames:
        near = range(min(max(at - _REORDERED, 0), len(sizes) - 1), min(at + 1, len(sizes)))
        firsts.add(max(near, key=lambda n: sizes[n][0]))
        at += end - first
    begun = [sizes[n][0] for n in firsts]
    others = [size for n, (size, _) in enumerate(sizes) if n not in firsts]
    keys = min(1 + frames / KEY_INTERVAL, frames)
    mean = sum(others) / len(others) if others else 0.0
    without = keys * sum(begun) / len(begun) + (frames - keys) * mean
    return math.sqrt(without * sum(size for size, _ in sizes) / samples.fraction)


_REORDERED = 4
_SEGMENT, _CLUSTER, _GROUP = 0x18538067, 0x1F43B675, 0xA0
_SIMPLE_BLOCK, _BLOCK, _REFERENCE = 0xA3, 0xA1, 0xFB
_BLOCK_HEADER = 4


def frame_sizes(data: bytes) -> list[tuple[int, bool]]:
    """Return (bytes, is a keyframe) of each frame in a Matroska file with one track, as
    FFmpeg writes it; a file that is cut short gives what it has (RFC 9559)."""
    found: list[tuple[int, bool]] = []
    at, end = 0, len(data)
    pending = False
    while at < end:
        kind, at = _element_id(data, at)
        length, at = _element_length(data, at)
        if kind in (_SEGMENT, _CLUSTER, _GROUP):
            continue  # its children come next
        if kind == 0 or length is None or at + length > end:
            break
        if kind == _SIMPLE_BLOCK and length > _BLOCK_HEADER:
            found.append((length - _BLOCK_HEADER, bool(data[at + 3] & 0x80)))
        elif kind == _BLOCK and length > _BLOCK_HEADER:
            found.append((length - _BLOCK_HEADER, True))
            pending = True
        elif kind == _REFERENCE and pending:
            found[-1] = (found[-1][0], False)
        at += length
    return found


def _element_id(data: bytes, at: int) -> tuple[int, int]:
    if at >= len(data) or data[at] == 0:
        return 0, at
    length = 9 - data[at].bit_length()
    return int.from_bytes(data[at : at + length], "big"), at + length


def _element_length(data: bytes, at: int) -> tuple[int | None, int]:
    if at >= len(data) or data[at] == 0:
        return None, at
    length = 9 - data[at].bit_length()
    value = int.from_bytes(data[at : at + length], "big") & ((1 << 7 * length) - 1)
    unknown = value == (1 << 7 * length) - 1
    return (None if unknown else value), at + length
