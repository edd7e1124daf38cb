"""The search for the CRF that reaches a target quality: arithmetic only, no commands.

`Search` says which CRF to try next, takes in what the trial measured, and finally says what to
encode with. Scores are VMAF (0 to 100); sizes are the bytes of the whole video stream.

Between measured points it interpolates on two curves that are nearly straight lines over the
CRF: the logarithm of the points missing to a perfect score, and the logarithm of the size (x264's
bit rate halves about every six steps of its quantizer, which is itself logarithmic). From a single
point it follows the typical curve of the encoder, moved to go through that point.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

_ABOVE_BEST = 0.6
"""Missing points are counted from this far above the best score, so that even the best score has a
logarithm."""
MAX_PROBES = 5
GIVES_WAY_TO = 90.0
"""The lowest score that the target may be lowered to so that the file becomes smaller at all."""

_CLOSE = 2.5
"""The largest distance in score points from a single measured point to the aim. Over 105 stretches
of six videos, predictions from any one point were within -0.6 and +0.7 four times in five; and a
miss of the whole video is corrected."""
_NEAR = 1.5
"""The same from the nearest of several measured points."""
_BRACKET = 5.0
"""The largest distance in score points between two measured points with the aim between them."""
_CONVERGENCE, _FASTEST, _LEAST_DISTANCE = 0.55, 0.6, 0.1
"""How fast videos' curves approach the typical one as the CRF rises: at a CRF where the typical
ln(missing points) is higher by x, a video's distance from it is multiplied by 1 - 0.55 x, at least
by 0.1. (At VMAF 97, the CRFs of the six videos' shots have a standard deviation of 4.4, at 80 of
1.5.) For a video far off, the factor is limited so that its curve keeps rising."""


@dataclass(frozen=True, slots=True)
class Point:
    """What an encode at `crf` gives: its score, and the bytes of the whole video stream."""

    crf: float
    score: float
    size: float


@dataclass(frozen=True, slots=True)
class Curve:
    """How an encoder usually responds to its CRF.

    `crf_range` is (best, worst), `step` the finest step it supports. `score_slope` and
    `size_slope` are the changes per CRF step of ln(missing points) and of ln(size). `typical` holds
    (VMAF score, CRF that reaches it on a typical video), with rising scores.
    """

    crf_range: tuple[float, float]
    step: float
    score_slope: float
    size_slope: float
    typical: Sequence[tuple[float, float]] = ()

    def typical_crf(self, score: float) -> float:
        """Return the CRF that reaches a score on a typical video."""
        points = self.typical
        if score <= points[0][0]:
            return points[0][1]
        for (low, crf_low), (high, crf_high) in itertools.pairwise(points):
            if score <= high:
                return crf_low + (crf_high - crf_low) * (score - low) / (high - low)
        return points[-1][1]

    def typical_lack(self, crf: float) -> float:
        """Return ln(missing points) of a typical video at a CRF."""
        points = [(at, math.log(100.0 + _ABOVE_BEST - score)) for score, at in self.typical]
        points.reverse()
        inner = bisect.bisect_left([at for at, _ in points], crf, 1, len(points) - 1)
        left, right = points[inner - 1], points[inner]
        return left[1] + (right[1] - left[1]) * (crf - left[0]) / (right[0] - left[0])


@dataclass(frozen=True, slots=True)
class Choice:
    """The CRF to encode with, and its expected score and size. `gave_way` means that the target was
    lowered to meet the size limit."""

    crf: float
    score: float
    size: float
    gave_way: bool = False


@dataclass(slots=True)
class Search:
    """Finds the CRF for `target` under `size_limit`.

    `aim` is the score to aim for, a little above the target. `floor` is the lowest score that the
    size limit may lead to. `start` is the first CRF to try, `best` the source's score against
    itself. `reach` is the distance in ln(missing points) within which a point is near enough to the
    aim, however many score points that is. `whole` are the points that were measured on the whole
    video.
    """

    curve: Curve
    target: float
    aim: float
    floor: float
    size_limit: float
    start: float
    best: float = 100.0
    reach: float = 0.0
    max_probes: int = MAX_PROBES
    points: list[Point] = field(default_factory=list)
    whole: list[Point] = field(default_factory=list)

    def cap(self, best: float, below: float) -> None:
        """Take in the source's score against itself: no target is higher than that less `below`."""
        self.best = best
        if self.target > best - below:
            above = self.aim - self.target
            self.target = best - below
            self.aim = self.target + above
            self.floor = min(self.floor, self.target)

    def add(self, point: Point) -> None:
        """Take in a measured point. It replaces one at the same CRF."""
        self.points = [p for p in self.points if p.crf != point.crf]
        self.points.append(point)
        self.points.sort(key=lambda p: p.crf)

    def calibrate(self, measured: Point) -> None:
        """Take in what was measured on the whole video.

        The first time the samples' points are moved so that the curves go through it; a single one
        would only repeat it. From the second time on, the whole video tells enough without them.
        """
        if self.whole or len(self.points) == 1:
            self.points = list(self.whole)
        elif self.points:
            by_score = self._lack(measured.score) - self._lack(self.score_at(measured.crf))
            by_size = math.log(max(measured.size, 1.0) / self.size_at(measured.crf))
            self.points = [
                Point(
                    p.crf, self._score(self._lack(p.score) + by_score), p.size * math.exp(by_size)
                )
                for p in self.points
            ]
        self.whole.append(measured)
        self.add(measured)

    def next_crf(self) -> float | None:
        """Return the CRF to try next; None if `choose` has enough to go by."""
        if not self.points:
            return self._round(self.start)
        if len(self.points) >= self.max_probes:
            return None
        goal = self._goal()
        if any(abs(point.crf - goal) < self.curve.step / 2 for point in self.points):
            return None
        expected = self.score_at(goal)
        if self._size_rules(goal):
            # Clearly hopeless, or clearly good enough: no need for a trial.
            if len(self.points) > 1 and expected < self.floor - 3:
                return None
            return None if self._known(expected) and expected > self.floor + 0.5 else goal
        return None if self._known(expected) else goal

    def choose(self) -> Choice | None:
        """Return what to encode with; None if no CRF is both good and small enough."""
        if not self.points:
            raise ValueError("nothing was measured yet")
        goal = self._goal()
        choice = Choice(goal, self.score_at(goal), self.size_at(goal))
        if choice.size > self.size_limit * 1.02:
            return None
        if choice.score >= self.target - 0.3:
            return choice
        if self._size_rules(goal):
            lowered = Choice(goal, choice.score, choice.size, gave_way=True)
            return lowered if choice.score >= self.floor - 0.1 else None
        return choice

    def score_at(self, crf: float) -> float:
        """Return the score expected at a CRF."""
        if len(self.points) == 1 and self.curve.typical:
            return self._score(self._lack_by_one(crf))
        return self._score(self._value(crf, lambda p: self._lack(p.score), self.curve.score_slope))

    def size_at(self, crf: float) -> float:
        """Return the size expected at a CRF, in bytes."""
        return math.exp(self._value(crf, lambda p: math.log(max(p.size, 1)), self.curve.size_slope))

    def _goal(self) -> float:
        """Return the CRF that meets the aim, or the lowest that meets the size limit."""
        if len(self.points) == 1 and self.curve.typical:
            wanted = self._crf_by_one(self._lack(self.aim))
        else:
            wanted = self._crf_where(
                self._lack(self.aim),
                lambda p: self._lack(p.score),
                self.curve.score_slope,
                rising=True,
            )
        small = self._crf_where(
            math.log(max(self.size_limit, 1.0)),
            lambda p: math.log(max(p.size, 1)),
            self.curve.size_slope,
            rising=False,
        )
        if wanted >= small:
            return self._round(wanted)
        return self._round(small, up=True)

    def _size_rules(self, goal: float) -> bool:
        return self.score_at(goal) < self.aim - 0.3 and goal > self.curve.crf_range[0]

    def _known(self, expected: float) -> bool:
        """Return whether the measured points are close enough to `expected` to interpolate."""
        scores = [point.score for point in self.points]
        lack = self._lack(expected)
        if any(abs(self._lack(score) - lack) <= self.reach for score in scores):
            return True
        if len(scores) == 1:
            return abs(scores[0] - expected) <= _CLOSE
        above = [score for score in scores if score >= expected]
        below = [score for score in scores if score <= expected]
        if above and below and min(above) - max(below) <= _BRACKET:
            return True
        return min(abs(score - expected) for score in scores) <= _NEAR

    def _lack_by_one(self, crf: float) -> float:
        """Return ln(missing points) expected at a CRF when only one point was measured."""
        point = self.points[0]
        typical, there = self.curve.typical_lack(crf), self.curve.typical_lack(point.crf)
        distance = self._lack(point.score) - there
        convergence = min(_CONVERGENCE, _FASTEST / max(abs(distance), 0.01))
        return typical + distance * max(1 - convergence * (typical - there), _LEAST_DISTANCE)

    def _crf_by_one(self, lack: float) -> float:
        """Return the CRF at which `_lack_by_one` gives `lack`, or the end of the CRF range that is
        nearest to it."""
        low, high = self.curve.crf_range
        while high - low > self.curve.step / 20:
            middle = (low + high) / 2
            if self._lack_by_one(middle) <= lack:
                low = middle
            else:
                high = middle
        return low

    def _value(self, crf: float, of: Callable[[Point], float], usual: float) -> float:
        left, right = self._neighbours(crf, lambda p: p.crf)
        slope = self._slope(left, right, of, usual)
        base = left if abs(left.crf - crf) <= abs(right.crf - crf) else right
        return of(base) + slope * (crf - base.crf)

    def _crf_where(
        self, wanted: float, of: Callable[[Point], float], usual: float, *, rising: bool
    ) -> float:
        sign = 1 if rising else -1
        left, right = self._neighbours(sign * wanted, lambda p: sign * of(p))
        slope = self._slope(left, right, of, usual)
        base = left if abs(of(left) - wanted) <= abs(of(right) - wanted) else right
        return base.crf + (wanted - of(base)) / slope

    def _neighbours(self, x: float, of: Callable[[Point], float]) -> tuple[Point, Point]:
        """Return the two points around `x`, or the two nearest to it; a single point is both."""
        points: Sequence[Point] = self.points
        if len(points) == 1:
            return points[0], points[0]
        for left, right in itertools.pairwise(points):
            if x <= of(right):
                return left, right
        return points[-2], points[-1]

    def _slope(
        self, left: Point, right: Point, of: Callable[[Point], float], usual: float
    ) -> float:
        """Return the slope between two points, limited so that noise can't reverse it."""
        if right.crf - left.crf < self.curve.step / 2:
            return usual
        slope = (of(right) - of(left)) / (right.crf - left.crf)
        low, high = sorted((usual * 0.3, usual * 3.0))
        return min(max(slope, low), high)

    def _lack(self, score: float) -> float:
        return math.log(self.best + _ABOVE_BEST - min(max(score, 0.0), self.best))

    def _score(self, lack: float) -> float:
        return min(max(self.best + _ABOVE_BEST - math.exp(lack), 0.0), self.best)

    def _round(self, crf: float, up: bool = False) -> float:
        low, high = self.curve.crf_range
        steps = min(max(crf, low), high) / self.curve.step
        whole = math.ceil(steps - 1e-6) if up else math.floor(steps + 0.5)
        return min(max(round(whole * self.curve.step, 3), low), high)
