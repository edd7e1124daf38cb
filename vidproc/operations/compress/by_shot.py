"""Encoding a video shot by shot, each at the CRF where its bytes are spent best.

A sample of each shot is encoded and scored at two CRFs, which gives the shots' CRFs. Then the video
is encoded in segments of a few shots each, several at a time, and scored while others are encoded.
The scores of the first ones adjust the CRFs of those that follow, so that the video meets its
target without a second encode. If it still misses, as few segments as possible are encoded again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from vidproc.ffmpeg.command import Command, CommandFailed, Completed
from vidproc.operations.base import Product
from vidproc.operations.compress import on_cluster, segments, shots, source_rate
from vidproc.operations.compress.allocation import (
    PERFECT,
    ShotCurve,
    allocate,
    limits,
    mean_score,
    one_crf,
    saving,
    shifted,
    together,
    total_size,
)
from vidproc.operations.compress.encode import Codec
from vidproc.operations.compress.one_crf import AIM_ABOVE
from vidproc.operations.compress.scoring import frame_sizes, parse_score, parse_scores
from vidproc.operations.compress.search import MAX_PROBES, Point
from vidproc.operations.compress.shots import Shot
from vidproc.operations.compress.source_rate import SourceRate
from vidproc.operations.compress.work import Work
from vidproc.operations.frames import require_video

SHORTEST, LONGEST = 16.0, 3 * 3600.0
"""Length in seconds of videos that are encoded by shot: shorter ones have too few shots, longer
ones too many segments."""
_FEWEST = 4
_MANY = 600.0
"""Length in seconds from which the shortest sample of each shot is enough."""
_SAMPLE_FRACTION, _SAMPLE_SECONDS, _SAMPLE_FRAMES = 0.1, 0.6, 16
"""Of each shot. By the curves of 68 shots, samples half as long again would save 0.2 % of the bytes
and cost a fifth of the encode's time."""
_SAMPLED_AT = (-1.0, 5.0)
"""The CRFs of samples, against that which the aim takes. Two tell how much a shot gains by its
bytes; by these curves, samples at one CRF save 1 % less. They tell it even of a CRF 6 below them,
but not of one above them, where the best shots begin to lose: then the video is sampled again."""
_REORDERED = 4
_LACK_IN_SAMPLES: Mapping[Codec, float] = {"h264": 0.22, "hevc": 0.195}
_LACK_PER_POINT, _SIZE_IN_SAMPLES = 0.005, -0.12
"""How much higher ln(missing points), at a quality of 90 and for each point above it, and ln(bytes)
are in samples than in their shots: an encoder spends less on what it soon no longer shows. Over 16
encodes of five small videos at 75 to 97, the first had a standard deviation of 0.05; the second is
-0.04 to -0.16 in five videos of 360 to 720 lines, -0.2 to -0.39 in small ones. The first frames of
samples, which are better than the others, are not scored."""
_WORTH = 0.01
"""The fraction of the bytes that shots with their own CRFs must save."""
_TOGETHER, _LONGEST_TOGETHER = 6, 60.0
"""Neighbouring shots are encoded together, up to this part of the video's length and this many
seconds, where the encoder can change its CRF on the way or needn't: the ends of segments cost bytes
(15 of them instead of 8, for a video of 72 s: 0.2 %). Longer ones could not be steered or
corrected."""
_ALIKE, _NEAR = 0.05, 2.0
"""The largest difference between the CRFs of such shots if the encoder can't change it, and between
those of neighbours if it can: x264 gives a keyframe the quantizer of the frames before it, whatever
its zone. That cost a video of stills, whose keyframes are half of it, 0.5 % of the bytes."""
_TOO_LOW, _TOO_HIGH = 0.3, 0.8
"""Score points below and above the target beyond which shots are encoded again."""
_FALLEN = 0.75
"""How far above its highest CRF, by what it scored, a shot is encoded again."""
_BELOW_AIM, _ABOVE_AIM, _STEERED = 0.3, 0.25, 1.5
"""Score points below and above the aim within which the remaining shots keep their CRFs, and the
largest change of these per batch. Making the last shots compensate for all others, to meet the aim
exactly, cost as many bytes as encoding by shot saved."""
_CORRECTED = 8.0
"""The largest change per correction: it knows all shots, but not their slopes so far away."""
_SURELY_TOO_LARGE, _TOO_LARGE = 1.15, 1.05
"""The bytes, against the size rule's, at which another search is worth while: by samples, whose
estimates of five videos were up to 10 % off, and by what was encoded."""


