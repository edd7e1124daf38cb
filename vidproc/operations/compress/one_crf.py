"""Encoding a video at one CRF: search with samples, encode, score, correct.

Trials on short samples find the CRF that reaches the wanted score. Then the whole video is encoded
and scored. If it missed, it is encoded again until it is right or the trials are used up.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

from vidproc.ffmpeg.command import CommandFailed
from vidproc.operations.base import Product
from vidproc.operations.compress import on_cluster
from vidproc.operations.compress.scoring import (
    Samples,
    decoded_once,
    film_bytes,
    spread,
    whole_film,
)
from vidproc.operations.compress.search import GIVES_WAY_TO, MAX_PROBES, Choice, Point, Search
from vidproc.operations.compress.untouched import untouched
from vidproc.operations.compress.work import SPARSE, Work
from vidproc.operations.frames import require_video

SHORT = 60.0
"""Seconds below which the search may take longer than the encode."""
_LONG = 600.0
AIM_ABOVE = 0.2
"""How many score points above the target to aim: the allowed range extends further up than down."""
_TOO_LOW, _TOO_HIGH = 0.47, 0.97
"""Score points below and above the target beyond which a video is corrected, if all of its frames
were scored."""
_DOUBT = 0.45
"""How much less that is for each point of `measured_error`."""
_UNPAIRED = 15.0
"""Score points: a video this far below its prediction does not have the frames of the source in
their order (it is damaged, or repeats timestamps), so its score means nothing."""
_LACK_IN_SAMPLES, _LACK_IN_LONG_SAMPLES = 0.12, 0.05
"""How much higher ln(missing points) is in samples than in the whole video: an encoder spends less
on what it soon no longer shows. Measured for short samples with x264 and SVT-AV1 at 85 to 95,
eleven clips: 0.12 on average, with a standard deviation of 0.07."""
_TINY = 3.0
"""Seconds below which trials encode the whole video instead of samples."""
_TOO_SHORT_TO_COUNT = 5.0
"""Seconds below which the search has no time limit."""
_FEW_FRAMES = 90
"""The same for frames, for screen recordings of few frames a second."""
_SAMPLE_FRAMES = 24
_SHORT_SAMPLE, _SHORT_SAMPLE_FRAMES = 0.35, 8
"""Seconds and frames of a sample, at least, in a video that is decoded once for all of them. Many
short samples represent a short video better than few long ones."""
_SAMPLED_SECONDS, _LEAST_SAMPLED, _MOST_SAMPLED = 3.0, 0.15, 0.25
"""How much of a video under a minute is sampled: seconds, but at least and at most a fraction."""
_REACH = 0.5
"""The distance in ln(missing points) from which a video under a minute needs another trial of
samples. One prediction over 0.3 to 0.5 was off by 0.04 to 0.08 (root mean square; up to 0.15 by
0.02; 230 stretches of six videos, at 80 to 95), as samples are themselves. So a second trial, which
takes more than half of the time of the encode, would seldom save an encode, and below 90, where a
point is few per cent of those missing, never."""
_SAMPLE_DOUBT = 0.08
"""By how much of the missing points, 19 times in 20, samples' scores may be off because only every
third frame was scored: less than they differ from the whole video."""
_TRIAL_FILE = "probe.mkv"


def plan_samples(duration: float, scoring_cost: float, frame_rate: float = 25.0) -> Samples:
    """Return the samples that each trial encodes.

    Under a minute they are 3 seconds together, 15 to 25 % of the video. From a minute on, two to
    three trials with their scores must take less time than the encode of the whole video, from ten
    minutes on less than 35 % of it. A sample with few frames would represent its first frame more
    than the video.
    """
    if duration < _TINY or (duration < SHORT and duration * frame_rate <= _FEW_FRAMES):
        return whole_film(duration)
    if duration < SHORT:
        fraction = min(max(_SAMPLED_SECONDS / duration, _LEAST_SAMPLED), _MOST_SAMPLED)
        fewest = _SHORT_SAMPLE_FRAMES / max(frame_rate, 0.1)
        samples = spread(duration, fraction, max(_SHORT_SAMPLE, fewest), 8)
        return decoded_once(samples, frame_rate)
    fewest = _SAMPLE_FRAMES / max(frame_rate, 0.1)
    fraction = 0.75 if duration < _LONG else 0.26
    fraction /= 3 * (1 + scoring_cost)
    return spread(duration, min(fraction, 120.0 / duration), max(4.0, fewest), 8)


def time_limit(duration: float) -> float:
    """Return how long trials of samples may take, as a multiple of the final encode's time."""
    return 3.0 if duration < SHORT else 1.0 if duration < _LONG else 0.35


