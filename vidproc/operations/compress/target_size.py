"""compress with `target_size`: as good as it can be in a given number of bytes.

The audio gets its part first. A sample encoded at a quality that is just bearable tells how many
bytes the video needs; with fewer it is made smaller rather than blocky. Then two passes, and
corrections of the second, for the rate that an encoder is told is not the one that it hits.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import Any

from vidproc.errors import ErrorCode, ServiceError
from vidproc.ffmpeg.command import CommandFailed, FailureKind
from vidproc.ffmpeg.media import MediaInfo
from vidproc.operations.audio import ChosenAudio, audio_warnings
from vidproc.operations.base import Product
from vidproc.operations.compress.encode import (
    Options,
    VideoEncoder,
    analysis_command,
    audio_command,
    audio_rate,
    film_command,
)
from vidproc.operations.compress.scoring import Samples, film_bytes, spread, whole_film
from vidproc.operations.compress.work import Work
from vidproc.operations.frames import require_video
from vidproc.operations.sizes import Size, scaled
from vidproc.operations.tracks import Tracks
from vidproc.units import format_size

_FILLED = 0.95
"""The fraction of the wanted size that the file should have if the video can use it."""
_AIM = 0.98
_AUDIO_PART = 0.2
"""The fraction of the bytes that audio may have before its bit rate is lowered."""
_BEARABLE_QUALITY = 72.0
_LIKELY_QUALITY = 90.0
_PIXELS_TO_BYTES = 0.75
"""Bytes at one CRF go with pixels to this power: smaller frames hold more detail a pixel."""
_SMALLEST_SIDE = 96
_ATTEMPTS = 5
_STATISTICS = "twopass"
"""What the names of the pass log's files begin with."""
_SAMPLE_FILE = "probe.mkv"
_AUDIO_FILE = "audio.mp4"
_LEAST_AUDIO = 24_000


async def compress_to_size(work: Work, target: int) -> Product:
    """Return the video in fewer than `target` bytes, which is less than the source has.

    Raises `ServiceError` 422, naming the least possible size, if that is impossible.
    """
    if not work.duration:
        raise ServiceError(
            ErrorCode.INVALID_PARAMETER,
            "The video's duration cannot be determined, so a target size cannot be planned.",
            "Leave out target_size, or send the video in another format.",
        )
    _fit_audio(work, target * 8 * _AUDIO_PART / work.duration)
    await _measure_audio(work, target)
    shown = work.size
    name, rate = await _encode(work, target, await _bearable_bytes(work))
    if work.size != shown:
        work.job.warn(
            f"The video was reduced to {work.size[0]}x{work.size[1]} instead of "
            f"{shown[0]}x{shown[1]}: "
            f"{format_size(target)} is too little for more."
        )
    details: dict[str, Any] = {
        "target_size": target,
        "bit_rate": rate,
        **await _score(work, name),
        "probes": work.probes,
        "search_time": round(work.search_time, 2),
        "encode_time": round(work.encode_time, 2),
    }
    return work.product(name, details)


async def _encode(work: Work, target: int, needed: float) -> tuple[str, int]:
    """Encode in frames as large as `target` allows; return the file's name and the bit rate.

    `needed` are the bytes of the video that are just bearable at its own size. Leaves the size and
    the encoder of the result in `work`.
    """
    shown, encoder = work.size, work.video_encoder
    available = target * _AIM - work.other_bytes
    smallest = _smallest_factor(shown)
    least = _least_bytes(work, needed, smallest)
    if available <= 0 or target < least:
        raise too_small(target, least)
    # Each further round is for a video that needs more than its sample told.
    factor = max(smallest, min(1.0, (available / needed) ** (0.5 / _PIXELS_TO_BYTES)))
    over = 0
    for attempt in range(3):
        work.size = scaled(shown, factor) if factor < 0.93 else shown
        work.video_encoder = replace(encoder, pixels=encoder.pixels.scaled(work.size[0] / shown[0]))
        name, written, rate = await _fit(work, target)
        if name is not None:
            return name, rate
        over = max(over, written)
        if factor <= smallest:
            raise too_small(target, max(least, int(max(written, target) * 1.1)))
        factor = max(smallest, factor * (0.6 if attempt else 0.75))
    raise too_small(target, max(least, int(max(over, target) * 1.1)))


