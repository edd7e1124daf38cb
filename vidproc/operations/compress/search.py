"""The search for the CRF that gives a wanted quality: arithmetic only, it runs nothing.

`Search` is asked which CRF to look at next, is told what was measured there, and in the end says
what to encode with. Scores are VMAF (0 to 100), sizes bytes of the whole film's video.

Between measured points it interpolates on two curves that are nearly straight lines over the
CRF: the logarithm of what lacks to a perfect score, and the logarithm of the size (rate halves
about every six steps of x264's quantizer, which is logarithmic itself).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

_ABOVE_BEST = 0.6
"""What a score lacks is counted from this far above the best one, which so has a logarithm."""
MAX_PROBES = 5
GIVES_WAY_TO = 90.0
"""The score down to which the target may give way for the file to become smaller at all."""

_CLOSE = 0.45
"""Score points between aim and a single measured point within which no other is looked at."""
_NEAR = 1.5
"""The same for the nearest of several points, from which a line leads to the aim."""
_BRACKET = 5.0
"""Score points between two measured points around the aim that a line may bridge."""


@dataclass(frozen=True, slots=True)
class Point:
    """What an encode at `crf` gives: its score, and the size of the whole film's video."""

    crf: float
    score: float
    size: float


@dataclass(frozen=True, slots=True)
class Curve:
    """How an encoder usually answers to its CRF.

    `crf_range` is (best, worst), `step` the finest that it knows; `score_slope` and `size_slope`
    are the changes per CRF step of ln(what the score lacks) and of ln(size).
    """

    crf_range: tuple[float, float]
    step: float
    score_slope: float
    size_slope: float


@dataclass(frozen=True, slots=True)
class Choice:
    """The CRF to encode with and what it will probably give. `gave_way` says that the target
    was lowered for the size's sake."""

    crf: float
    score: float
    size: float
    gave_way: bool = False


@dataclass(slots=True)
class Search:
    """Finds the CRF for `target` under `size_limit`.

    `aim` is the score that is steered for, a little above the target, and `floor` the lowest that
    the size rule may lead to. `start` is the CRF to look at first, `best` what the source scores
    against itself. `whole` are the points that were measured on the whole film.
    """

    curve: Curve
    target: float
    aim: float
    floor: float
    size_limit: float
    start: float
    best: float = 100.0
    max_probes: int = MAX_PROBES
    points: list[Point] = field(default_factory=list)
    whole: list[Point] = field(default_factory=list)

    def cap(self, best: float, below: float) -> None:
        """Learn what the source scores against itself; the target is at least `below` less."""
        self.best = best
        if self.target > best - below:
            above = self.aim - self.target
            self.target = best - below
            self.aim = self.target + above
            self.floor = min(self.floor, self.target)

    def add(self, point: Point) -> None:
        """Take in a measured point; one at the same CRF is replaced."""
        self.points = [p for p in self.points if p.crf != point.crf]
        self.points.append(point)
        self.points.sort(key=lambda p: p.crf)

    def calibrate(self, measured: Point) -> None:
        """Take in what the whole film really gave.

        The first time the samples' points are moved so that the curves go through it; from the
        second time on the whole film tells enough without them.
        """
        if self.whole:
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
        """Return the CRF to look at next, None when `choose` has enough to go by."""
        if not self.points:
            return self._round(self.start)
        if len(self.points) >= self.max_probes:
            return None
        goal = self._goal()
        if any(abs(point.crf - goal) < self.curve.step / 2 for point in self.points):
            return None
        expected = self.score_at(goal)
        if self._size_rules(goal):
            # Clearly hopeless, or clearly good enough: no need to look.
            if len(self.points) > 1 and expected < self.floor - 3:
                return None
            return None if self._known(expected) and expected > self.floor + 0.5 else goal
        return None if self._known(expected) else goal

    def choose(self) -> Choice | None:
        """Return what to encode with; None when no CRF is good and small enough at once."""
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
        return self._score(self._value(crf, lambda p: self._lack(p.score), self.curve.score_slope))

    def size_at(self, crf: float) -> float:
        """Return the size expected at a CRF, in bytes."""
        return math.exp(self._value(crf, lambda p: math.log(max(p.size, 1)), self.curve.size_slope))

    def _goal(self) -> float:
        """Return the CRF that meets the aim, or the better of those that meet the size limit."""
        wanted = self._crf_where(
            self._lack(self.aim), lambda p: self._lack(p.score), self.curve.score_slope, rising=True
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
        """Whether the measured points tell enough of where `expected` is."""
        scores = [point.score for point in self.points]
        nearest = min(abs(score - expected) for score in scores)
        if nearest <= _CLOSE:
            return True
        if len(scores) == 1:
            return False
        above = [score for score in scores if score >= expected]
        below = [score for score in scores if score <= expected]
        if above and below:
            return min(above) - max(below) <= _BRACKET
        return nearest <= _NEAR

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
        """Return the two points around `x`, or the two on its side; one point stands for both."""
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
        """Return the slope between two points, kept within reason: noise must not turn it over."""
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