async def compress_at_one_crf(work: Work) -> Product:
    """Return the video at one CRF that reaches the quality, or the source if none does."""
    video_encoder = work.video_encoder
    if not work.duration or work.metric is None:
        return await _without_search(work)
    rate = require_video(work.job.media).frame_rate or 25.0
    samples = plan_samples(work.duration, video_encoder.scoring_cost, rate)
    try:
        quality = work.job.parameters.quality
        search = Search(
            video_encoder.curve,
            target=quality,
            aim=quality + AIM_ABOVE,
            floor=min(quality, GIVES_WAY_TO),
            size_limit=work.video_limit,
            start=video_encoder.curve.typical_crf(quality + AIM_ABOVE),
            reach=_REACH if work.duration < SHORT else 0.0,
        )
        if not samples.starts and work.duration < SHORT:
            start = search.next_crf()
            assert start is not None
            return await _encode(work, search, Choice(start, search.aim, search.size_limit), True)
        await _try_samples(work, search, samples)
    except CommandFailed as error:
        if error.command.stage != "searching" or not error.kind.may_be_the_files:
            raise
        # It may not be possible to sample a damaged video that can still be encoded from its start.
        return await _without_search(work)
    if not search.points:
        return await _without_search(work)
    choice = search.choose()
    if choice is None:
        return await untouched(work)
    return await _encode(work, search, choice)


async def _try_samples(work: Work, search: Search, samples: Samples) -> None:
    """Encode and score samples until the search knows enough or its time is used up."""
    doubt = work.error(SPARSE, search.aim, samples.fraction) / (101.0 - search.aim)
    dense = doubt > _SAMPLE_DOUBT or work.video_encoder.scoring_cost < 0.5
    every = 1 if dense else SPARSE
    while (crf := search.next_crf()) is not None:
        trial = await _trial(work, crf, samples, every, None if search.points else search)
        work.probes += 1
        cost = trial.encode_time + trial.score_time
        work.search_time += cost
        if trial.score is None:
            return
        score = trial.score
        if samples.starts:
            more = _LACK_IN_SAMPLES if samples.frames else _LACK_IN_LONG_SAMPLES
            score = 100.0 - (100.0 - score) * math.exp(-more)
        search.add(Point(crf, score, trial.size))
        allowed = time_limit(work.duration) * trial.encode_time / samples.fraction
        reserve = 0.0
        if work.duration < _TOO_SHORT_TO_COUNT:
            continue
        if work.duration < SHORT and len(search.points) >= 2:
            reserve = cost / samples.fraction
        if work.search_time + cost + reserve > allowed * 0.9:
            return


async def _trial(
    work: Work, crf: float, samples: Samples, every: int, search: Search | None
) -> on_cluster.Trial:
    """Encode and score samples. A `search` is told what the source scores against itself."""
    trial = None
    if work.metric == "vmaf":
        trial = await on_cluster.trial(work, crf, samples, every=every, search=search)
    if trial is not None:
        return trial
    encode = work.sample_command(
        _TRIAL_FILE, work.video_encoder.rate(crf), samples, weight=work.weight(0.1)
    )
    score, encoding, scoring = await work.encode_and_score(
        encode, _TRIAL_FILE, samples, stage="searching", weight=0.05, every=every, search=search
    )
    size = 0.0
    if score is not None:
        weigh = partial(
            film_bytes,
            size=work.job.size_of(_TRIAL_FILE),
            samples=samples,
            frames=require_video(work.job.media).frames,
        )
        size = await work.job.examine(_TRIAL_FILE, weigh)
    return on_cluster.Trial(score, size, encoding, scoring)


@dataclass(frozen=True, slots=True)
class _Film:
    """An encode of the whole video: its file, score and bytes, the error of the score, and the
    seconds that it took."""

    name: str
    choice: Choice
    score: float | None
    error: float
    written: int
    encode_time: float

    def reaches(self, score: float) -> bool:
        """Return whether its score is no further below `score` than is allowed."""
        return self.score is None or self.score >= score - _TOO_LOW + _DOUBT * self.error

    def exceeds(self, score: float) -> bool:
        """Return whether its score is further above `score` than is allowed."""
        return self.score is not None and self.score > score + _TOO_HIGH - _DOUBT * self.error