def suits(work: Work) -> bool:
    """Return whether a video can be encoded by shot."""
    video = require_video(work.job.media)
    length = video.duration or 0.0
    return (
        work.metric == "vmaf"
        and work.video_encoder.joinable is not None
        and SHORTEST <= length <= LONGEST
        and segments.possible(work.job.media)
        and work.job.parameters.quality <= _HIGHEST
    )


_HIGHEST = 97.0
"""Above this quality, the source's own score may limit the target, which only `one_crf` handles."""


@dataclass(slots=True)
class _Take:
    """A segment with its curve and its encode: `file` is the segment at `crf`, once encoded, with
    its measured `score` and its `size` in bytes. `trials` counts its encodes and samples.

    It consists of shots that begin at the frames `firsts`, counted from the segment's start, with
    CRFs that are `offsets` above `crf`.
    """

    shot: Shot
    curve: ShotCurve
    crf: float
    firsts: Sequence[int] = (0,)
    offsets: Sequence[float] = (0.0,)
    file: str | None = None
    score: float | None = None
    size: int = 0
    trials: int = 0

    def zones(self) -> list[tuple[int, float]]:
        """Return at which frames its shots begin, and how far their CRFs are from `crf`."""
        return list(zip(self.firsts, self.offsets, strict=True))


async def compress_by_shot(work: Work) -> Product | None:
    """Return the video, or None if it should be encoded as a whole."""
    try:
        return await _compress(work)
    except CommandFailed as error:
        if not error.kind.may_be_the_files:
            raise
        return None  # where a file is damaged, a segment may have no frames


async def _compress(work: Work) -> Product | None:
    media, video = work.job.media, require_video(work.job.media)
    command = shots.cuts_command(media, packets=source_rate.FILE, weight=work.weight(0.04))
    found = await work.job.run(command)
    work.search_time += found.elapsed
    cuts = shots.parse_cuts(found.stdout, media)
    film = shots.divide(cuts, video.duration or work.duration, shots.lead(media))
    if len(film) < _FEWEST:
        return None
    quality = work.job.parameters.quality
    aim = quality + AIM_ABOVE
    rate = await work.job.examine(source_rate.FILE, source_rate.parse_packets)
    curves, trials = await _curves(work, film, rate, aim)
    if curves is None:
        return None
    same = work.video_encoder.rounded(one_crf(curves, aim))
    crfs = allocate(curves, aim)
    saved = saving(curves, aim, crfs)
    if saved < _WORTH:
        crfs, saved = [same] * len(film), 0.0
    if total_size(curves, crfs) > _SURELY_TOO_LARGE * work.video_limit:
        return None  # the size decides, which is a search of its own
    predicted = mean_score(curves, crfs)
    takes = _takes(work, film, curves, crfs, rate, trials)
    await _encode(work, takes, aim, weight=work.weight(0.8))
    if _too_large(work, takes):
        return None
    for correction in range(MAX_PROBES - trials - 1):
        wrong = _wrong(takes, quality, aim) or ([] if correction else _fallen(takes))
        if not wrong:
            break
        for take, crf in wrong:
            take.crf, take.file, take.score = crf, None, None
        await _encode(work, takes, None, weight=work.weight(0.3))
    work.files += 1
    name = f"result-{work.files}.mp4"
    files = [(take.shot, take.file or "") for take in takes]
    joined = await work.job.run(segments.join_command(work, files, name, work.weight(0.9)))
    work.encode_time += joined.elapsed
    if work.job.size_of(name) > work.largest:
        return None
    work.probes = max(take.trials for take in takes)
    score = _mean(takes)
    if score < quality - 0.5:
        work.job.warn(f"The score {quality:g} was not reached: the result's is {score:.1f}.")
    return work.product(name, _details(work, takes, len(film), saved, predicted, score))


def _takes(
    work: Work,
    film: Sequence[Shot],
    curves: Sequence[ShotCurve],
    crfs: Sequence[float],
    rate: SourceRate,
    trials: int,
) -> list[_Take]:
    """Return the segments to encode, which consist of shots or, on a cluster, are the shots."""
    longest = min(sum(shot.length for shot in film) / _TOGETHER, _LONGEST_TOGETHER)
    if work.job.capabilities.spare_cores >= 2:
        longest = 0.0
    firsts = [rate.first_frame(shot) for shot in film]
    zoned = work.video_encoder.zones and len(set(firsts)) == len(firsts)
    runs: list[range] = []
    seconds = 0.0
    for n, shot in enumerate(film):
        seconds += shot.length
        before, most = (n - 1, _NEAR) if zoned else (runs[-1].start if runs else n, _ALIKE)
        if runs and seconds <= longest and abs(crfs[n] - crfs[before]) <= most:
            runs[-1] = range(runs[-1].start, n + 1)
        else:
            runs.append(range(n, n + 1))
            seconds = shot.length
    takes = []
    for run in runs:
        curve, crf = together([curves[n] for n in run], [crfs[n] for n in run])
        first, last = film[run.start], film[run.stop - 1]
        take = _Take(
            replace(first, end=last.end, last=last.last),
            curve,
            work.video_encoder.rounded(crf),
            trials=trials,
        )
        if zoned and len(run) > 1:
            take.firsts = [firsts[n] - firsts[run.start] for n in run]
            take.offsets = [round(crfs[n] - take.crf, 2) for n in run]
        takes.append(take)
    return takes