async def _score(work: Work, name: str) -> dict[str, Any]:
    """Return what is reported of the finished file's score; nothing if it cannot be measured."""
    if work.metric is None:
        return {}
    every, _ = work.sparse(_LIKELY_QUALITY)
    score, _ = await work.score(
        name, whole_film(work.duration), stage="scoring", weight=0.9, every=every
    )
    if score is None:
        return {}
    return {
        "metric": work.metric,
        "measured_score": round(score, 2),
        "measured_error": round(work.error(every, score), 2),
    }


def too_small(target: int, least: int) -> ServiceError:
    """Return the error that names the least possible size, in whole kilobytes."""
    least = math.ceil(least / 1024) * 1024
    return ServiceError(
        ErrorCode.INVALID_PARAMETER,
        f"The video cannot be compressed to {target} bytes; about {least} bytes "
        f"({format_size(least)}) is the least.",
        f"Ask for at least that, or send a shorter video. Example: --target-size {least}",
        least_size=least,
    )


def _fit_audio(work: Work, rate: float) -> None:
    """Give the audio at most about `rate` bits per second: fewer bits, or the main track alone."""
    media, tracks = work.job.media, work.tracks
    if len(tracks.audio) > 1 and rate < _LEAST_AUDIO * len(tracks.audio):
        main = media.main_audio()
        kept = tuple(audio for audio in tracks.audio if audio.track == main)
        work.notes += audio_warnings(media, kept)
        work.tracks = tracks = replace(tracks, audio=kept)
    work.tracks = _audio_within(media, tracks, rate)


def _audio_within(media: MediaInfo, tracks: Tracks, rate: float) -> Tracks:
    """Return the tracks with their audio in at most about `rate` bits per second."""
    whole = audio_rate(media, tracks)
    if whole <= rate:
        return tracks
    audio = [
        _smaller(each, rate * audio_rate(media, replace(tracks, audio=(each,))) / whole)
        for each in tracks.audio
    ]
    return replace(tracks, audio=tuple(audio))


def _smaller(chosen_audio: ChosenAudio, rate: float) -> ChosenAudio:
    """Return an audio track in at most about `rate` bits per second."""
    channels = 2 if rate >= 40_000 and chosen_audio.track.channels > 1 else 1
    wanted = int(min(max(rate, _LEAST_AUDIO), 80_000 * channels))
    sample_rate = chosen_audio.track.sample_rate
    smaller = replace(
        chosen_audio,
        encoder="aac",
        channels=channels,
        bit_rate=wanted,
        mixed_to="stereo" if channels == 2 else "mono",
    )
    if wanted < 24_000 * channels + 8_000 and sample_rate > 24_000:
        # FFmpeg's AAC encoder rings at full bandwidth with so few bits.
        return replace(smaller, sample_rate=24_000)
    return smaller


async def _measure_audio(work: Work, target: int) -> None:
    """Encode the audio alone when its bytes matter: encoders miss the low rates they are told."""
    if not work.tracks.audio or work.other_bytes < target * 0.04:
        return
    done = await work.job.run(
        audio_command(work.job.media, work.tracks, name=_AUDIO_FILE, weight=work.weight(0.03))
    )
    work.search_time += done.elapsed
    work.audio_bytes = float(work.job.size_of(_AUDIO_FILE))


async def _bearable_bytes(work: Work) -> float:
    """Return the bytes of the whole video at the lowest quality that is still fine to watch."""
    samples = (
        whole_film(work.duration)
        if work.duration < 4
        else spread(work.duration, min(0.3, 60 / work.duration), 2.0, 8)
    )
    crf = work.video_encoder.curve.typical_crf(_BEARABLE_QUALITY)
    done = await work.job.run(
        work.sample_command(_SAMPLE_FILE, {"crf": round(crf)}, samples, weight=work.weight(0.1))
    )
    work.probes += 1
    work.search_time += done.elapsed
    return await _whole_bytes(work, samples)


async def _whole_bytes(work: Work, samples: Samples) -> float:
    weigh = partial(
        film_bytes,
        size=work.job.size_of(_SAMPLE_FILE),
        samples=samples,
        frames=require_video(work.job.media).frames,
    )
    return await work.job.examine(_SAMPLE_FILE, weigh)


def _smallest_factor(size: Size) -> float:
    """Return how much a frame of `size` may be made smaller: to an eighth, not under 96 lines."""
    return min(1.0, max(_SMALLEST_SIDE / min(size), 1 / 8))


