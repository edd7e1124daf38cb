"""How good each shot should be for the video to reach a mean score with the fewest bytes.

Bytes are spent best when one more byte would gain every shot the same. The logarithms of a shot's
bytes and of the points that it is missing to a perfect score are nearly straight lines over the
CRF, so two measured points per shot tell how far its CRF should be from the others'. A sample does
not represent its shot fully, so the CRF moves only part of that way.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from vidproc.operations.compress.search import Curve, Point

PERFECT = 100.6
"""Missing points are counted from here, so that they always have a logarithm."""
_TRUST = 0.75
"""How far a shot's CRF moves towards the one with equal slopes. With samples of 67 shots of five
videos, 0.6 to 0.9 saved the same at 95 and at 90, less than 0.2 % apart."""
_SURE_FROM, _UNSURE_AT = 85.0, 65.0
"""Aims between which that falls to zero: shots' curves differ more at low scores."""
_GENTLEST, _STEEPEST = 0.15, 2.5
"""How far the slopes of a shot may be from those of the encoder, as a factor."""
_REAL_PART = 0.7
"""How much of the predicted saving is real, as measured on these videos: 0.5 to 1.1."""
_FARTHEST = 5.0
"""How far a shot's CRF may be from the others', in steps of a quantizer from 0 to 51. On two of
these videos, each with one nearly perfect shot, 4 saved 0.5 % less, and 6 at most 0.3 % more."""
_WORST = 0.1
"""The worst fraction of the video at one CRF: no shot may score less than that does."""