# Samples


async def _curves(
    work: Work, film: Sequence[Shot], source: SourceRate, aim: float
) -> tuple[list[ShotCurve] | None, int]:
    """Return the shots' curves by samples, None without scores, and how often they were sampled."""
    crfs = _sampled_at(work, work.video_encoder.curve.typical_crf(aim))
    curves = await _sample(work, film, source, crfs)
    if curves is None or one_crf(curves, aim) <= crfs[-1]:
        return curves, 1
    crfs = _sampled_at(work, one_crf(curves, aim))
    return await _sample(work, film, source, crfs, already=len(crfs)), 2


def _sampled_at(work: Work, crf: float) -> list[float]:
    """Return the CRFs of samples of a video that meets its aim at about `crf`."""
    crf = min(crf, work.video_encoder.curve.crf_range[1] - _SAMPLED_AT[-1])
    return [work.video_encoder.rounded(crf + step) for step in _SAMPLED_AT]


async def _sample(
    work: Work,
    film: Sequence[Shot],
    source: SourceRate,
    crfs: Sequence[float],
    already: int = 0,
) -> list[ShotCurve] | None:
    """Encode and score a sample of each shot at two CRFs, the lower one first; return the shots'
    curves, None without scores. `already` is how many samples of each shot there are."""
    rate = require_video(work.job.media).frame_rate or 25.0
    fraction = _SAMPLE_FRACTION if work.duration < _MANY else 0.0
    samples = [
        shot.sample(max(_SAMPLE_SECONDS, _SAMPLE_FRAMES / rate, fraction * shot.length))
        for shot in film
    ]
    await on_cluster.find_parts(work, [*film, *samples])
    numbers = range(already, already + len(crfs))
    names = [[f"sample-{shot.number}-{number}.mkv" for number in numbers] for shot in film]
    weight = work.weight(0.2) / 2 / sum(sample.length for sample in samples)
    encodes = [
        segments.sample_command(
            work, sample, list(zip(files, crfs, strict=True)), weight=weight * sample.length
        )
        for sample, files in zip(samples, names, strict=True)
    ]
    scores = [
        segments.score_command(
            work,
            sample,
            files,
            stage="searching",
            weight=weight * sample.length,
            every=1,
            skipped=1,
        )
        for sample, files in zip(samples, names, strict=True)
    ]
    width = segments.at_once(work, len(film))
    done: list[Completed] = []
    for at in range(0, len(film) + width, width):
        # Scores of what the last round encoded, beside the next round's encodes.
        earlier = scores[max(at - width, 0) : at]
        ran = await _together(work, [*encodes[at : at + width], *earlier])
        work.search_time += max(each.elapsed for each in ran)
        done += ran[len(ran) - len(earlier) :]
    more = _LACK_IN_SAMPLES[work.video_encoder.codec]
    more += _LACK_PER_POINT * (work.job.parameters.quality - 90.0)
    found: list[list[float]] = []
    sizes: list[list[float]] = []
    for shot, sample, files, scored in zip(film, samples, names, done, strict=True):
        measured = parse_scores(scored)
        if len(measured) < len(crfs):
            return None
        found.append([100.0 - (100.0 - score) * math.exp(-more) for score in measured])
        sizes.append([await _weigh(work, shot, sample, name, rate) for name in files])
    corrected = [
        source.corrected(list(zip(film, samples, each, strict=True)))
        for each in zip(*sizes, strict=True)
    ]
    return [
        ShotCurve.between(
            work.video_encoder.curve, shot.length, *map(Point, crfs, scores_found, weights)
        )
        for shot, scores_found, weights in zip(
            film, found, zip(*corrected, strict=True), strict=True
        )
    ]