async def _encode(work: Work, search: Search, choice: Choice, direct: bool = False) -> Product:
    """Encode the video, and again if it is too large or misses the score.

    A `direct` one was not sampled before: its first encode is the first trial.
    """
    tried: list[_Film] = []
    every, error = work.sparse(search.aim)
    while True:
        first = direct and not tried
        name, took, measured, scored = await _make(
            work, choice.crf, every, search if first else None
        )
        if not direct and measured is not None and measured < choice.score - _UNPAIRED:
            measured = None
        film = _Film(name, choice, measured, error, work.job.size_of(name), took)
        tried.append(film)
        better = _correction(work, search, film)
        if better is None or work.probes >= MAX_PROBES:
            break
        work.search_time += took + scored
        work.probes += 1
        choice = better
    best = _best(work, search, tried)
    if best is None:
        return await untouched(work)
    lowest = search.floor if best.choice.gave_way else min(search.target, best.choice.score)
    if best.score is not None and best.score < lowest - _TOO_LOW:
        work.job.warn(
            f"The score {search.target:g} was not reached: the result's is {best.score:.1f}."
        )
    elif best.choice.gave_way:
        work.job.warn(
            f"The quality {work.job.parameters.quality:g} takes about as many bytes as the source "
            "has; a lower one was chosen that makes the video smaller."
        )
    return work.product(best.name, _details(work, search, best))


async def _make(
    work: Work, crf: float, every: int, search: Search | None
) -> tuple[str, float, float | None, float]:
    """Encode and score the video; return its file, the seconds that it took, its score, and the
    seconds that scoring took. A `search` is told what the source scores against itself."""
    if search is None:
        made = await on_cluster.encode(work, crf, every=every, weight=0.8)
        if made is not None:
            return made.name, made.encode_time, made.score, made.score_time
    name, command = work.film(work.video_encoder.rate(crf), weight=0.65)
    measured, encoding, scoring = await work.encode_and_score(
        command,
        name,
        whole_film(work.duration),
        stage="scoring",
        weight=0.8,
        every=every,
        search=search,
    )
    return name, encoding, measured, scoring


def _best(work: Work, search: Search, tried: list[_Film]) -> _Film | None:
    """Return the encode to deliver: the last one if it is good, else the smallest good one, else
    the best; None when nothing that is small enough can be good enough."""
    fitting = [film for film in tried if film.written <= work.largest]
    if not fitting:
        return None
    last = tried[-1]
    if last in fitting and last.reaches(search.target):
        return last
    good = [film for film in fitting if film.score is not None and film.reaches(search.target)]
    if good:
        return min(good, key=lambda film: film.written)
    best = max(fitting, key=lambda film: search.target if film.score is None else film.score)
    nearly = best.score is None or best.score >= search.floor - 1.0
    # Without enough trials the target may still be missed where the size is no hindrance.
    return best if nearly or search.choose() is not None else None


def _correction(work: Work, search: Search, film: _Film) -> Choice | None:
    """Return what to encode with instead; None if the video is right or nothing is better."""
    choice, score = film.choice, film.score
    video_bytes = max(film.written - work.other_bytes, 1.0)
    too_large = film.written > work.largest or video_bytes > search.size_limit * 1.05
    if not (too_large or not _good(film, search) or _wasteful(film, search, video_bytes)):
        return None
    search.calibrate(Point(choice.crf, choice.score if score is None else score, video_bytes))
    better = search.choose()
    if better is None or any(abs(better.crf - p.crf) < search.curve.step / 2 for p in search.whole):
        return None
    return better


def _good(film: _Film, search: Search) -> bool:
    if film.choice.gave_way:
        return film.reaches(search.floor)
    return film.reaches(search.target) and not film.exceeds(search.target)


def _wasteful(film: _Film, search: Search, size: float) -> bool:
    """Return whether quality was given up for the size, and more of it than necessary."""
    if not film.choice.gave_way:
        return False
    return not film.reaches(search.target) and size < search.size_limit * 0.93


def _details(work: Work, search: Search, film: _Film) -> dict[str, Any]:
    details: dict[str, Any] = {
        "crf": film.choice.crf,
        "metric": work.metric,
        "target_score": round(search.target, 2),
        "predicted_score": round(film.choice.score, 2),
    }
    if film.score is not None:
        details.update(measured_score=round(film.score, 2), measured_error=round(film.error, 2))
    details.update(
        target_lowered=film.choice.gave_way,
        probes=work.probes,
        search_time=round(work.search_time, 2),
        encode_time=round(film.encode_time, 2),
    )
    return details


async def _without_search(work: Work) -> Product:
    """Encode at the typical CRF of the quality, and again at a higher one if that was too large."""
    crf = work.video_encoder.curve.typical_crf(work.job.parameters.quality)
    for more in (0.0, 5.0):
        wanted = min(crf + more, work.video_encoder.curve.crf_range[1])
        crf_now = work.video_encoder.rounded(wanted)
        name, command = work.film(work.video_encoder.rate(crf_now), weight=0.7)
        encoded = await work.job.run(command)
        if work.job.size_of(name) <= work.largest:
            return work.product(
                name,
                {
                    "crf": crf_now,
                    "probes": 0,
                    "search_time": round(work.search_time, 2),
                    "encode_time": round(encoded.elapsed, 2),
                },
            )
    return await untouched(work)