@dataclass(slots=True)
class ShotCurve:
    """What is known about a shot: at `crf` it is exp(`lack`) points below a perfect score and has
    exp(`size`) bytes. Per CRF step, these logarithms change by `score_slope` and `size_slope` up to
    `reach` steps from there, and beyond as the encoder usually responds to its CRF, which is
    `curve`. `seconds` is its length."""

    curve: Curve
    seconds: float
    crf: float
    lack: float
    size: float
    score_slope: float
    size_slope: float
    reach: float

    @classmethod
    def between(cls, curve: Curve, seconds: float, low: Point, high: Point) -> ShotCurve:
        """Return the curve through two measured points, of which `low` has the lower CRF."""
        lacks = [_lack(point.score) for point in (low, high)]
        sizes = [math.log(max(point.size, 1.0)) for point in (low, high)]
        step = high.crf - low.crf
        return cls(
            curve,
            seconds,
            (low.crf + high.crf) / 2,
            sum(lacks) / 2,
            sum(sizes) / 2,
            _limited((lacks[1] - lacks[0]) / step, curve.score_slope),
            _limited((sizes[1] - sizes[0]) / step, curve.size_slope),
            step / 2,
        )

    def through(self, crf: float, score: float, size: float) -> ShotCurve:
        """Return the curve with these slopes that goes through a measured score and size."""
        return replace(self, crf=crf, lack=_lack(score), size=math.log(max(size, 1.0)))

    def score_at(self, crf: float) -> float:
        """Return the score expected at a CRF."""
        near, far = self._steps(crf)
        lack = math.exp(self.lack + self.score_slope * near + self.curve.score_slope * far)
        return min(max(PERFECT - lack, 0.0), 100.0)

    def cost(self, crf: float) -> float:
        """Return the logarithm of the bytes per second that the next score point costs at a CRF."""
        near, far = self._steps(crf)
        usual = self.curve.size_slope - self.curve.score_slope
        moved = (self.size_slope - self.score_slope) * near + usual * far
        slopes = math.log(-self.size_slope / self.score_slope)
        return self.size - self.lack + moved + slopes - math.log(self.seconds)

    def size_at(self, crf: float) -> float:
        """Return the bytes expected at a CRF."""
        near, far = self._steps(crf)
        return math.exp(self.size + self.size_slope * near + self.curve.size_slope * far)

    def crf_for(self, score: float) -> float:
        """Return the CRF at which a score is expected."""
        more = _lack(score) - self.lack
        near = min(max(more, -self.reach * self.score_slope), self.reach * self.score_slope)
        return self.crf + near / self.score_slope + (more - near) / self.curve.score_slope

    def _steps(self, crf: float) -> tuple[float, float]:
        """Return how far a CRF is from the measured one, within the reach and beyond it."""
        near = min(max(crf - self.crf, -self.reach), self.reach)
        return near, crf - self.crf - near

    def moved(self, lack: float) -> ShotCurve:
        """Return the curve with this added to the logarithm of its missing points."""
        return replace(self, lack=self.lack + lack)


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

    No shot is worse than the worst tenth of the video would be at one CRF for all. They all have
    that one if nothing is to be saved.
    """
    curve = shots[0].curve
    same = one_crf(shots, aim)
    steepness = curve.score_slope - curve.size_slope
    wishes = _wishes(shots, same, aim)
    far = _FARTHEST * (curve.crf_range[1] - curve.crf_range[0]) / 35.0
    offsets = [min(max(wish / steepness, -far), far) for wish in wishes]
    most = limits(shots, same)

    def crfs(middle: float) -> list[float]:
        low, high = curve.crf_range
        return [
            min(max(middle + offset, low), high, max(limit, low))
            for offset, limit in zip(offsets, most, strict=True)
        ]

    found = crfs(_bisect(curve, lambda crf: mean_score(shots, crfs(crf)) - aim))
    one = [same] * len(shots)
    return found if total_size(shots, found) <= total_size(shots, one) else one


def limits(shots: Sequence[ShotCurve], same: float) -> list[float]:
    """Return the highest CRF of each shot, given the one CRF `same` for all: it is no worse there
    than at `same`, or else than the worst tenth of the video is at `same`."""
    bad = _worst(shots, same)
    return [shot.crf_for(min(shot.score_at(same), bad)) for shot in shots]


def _wishes(shots: Sequence[ShotCurve], same: float, aim: float) -> list[float]:
    """Return how far each shot should move from the common CRF `same`, in ln(bytes for the next
    score point)."""
    sure = (aim - _UNSURE_AT) / (_SURE_FROM - _UNSURE_AT)
    trust = _TRUST * min(max(sure, 0.0), 1.0)
    costs = [shot.cost(same) for shot in shots]
    total = sum(shot.seconds for shot in shots)
    middle = sum(cost * s.seconds for cost, s in zip(costs, shots, strict=True)) / total
    return [trust * (cost - middle) for cost in costs]


def together(shots: Sequence[ShotCurve], crfs: Sequence[float]) -> tuple[ShotCurve, float]:
    """Return the curve of shots that are encoded together, and the CRF in the middle of theirs."""
    if len(shots) == 1:
        return shots[0], crfs[0]
    seconds = sum(shot.seconds for shot in shots)
    middle = sum(shot.seconds * crf for shot, crf in zip(shots, crfs, strict=True)) / seconds

    def point(by: float) -> Point:
        moved = [crf + by for crf in crfs]
        return Point(middle + by, mean_score(shots, moved), total_size(shots, moved))

    return ShotCurve.between(shots[0].curve, seconds, point(-1.0), point(1.0)), middle


def shifted(
    shots: Sequence[ShotCurve], crfs: Sequence[float], aim: float, *, most: float
) -> list[float]:
    """Return the CRFs, all moved by the same amount, that give the video the mean score `aim`.

    They move by `most` at most, in steps of a quantizer from 0 to 51.
    """
    curve = shots[0].curve
    low, high = curve.crf_range
    far = most * (high - low) / 35.0

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


def _limited(slope: float, usual: float) -> float:
    """Return a measured slope, no further from the usual one than makes sense."""
    return usual * min(max(slope / usual, _GENTLEST), _STEEPEST)


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
