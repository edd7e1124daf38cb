"""Compressing on a cluster: samples side by side, a video at one CRF in segments, and what samples
and shots read of the source."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial

import ffmpeg
from ffmpeg.nodes import FilterableStream

from vidproc.ffmpeg.command import Command, CommandFailed, ffmpeg_command, input_file
from vidproc.ffmpeg.survey import SurveyFailed, parse_survey, survey_command
from vidproc.operations import spread
from vidproc.operations.compress.encode import joined_parameters
from vidproc.operations.compress.scoring import (
    PAIRING_RATE,
    Samples,
    film_bytes,
    mapping_memory,
    measured,
    numbered,
    parse_best,
    parse_score,
)
from vidproc.operations.compress.search import Search
from vidproc.operations.compress.shots import TICKS, Shot
from vidproc.operations.compress.work import CAPPED_BY_SELF, Work
from vidproc.operations.delivery import Delivery, deliver, encoding_memory
from vidproc.operations.frames import Sample, as_shown, normalised, require_video
from vidproc.operations.reading import Source, source
from vidproc.operations.segments import possible

_LEAD = 1.0
"""Seconds: shots are read from half a second before their start, and FFmpeg may seek to a little
before that."""
_ENCODING, _JOINING = 0.75, 0.05
"""The weights of encoding and joining; scoring has the rest."""


@dataclass(frozen=True, slots=True)
class Made:
    """A video: its file, the seconds that encoding and scoring took, and its score, if known."""

    name: str
    encode_time: float
    score_time: float
    score: float | None


async def encode(work: Work, crf: float, *, every: int, weight: float) -> Made | None:
    """Encode a video in segments, join them, and score each `every`-th frame of each.

    Returns None if it must be encoded in one piece: without a cluster, for one.
    """
    media = work.job.media
    if work.metric != "vmaf":
        return None
    if work.cut is None:
        length = require_video(media).duration
        lengths = spread.divide(media, length, work.job.capabilities.spare_cores)
        work.cut = await spread.cut(work.job, lengths, tick=spread.tick_for(media))
    film = work.cut
    if film is None:
        return None
    segments = _Segments(work, film, crf, work.weight(weight))
    work.files += 1
    name = f"result-{work.files}.mp4"
    readers = [segments.join(name), *(segments.score(each, every) for each in film.segments)]
    encoded = await spread.encode(work.job, film, segments.encode, readers)
    if encoded is None:
        work.cut = None
        return None
    joined, *scored = encoded.readers
    scores = [parse_score(each, "vmaf") for each in scored]
    return Made(
        name,
        max(each.elapsed for each in encoded.encodes) + joined.elapsed,
        max(each.elapsed for each in scored),
        _mean(film, scores),
    )


def _mean(film: spread.Film, scores: Sequence[float | None]) -> float | None:
    """Return the mean score of a video's frames."""
    total = sum(segment.stretch.frames for segment in film.segments)
    mean = 0.0
    for segment, score in zip(film.segments, scores, strict=True):
        if score is None:
            return None
        mean += score * segment.stretch.frames / total
    return mean


@dataclass(frozen=True, slots=True)
class _Segments:
    """The segments of a video at one CRF; `weight` is that of all commands in the progress."""

    work: Work
    film: spread.Film
    crf: float
    weight: float

    def encode(self, segment: spread.Segment, careful: bool) -> Command:
        """Return the command that encodes a segment."""
        encoder = self.work.video_encoder
        rate = joined_parameters(encoder.joinable or {}, encoder.rate(self.crf))
        return spread.encode_command(
            self.film,
            segment,
            self._scaled,
            encoder.output_options(rate),
            memory=int(self._memory() * encoder.memory_factor),
            weight=self._weight(segment, _ENCODING),
            careful=careful,
        )

    def score(self, segment: spread.Segment, every: int) -> Command:
        """Return the command that scores each `every`-th frame of a segment."""
        work, stretch = self.work, segment.stretch
        media, pixels = work.job.media, work.video_encoder.pixels
        video = require_video(media)
        encoded = ffmpeg.input(input_file(segment.file), threads=1)["v:0"]
        shown = spread.source_frames(self.film, segment, self._scaled, stretch.at)
        capabilities = work.job.capabilities
        pair = [
            numbered(as_shown(stream, video, capabilities, pixels))
            for stream in (encoded.filter("format", pixels.format), shown)
        ]
        result = ffmpeg.filter(pair, "libvmaf", shortest=1, n_threads=1, n_subsample=every)
        return ffmpeg_command(
            measured(result, 1),
            stage="scoring",
            duration=stretch.frames / PAIRING_RATE,
            weight=self._weight(segment, 1 - _ENCODING - _JOINING),
            cpus=1.0,
            memory=self._memory() + mapping_memory(video, work.size, pixels),
            part=stretch.part(media.size),
        )

    def join(self, name: str) -> Command:
        """Return the command that joins the segments in the MP4 file `name`, with the audio."""
        media = self.work.job.media
        video: dict[str, object] = {"c:v": "copy", "video_track_timescale": self.film.timescale}
        if "tag:v" in self.work.video_encoder.options:
            video["tag:v"] = self.work.video_encoder.options["tag:v"]
        delivery = Delivery(name, "mp4", video, self.work.tracks)
        graph = deliver(source(media), media, self.film.joined(), delivery)
        command = ffmpeg_command(
            graph,
            stage="scoring",
            duration=media.duration,
            weight=self.weight * _JOINING,
        )
        return spread.with_join(command, self.film)

    def _weight(self, segment: spread.Segment, fraction: float) -> float:
        return self.weight * fraction * self.film.length(segment) / self.film.duration

    def _scaled(self, node: Source, sample: Sample) -> FilterableStream:
        work = self.work
        media, capabilities = work.job.media, work.job.capabilities
        pixels = work.video_encoder.pixels
        return normalised(node, media, capabilities, work.size, pixels=pixels, sample=sample)

    def _memory(self) -> int:
        video = require_video(self.work.job.media)
        return encoding_memory(self.work.size, (video.width, video.height))


