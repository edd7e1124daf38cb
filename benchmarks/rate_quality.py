"""How encodes compare by bytes and quality: arithmetic, and a picture of it.

An encode is a point: its bytes, its mean VMAF (`vmaf`), and the 5th percentile of the VMAF of its
seconds (`p5`). Between two measured points the score and the logarithm of the bytes go together
on a straight line.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Key = Literal["vmaf", "p5"]


@dataclass(frozen=True, slots=True)
class Encode:
    """The bytes of an encode's video, its mean VMAF and the 5th percentile of its seconds'."""

    size: float
    vmaf: float
    p5: float


def percentile(values: Sequence[float], part: float) -> float:
    """Return the value that `part` (0 to 1) of the values are under, between two of them."""
    ordered = sorted(values)
    at = part * (len(ordered) - 1)
    low = math.floor(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (at - low)


def size_at(points: Sequence[Encode], key: Key, score: float) -> float | None:
    """Return the bytes at which the points reach a score; None outside of what was measured."""
    found = _between(points, key, score)
    if found is None:
        return None
    low, high, part = found
    return math.exp(math.log(low.size) + part * math.log(high.size / low.size))


def p5_at(points: Sequence[Encode], vmaf: float) -> float | None:
    """Return the 5th percentile that goes with a mean; None outside of what was measured."""
    found = _between(points, "vmaf", vmaf)
    if found is None:
        return None
    low, high, part = found
    return low.p5 + part * (high.p5 - low.p5)


def _between(
    points: Sequence[Encode], key: Key, score: float
) -> tuple[Encode, Encode, float] | None:
    ordered = sorted(points, key=lambda point: getattr(point, key))
    for low, high in itertools.pairwise(ordered):
        at_low, at_high = getattr(low, key), getattr(high, key)
        if at_low <= score <= at_high:
            return low, high, (score - at_low) / max(at_high - at_low, 1e-9)
    return None


def bd_rate(
    reference: Sequence[Encode], other: Sequence[Encode], low: float, high: float
) -> float | None:
    """Return the Bjontegaard delta rate: the mean difference of the bytes, in percent, at equal
    mean VMAF from `low` to `high`, as far as both were measured. None where they don't overlap.

    Below 0 the other needs fewer bytes. Curves are straight between points (of the logarithm of
    the bytes), where Bjontegaard fits polynomials, which swing between points that are far apart.
    """
    low = max(low, *(min(point.vmaf for point in points) for points in (reference, other)))
    high = min(high, *(max(point.vmaf for point in points) for points in (reference, other)))
    if high <= low:
        return None
    inner = [point.vmaf for point in (*reference, *other) if low < point.vmaf < high]
    scores = sorted({low, *inner, high})
    area = 0.0
    for left, right in itertools.pairwise(scores):
        ends = []
        for score in (left, right):
            sizes = size_at(reference, "vmaf", score), size_at(other, "vmaf", score)
            if sizes[0] is None or sizes[1] is None:
                return None
            ends.append(math.log(sizes[1] / sizes[0]))
        area += (right - left) * sum(ends) / 2
    return 100 * (math.exp(area / (high - low)) - 1)


# The picture

_COLOURS = ("#1b6ca8", "#c0392b", "#27864c", "#8e44ad", "#b9770e", "#34495e")
_LEFT, _RIGHT, _TOP, _BOTTOM = 60.0, 620.0, 30.0, 340.0
_LOWEST, _HIGHEST = 70.0, 100.0


@dataclass(frozen=True, slots=True)
class Curve:
    """A clip in the picture: its encodes at one CRF, and the compressor's."""

    name: str
    one_crf: Sequence[Encode]
    compressed: Sequence[Encode]


def draw(curves: Sequence[Curve]) -> str:
    """Return an SVG picture of VMAF over bytes: a line for one CRF, dots for the compressor."""
    sizes = [p.size for curve in curves for p in (*curve.one_crf, *curve.compressed)]
    left, right = math.log(min(sizes)), math.log(max(sizes))

    def place(point: Encode) -> tuple[float, float]:
        x = _LEFT + (_RIGHT - _LEFT) * (math.log(point.size) - left) / max(right - left, 1e-9)
        return x, _height(point.vmaf)

    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg" width="880" height="390" font-family="sans-serif"'
        ' font-size="12"><rect width="880" height="390" fill="white"/>'
    ]
    for score in range(int(_LOWEST), int(_HIGHEST) + 1, 5):
        y = _height(score)
        parts.append(
            f'<path d="M{_LEFT:g} {y:.1f}H{_RIGHT:g}" stroke="#ddd"/>'
            f'<text x="30" y="{y + 4:.1f}">{score}</text>'
        )
    parts.append(
        '<text x="60" y="375">Bytes of the video (logarithmic), VMAF upwards. '
        "Lines: one CRF. Dots: the compressor.</text>"
    )
    for number, curve in enumerate(curves):
        colour = _COLOURS[number % len(_COLOURS)]
        line = sorted(curve.one_crf, key=lambda point: point.size)
        places = " ".join("{:.1f},{:.1f}".format(*place(point)) for point in line)
        parts.append(f'<polyline points="{places}" fill="none" stroke="{colour}"/>')
        for point in curve.compressed:
            x, y = place(point)
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"/>')
        parts.append(f'<text x="640" y="{40 + 18 * number}" fill="{colour}">{curve.name}</text>')
    return "\n".join([*parts, "</svg>", ""])


def _height(score: float) -> float:
    part = (min(max(score, _LOWEST), _HIGHEST) - _LOWEST) / (_HIGHEST - _LOWEST)
    return _BOTTOM - (_BOTTOM - _TOP) * part