def _least_bytes(work: Work, needed: float, smallest: float) -> int:
    """Return a size that the video surely fits into: smallest frames, coarsest quality."""
    curve = work.video_encoder.curve
    steps = curve.crf_range[1] - work.video_encoder.curve.typical_crf(_BEARABLE_QUALITY)
    coarsest = max(math.exp(curve.size_slope * steps), 0.3)
    video_bytes = needed * smallest ** (2 * _PIXELS_TO_BYTES) * coarsest
    media = work.job.media
    least = _audio_within(media, work.tracks, 0.0)
    saved = 0.0
    if [audio.bit_rate for audio in least.audio] != [a.bit_rate for a in work.tracks.audio]:
        # Low rates are missed upwards: count on a fifth more.
        saved = work.audio_size - 1.2 * audio_rate(media, least) * work.duration / 8
    return int((video_bytes * 1.3 + work.other_bytes - max(saved, 0.0)) / _AIM)


async def _fit(work: Work, target: int) -> tuple[str | None, int, int]:
    """Encode at the present size until the file fits.

    Returns its name, its bytes and the video's bit rate; no name when it did not come under
    `target`, then the bytes are the least that came out.
    """
    job, media, video_encoder = work.job, work.job.media, work.video_encoder
    rate = max((target * _AIM - work.other_bytes) * 8 / work.duration, 1000.0)
    if video_encoder.passes != "none":
        done = await job.run(
            analysis_command(
                media,
                job.capabilities,
                video_encoder,
                {"b:v": int(rate), **_pass(video_encoder, 1)},
                size=work.size,
                weight=work.weight(0.3),
                writes=_pass_log(video_encoder),
            )
        )
        work.search_time += done.elapsed
    best: tuple[str, int, int] | None = None
    least_over = 0
    tried: list[tuple[float, int]] = []
    for _ in range(_ATTEMPTS):
        work.files += 1
        name = f"result-{work.files}.mp4"
        command = film_command(
            media,
            job.capabilities,
            video_encoder,
            {"b:v": int(rate), **_pass(video_encoder, 2)},
            name=name,
            size=work.size,
            tracks=work.tracks,
            weight=work.weight(0.6),
            reads=_pass_log(video_encoder),
        )
        try:
            done = await job.run(command)
        except CommandFailed as error:
            if error.kind is FailureKind.RATE:
                break
            raise
        work.encode_time = done.elapsed
        written = job.size_of(name)
        tried.append((rate, written))
        if written < target:
            if best is None or written > best[1]:
                best = (name, written, int(rate))
            if written >= target * _FILLED or _can_use_no_more(tried):
                break
        else:
            least_over = min(least_over or written, written)
        rate = _next_rate(tried, target, work.other_bytes)
        if rate < 1000:
            break
    return best or (None, least_over, 0)


def _can_use_no_more(tried: list[tuple[float, int]]) -> bool:
    """Return whether a higher rate made hardly a difference: the encoder is at its best quality."""
    if len(tried) < 2:
        return False
    (rate, written), (rate_now, written_now) = tried[-2:]
    return rate_now > rate * 1.02 and written_now < written * (1 + 0.2 * (rate_now / rate - 1))


def _next_rate(tried: list[tuple[float, int]], target: int, others: float) -> float:
    """Return the rate to try next: in proportion, or between a file too small and one too large."""
    rate, written = tried[-1]
    aimed = target * _AIM - others
    proportional = rate * min(max(aimed / max(written - others, aimed / 4, 1.0), 0.3), 3.0)
    low = max((r for r, size in tried if size < target), default=None)
    high = min((r for r, size in tried if size >= target), default=None)
    if low is not None and high is not None and not low < proportional < high:
        return (low + high) / 2
    if written >= target:
        return min(proportional, rate * 0.97)
    return proportional


def _pass(video_encoder: VideoEncoder, number: int) -> Options:
    """Return the options of the first or second pass; the pass log lies in the folder where the
    command runs."""
    if video_encoder.passes == "ffmpeg":
        return {"pass": number, "passlogfile": _STATISTICS}
    if video_encoder.passes == "x265":
        return {"x265-params": f"pass={number}:stats={_STATISTICS}.log"}
    return {}


def _pass_log(video_encoder: VideoEncoder) -> tuple[str, ...]:
    """Return the names of the files that the first pass writes and the second one reads."""
    if video_encoder.passes == "ffmpeg":
        return f"{_STATISTICS}-0.log", f"{_STATISTICS}-0.log.mbtree"
    if video_encoder.passes == "x265":
        return f"{_STATISTICS}.log", f"{_STATISTICS}.log.cutree"
    return ()