@dataclass(frozen=True, slots=True)
class Trial:
    """What samples at one CRF give: their mean score, None if there is none, the bytes that the
    whole video would take, and the seconds that encoding and scoring took."""

    score: float | None
    size: float
    encode_time: float
    score_time: float


async def trial(
    work: Work, crf: float, samples: Samples, *, every: int, search: Search | None
) -> Trial | None:
    """Encode and score samples side by side, a command for each.

    A `search` is told what the source scores against itself. Returns None if the samples belong
    into one command: without a cluster, or where the video is decoded once for all of them.
    """
    media, count = work.job.media, len(samples.starts)
    if work.job.capabilities.spare_cores < 2 or count < 2 or samples.frames:
        return None
    if not possible(media):  # there is no telling which bytes a sample needs
        return None
    offset = max(0.0, require_video(media).start_time)
    windows = [(offset + start, offset + start + samples.length) for start in samples.starts]
    if windows[0] not in work.parts:
        await _find_parts(work, windows)
    ones = [
        replace(samples, starts=(start,), fraction=samples.fraction / count)
        for start in samples.starts
    ]
    names = [f"sample-{number}.mkv" for number in range(count)]
    capping = search is not None and work.capped
    encoding, scoring = work.weight(0.1) / count, work.weight(0.05) / count
    encodes, scores = [], []
    for one, name, window in zip(ones, names, windows, strict=True):
        encode = work.sample_command(name, work.video_encoder.rate(crf), one, weight=encoding)
        score = work.score_command(
            name, one, stage="searching", weight=scoring, every=every, best=capping
        )
        part = work.parts.get(window)
        encodes.append(replace(encode, part=part))
        scores.append(replace(score, part=part))
    encoded = await work.job.run_together(encodes)
    scored = await work.job.run_together(scores)
    if capping and search is not None:
        search.cap(_plain_mean([parse_best(each, "vmaf") for each in scored]), CAPPED_BY_SELF)
    found = [parse_score(each, "vmaf") for each in scored]
    known = [score for score in found if score is not None]
    sizes = []
    for one, name in zip(ones, names, strict=True):
        weigh = partial(
            film_bytes,
            size=work.job.size_of(name),
            samples=one,
            frames=require_video(media).frames,
        )
        sizes.append(await work.job.examine(name, weigh))
    return Trial(
        _plain_mean(known) if len(known) == count else None,
        _plain_mean(sizes),
        max(each.elapsed for each in encoded),
        max(each.elapsed for each in scored),
    )


def _plain_mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


async def find_parts(work: Work, shots: Sequence[Shot]) -> None:
    """Find out which bytes of the source each shot needs, if there is a cluster to send them to."""
    if work.job.capabilities.spare_cores >= 2:
        await _find_parts(work, [(shot.start, shot.end) for shot in shots])


async def _find_parts(work: Work, windows: Sequence[tuple[float, float]]) -> None:
    media = work.job.media
    work.parts.update(dict.fromkeys(windows))
    command = survey_command(
        media, tick=Fraction(1, TICKS), windows=windows, lead=_LEAD, weight=work.weight(0.01)
    )
    try:
        found = await work.job.run(command)
        _, stretches = parse_survey(found.stdout, len(windows))
    except (CommandFailed, SurveyFailed) as error:
        if isinstance(error, CommandFailed) and not error.kind.may_be_the_files:
            raise
        return  # then the whole source travels
    work.search_time += found.elapsed
    for window, stretch in zip(windows, stretches, strict=True):
        if stretch is not None:
            work.parts[window] = stretch.part(media.size)