async def _weigh(work: Work, shot: Shot, sample: Shot, name: str, rate: float) -> float:
    """Return the bytes of a shot, of which a sample was encoded into the file `name`."""
    written = work.job.size_of(name)
    sizes = [size for size, _ in await work.job.examine(name, frame_sizes)]
    second = round((sample.stretches[0][1] - sample.start) * rate) if sample.gap else 0
    size = _shot_bytes(sizes, second, shot.length * rate, written / (sample.length * rate))
    return size * math.exp(-_SIZE_IN_SAMPLES)


def _shot_bytes(sizes: Sequence[int], second: int, frames: float, per_frame: float) -> float:
    """Return the bytes of a shot of `frames` frames from the sizes of its sample's frames.

    The shot has one keyframe, as the sample has. The first frame of the sample's second half, the
    frame `second` or shortly before it in coding order, costs nearly as much, and is left out.
    Without the sizes, each frame has `per_frame` bytes.
    """
    if len(sizes) < 2:
        return max(per_frame, 1.0) * frames
    others = list(sizes[1:])
    near = range(max(second - 1 - _REORDERED, 0), min(second, len(others)))
    if second and len(others) > len(near):
        del others[max(near, key=lambda n: others[n])]
    return sizes[0] + sum(others) / len(others) * max(frames - 1, 0.0)


async def _together(work: Work, commands: Sequence[Command]) -> list[Completed]:
    return list(await work.job.run_together(commands))


# Encoding


async def _encode(work: Work, takes: Sequence[_Take], aim: float | None, weight: float) -> None:
    """Encode and score the shots that have no file yet.

    With an `aim`, the CRFs are adjusted to what was measured so far, so that the video reaches it.
    """
    waiting = _spread([take for take in takes if take.file is None])
    per_second = weight / 1.3 / sum(take.shot.length for take in waiting)
    # Without an aim there is nothing to learn from the first ones.
    width = segments.at_once(work, len(waiting) if aim is None else 0)
    unscored: list[_Take] = []
    first = True
    while waiting or unscored:
        batch, waiting = waiting[:width], waiting[width:]
        if aim is not None and batch:
            _steer(takes, aim)
        commands = []
        for take in batch:
            take.crf = work.video_encoder.rounded(take.crf)
            take.trials += 1
            take.file = f"shot-{take.shot.number}-{take.trials}.mp4"
            commands.append(
                segments.encode_command(
                    work,
                    take.shot,
                    take.crf,
                    take.file,
                    stage="encoding",
                    weight=per_second * take.shot.length,
                    zones=take.zones(),
                )
            )
        await _run(work, commands, unscored, per_second)
        for take in batch:
            take.size = work.job.size_of(take.file or "")
        unscored = batch
        if first and aim is not None and waiting:
            # Scored without waiting for the next ones, for they steer all that follow.
            await _run(work, [], unscored, per_second)
            unscored = []
        first = False
        if aim is not None and _too_large(work, takes):
            return


def _too_large(work: Work, takes: Sequence[_Take]) -> bool:
    """Return whether the video will be larger than the size rule allows, given what is encoded."""
    known = [take for take in takes if take.size]
    seen = sum(take.size for take in known)
    foreseen = sum(take.curve.size_at(take.crf) for take in known)
    left = sum(take.curve.size_at(take.crf) for take in takes if not take.size)
    return seen + left * seen / foreseen > _TOO_LARGE * work.video_limit


async def _run(
    work: Work, encodes: Sequence[Command], unscored: Sequence[_Take], per_second: float
) -> None:
    """Run encodes, and score the shots that were encoded before in parallel."""
    scores = [_score(work, take, per_second) for take in unscored]
    done = await _together(work, [*encodes, *scores])
    work.encode_time += max(each.elapsed for each in done)
    for take, scored in zip(unscored, done[len(encodes) :], strict=True):
        take.score = parse_score(scored, "vmaf")


def _score(work: Work, take: _Take, per_second: float) -> Command:
    """Return the command that scores an encoded shot."""
    return segments.score_command(
        work,
        take.shot,
        [take.file or ""],
        stage="encoding",
        weight=per_second * take.shot.length * 0.3,
        every=work.sparse(work.job.parameters.quality)[0],
    )


def _spread(takes: Sequence[_Take]) -> list[_Take]:
    """Return the shots in an order in which the first ones represent the whole video."""
    step = max(1, round(math.sqrt(len(takes))))
    return [take for first in range(step) for take in takes[first::step]]


