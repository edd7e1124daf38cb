"""How good each shot should be for the video to reach a mean score with the fewest bytes.

Bytes are spent best when one more byte would gain every shot the same. The logarithms of a shot's
bytes and of the points that it is missing to a perfect score are nearly straight lines over the
CRF, so one measured point per shot tells how far its CRF should be from the others'. A sample does
not represent its shot fully, so the CRF moves only part of that way.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from vidproc.operations.compress.search import Curve

PERFECT = 100.6
"""Missing points are counted from here, so that they always have a logarithm."""
_SIZE_WEIGHT = 0.5
"""How far a shot's bytes move its CRF towards the one with equal slopes. The weights are below 1,
because a sample is not the whole shot and a point is not the whole curve. They come from a
regression over 73 shots of six videos, leaving one video out each time (`benchmarks/compress.py`
measures what they give)."""
_LACK_WEIGHT, _LACK_FROM = 0.03, 80.0
"""The same for a shot's missing points, per score point of the aim above `_LACK_FROM`: the cost of
the next point depends on them only where few are missing."""
_MOST_LACK_WEIGHT = 0.46
_STILL_WEIGHT = 0.11
"""The same for how still a shot is, which its keyframe's part of the bytes tells: less is gained by
spending on a still one."""
_SURE_FROM, _UNSURE_AT = 85.0, 65.0
"""Aims between which the weights of the bytes and of the stillness fall to zero: shots' curves
differ more at low scores."""
_REAL_PART = 0.5
"""How much of the predicted saving is real, as measured on these videos: 0.15 to 0.75."""
_FARTHEST = 4.0
"""How far a shot's CRF may be from the others', in steps of a quantizer from 0 to 51."""
_WORST = 0.1
"""The worst fraction of the video at one CRF: no shot may score less than that does."""


@dataclass(slots=True)
class ShotCurve:
    """What is known about a shot: at `crf` it is exp(`lack`) points below a perfect score and has
    exp(`size`) bytes. `seconds` is its length. `curve` is how the encoder responds to its CRF.
    `still` is the logarithm of its keyframe's bytes over another frame's, 0 if unknown."""

    curve: Curve
    seconds: float
    crf: float
    lack: float
    size: float
    still: float = 0.0

    @classmethod
    def through(
        cls,
        curve: Curve,
        seconds: float,
        crf: float,
        score: float,
        size: float,
        still: float = 0.0,
    ) -> ShotCurve:
        """Return the curve through a measured score and size in bytes."""
        return cls(curve, seconds, crf, _lack(score), math.log(max(size, 1.0)), still)

    def score_at(self, crf: float) -> float:
        """Return the score expected at a CRF."""
        lack = math.exp(self.lack + self.curve.score_slope * (crf - self.crf))
        return min(max(PERFECT - lack, 0.0), 100.0)

    def lack_at(self, crf: float) -> float:
        """Return the logarithm of the points expected to be missing at a CRF."""
        return self.lack + self.curve.score_slope * (crf - self.crf)

    def cost(self) -> float:
        """Return the bytes per second that the next score point costs, up to a common factor."""
        return math.exp(self.size - self.lack) / self.seconds

    def size_at(self, crf: float) -> float:
        """Return the bytes expected at a CRF."""
        return math.exp(self.size + self.curve.size_slope * (crf - self.crf))

    def crf_for(self, score: float) -> float:
        """Return the CRF at which a score is expected."""
        return self.crf + (_lack(score) - self.lack) / self.curve.score_slope

    def moved(self, lack: float, size: float) -> ShotCurve:
        """Return the curve with these values added to its logarithms."""
        return replace(self, lack=self.lack + lack, size=self.size + size)


def mean_score(shots: Sequence[ShotCurve], crfs: Sequence[float]) -> float:
    """Return the score of the video when each shot has its CRF."""
    total = sum(shot.seconds for shot in shots)
    return sum(s.seconds * s.score_at(crf) for s, crf in zip(shots, crfs, strict=True)) / total


def total_size(shots: Sequence[ShotCurve], crfs: Sequence[float]) -> float:
    """Return the bytes of the video when each shot has its CRF."""
    return sum(s.size_at(crf) for s, crf in zip(shots, crfs, strict=True))


def one_crf(shots: Sequence[ShotCurve], aim: float) -> float:
    """Return the one CRF for all shots that gives the video the mean score `aim`."""
    return _bisect(shots[0].curve, lambda crf: mean_score(shots, [crf] * len(shots)) - aim)


def allocate(shots: Sequence[ShotCurve], aim: float) -> list[float]:
    """Return the CRF of each shot that gives the video the mean score `aim`.

    No shot is worse than the worst tenth of the video would be at one CRF for all.
    """
    curve = shots[0].curve
    same = one_crf(shots, aim)
    steepness = curve.score_slope - curve.size_slope
    wishes = _wishes(shots, same, aim)
    far = _FARTHEST * (curve.crf_range[1] - curve.crf_range[0]) / 35.0
    offsets = [min(max(wish / steepness, -far), far) for wish in wishes]
    bad = _worst(shots, same)
    most = [shot.crf_for(min(shot.score_at(same), bad)) for shot in shots]

    def crfs(middle: float) -> list[float]:
        low, high = curve.crf_range
        return [
            min(max(middle + offset, low), high, max(limit, low))
            for offset, limit in zip(offsets, most, strict=True)
        ]

    return crfs(_bisect(curve, lambda crf: mean_score(shots, crfs(crf)) - aim))


def _wishes(shots: Sequence[ShotCurve], same: float, aim: float) -> list[float]:
    """Return how far each shot should move from the common CRF `same`, in ln(bytes for the next
    score point)."""
    lack_weight = min(max(_LACK_WEIGHT * (aim - _LACK_FROM), 0.0), _MOST_LACK_WEIGHT)
    sure = (aim - _UNSURE_AT) / (_SURE_FROM - _UNSURE_AT)
    sure = min(max(sure, 0.0), 1.0)
    size_weight, still_weight = _SIZE_WEIGHT * sure, _STILL_WEIGHT * sure
    wishes = [
        size_weight * math.log(shot.size_at(same) / shot.seconds)
        + still_weight * shot.still
        - lack_weight * shot.lack_at(same)
        for shot in shots
    ]
    total = sum(shot.seconds for shot in shots)
    middle = sum(w * shot.seconds for w, shot in zip(wishes, shots, strict=True)) / total
    return [wish - middle for wish in wishes]


def together(shots: Sequence[ShotCurve], crfs: Sequence[float]) -> tuple[ShotCurve, float]:
    """Return the curve of shots that are encoded together, and the CRF in the middle of theirs."""
    seconds = sum(shot.seconds for shot in shots)
    crf = sum(shot.seconds * crf for shot, crf in zip(shots, crfs, strict=True)) / seconds
    score, size = mean_score(shots, crfs), total_size(shots, crfs)
    return ShotCurve.through(shots[0].curve, seconds, crf, score, size), crf


def shifted(shots: Sequence[ShotCurve], crfs: Sequence[float], aim: float) -> list[float]:
    """Return the CRFs, all moved by the same amount, that give the video the mean score `aim`.

    They move by `_FARTHEST` at most: what a few shots measured may not hold for the rest.
    """
    curve = shots[0].curve
    low, high = curve.crf_range
    far = _FARTHEST * (high - low) / 35.0

    def moved(by: float) -> list[float]:
        return [min(max(crf + by, low), high) for crf in crfs]

    low_by, high_by = -far, far
    while high_by - low_by > 0.005:
        by = (low_by + high_by) / 2
        if mean_score(shots, moved(by)) >= aim:
            low_by = by
        else:
            high_by = by
    return moved(low_by)


def saving(shots: Sequence[ShotCurve], aim: float, crfs: Sequence[float]) -> float:
    """Return the fraction of the bytes that `crfs` probably save compared with one CRF."""
    same = total_size(shots, [one_crf(shots, aim)] * len(shots))
    return _REAL_PART * (1.0 - total_size(shots, crfs) / same)


def _worst(shots: Sequence[ShotCurve], crf: float) -> float:
    """Return the score that the worst `_WORST` of the video stays below at one CRF."""
    total = sum(shot.seconds for shot in shots)
    seen = 0.0
    for score, seconds in sorted((shot.score_at(crf), shot.seconds) for shot in shots):
        seen += seconds
        if seen >= _WORST * total:
            return score
    return 0.0


def _lack(score: float) -> float:
    return math.log(PERFECT - min(max(score, 0.0), 100.0))


def _bisect(curve: Curve, above: Callable[[float], float]) -> float:
    """Return the highest CRF at which `above` is not negative, to a hundredth."""
    low, high = curve.crf_range
    low, high = low - 10.0, high + 10.0  # shots may lie on either side of it
    while high - low > 0.005:
        middle = (low + high) / 2
        if above(middle) >= 0:
            low = middle
        else:
            high = middle
    return low