def _steer(takes: Sequence[_Take], aim: float) -> None:
    """Move the CRFs of the shots that are still to be encoded so that the video's mean becomes
    `aim`, given what the others score."""
    known = [take for take in takes if take.score is not None]
    if not known:
        return
    # By the sums, for the video's score is a mean of scores, not of their logarithms.
    missing = sum(t.shot.length * (PERFECT - (t.score or 0.0)) for t in known)
    foreseen = sum(t.shot.length * (PERFECT - t.curve.score_at(t.crf)) for t in known)
    lack = math.log(missing / foreseen)
    lack *= len(known) / (len(known) + 1)
    fixed = sum(take.shot.length * (take.score or 0.0) for take in known)
    underway = [take for take in takes if take.score is None and take.file is not None]
    fixed += sum(t.shot.length * t.curve.moved(lack).score_at(t.crf) for t in underway)
    left = [take for take in takes if take.file is None]
    seconds = sum(take.shot.length for take in left)
    total = sum(take.shot.length for take in takes)
    if not seconds:
        return
    curves = [take.curve.moved(lack) for take in left]
    crfs = [take.crf for take in left]
    expected = (fixed + seconds * mean_score(curves, crfs)) / total
    wanted = min(max(expected, aim - _BELOW_AIM), aim + _ABOVE_AIM)
    if wanted == expected:
        return
    wanted = (wanted * total - fixed) / seconds
    for take, crf in zip(left, shifted(curves, crfs, wanted, most=_STEERED), strict=True):
        take.crf = crf


def _mean(takes: Sequence[_Take]) -> float:
    total = sum(take.shot.length for take in takes)
    return sum(take.shot.length * (take.score or 0.0) for take in takes) / total


def _wrong(takes: Sequence[_Take], target: float, aim: float) -> list[tuple[_Take, float]]:
    """Return the shots to encode again, with their CRFs, so that the video meets its target.

    These are as few as possible: the ones where it is worth most.
    """
    if any(take.score is None for take in takes):
        return []
    mean = _mean(takes)
    if -_TOO_LOW <= mean - target <= _TOO_HIGH:
        return []
    curves = _measured(takes)
    total = sum(take.shot.length for take in takes)
    # Twice as far as all shots would have to go: half of the video is encoded again at most.
    crfs = shifted(curves, [take.crf for take in takes], aim + (aim - mean), most=_CORRECTED)
    gains = [
        take.shot.length * (curve.score_at(crf) - (take.score or 0.0)) / total
        for take, curve, crf in zip(takes, curves, crfs, strict=True)
    ]
    # The most gain for the bytes where the score is too low, the most bytes for it where it is
    # too high: both keep the shots' slopes together.
    order = sorted(
        range(len(takes)), key=lambda n: curves[n].cost(takes[n].crf), reverse=mean > target
    )
    wrong = []
    for n in order:
        if abs(aim - mean) < 0.1:
            break
        take, crf, gain = takes[n], crfs[n], gains[n]
        if abs(gain) > abs(aim - mean):  # the last one goes only as far as it has to
            gain = aim - mean
            crf = curves[n].crf_for((take.score or 0.0) + gain * total / take.shot.length)
        if abs(gain) > 1e-6:
            wrong.append((take, crf))
            mean += gain
    return wrong


def _fallen(takes: Sequence[_Take]) -> list[tuple[_Take, float]]:
    """Return the shots to encode again, with their CRFs, because they became worse than shots may:
    their samples were better than they are. They get the one CRF that would do for all, if not a
    lower one, for their slopes are steeper than was thought, too."""
    if any(take.score is None for take in takes):
        return []
    curves = _measured(takes)
    same = one_crf(curves, _mean(takes))
    most = zip(takes, limits(curves, same), strict=True)
    return [(take, min(crf, same)) for take, crf in most if take.crf - crf > _FALLEN]


def _measured(takes: Sequence[_Take]) -> list[ShotCurve]:
    return [take.curve.through(take.crf, take.score or 0.0, take.size) for take in takes]


# The report


def _details(
    work: Work,
    takes: Sequence[_Take],
    number: int,
    saved: float,
    predicted: float,
    score: float,
) -> dict[str, Any]:
    """Return what is reported of a video of `number` shots."""
    seconds = sum(take.shot.length for take in takes)
    middle = sum(take.crf * take.shot.length for take in takes) / seconds
    crfs = [round(take.crf + offset, 1) for take in takes for offset in take.offsets]
    return {
        "crf": round(middle, 1),
        "crf_range": [min(crfs), max(crfs)],
        "shots": number,
        "saved_percent": round(100 * saved, 1),
        "metric": work.metric,
        "target_score": round(work.job.parameters.quality, 2),
        "predicted_score": round(predicted, 2),
        "measured_score": round(score, 2),
        "measured_error": round(work.sparse(work.job.parameters.quality)[1], 2),
        "target_lowered": False,
        "probes": work.probes,
        "search_time": round(work.search_time, 2),
        "encode_time": round(work.encode_time, 2),
    }
