"""Measuring the grain of a video: arithmetic only, no commands.

Grain is what differs from frame to frame where nothing else does. So it is measured in the
smoothest blocks of a place in the video, between two frames: there the variance of their difference
is twice the variance within each of them. Static texture varies within a frame and not between
frames; moving texture is not in the smoothest blocks of most places.

Levels are standard deviations in 8-bit code values, whatever the video's depth.
"""

from __future__ import annotations

import math
import random
import statistics
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import mul, sub

from vidproc.ffmpeg.grain import Points, Synthesis

GRAINY = 1.5
"""The level from which grain costs bytes that are worth saving. Clean sources have 0.2 to 1."""
_STEADY = (0.55, 1.8)
"""Between what the variance between frames is, as a multiple of that within them, if it is grain:
less is texture that stays, more is motion or a cut."""
_MOST_PLACES = 0.6
"""The fraction of the places that must be grainy."""
_SIDE = 16
_AREA = _SIDE * _SIDE
_SMOOTHEST, _FEWEST, _MOST = 0.12, 6, 48
"""The fraction of the blocks that count as smooth, and how many they are per place."""
_DARKEST, _LIGHTEST = 22.0, 225.0
"""Mean levels between which grain is not cut off by black or white."""
_SCALE = 4.0
"""10-bit samples per 8-bit level."""
_LAG = 2
_POSITIONS = [(x, y) for y in range(-_LAG, 1) for x in range(-_LAG, _LAG + 1) if y or x < 0]
"""Where a grain sample depends on others, in the order of the AV1 specification."""
_REACH = 2 * _LAG
_LAGS = [(x, y) for y in range(_LAG + 1) for x in range(-_REACH, _REACH + 1) if y or x >= 0]
_BINS = 8
_TRUST = 24.0
"""Blocks of a luma range at which its own level counts as much as the video's."""
_TEMPLATE = 32.0
"""The standard deviation of AV1's noise before it is filtered, in 8-bit values. Afterwards values
are cut off at four times that, so strong filters get half of it (`scale_shift`)."""
_CUT_OFF = 4.0
_LARGEST_GAIN, _HALVED_FROM = 3.0, 1.25
_CHROMA_GRAIN = 0.7
_REMOVED = 1.8
"""The threshold of `vaguedenoiser` per level of grain: the best PSNR to the film before grain was
added to it, white and of one and a half pixels."""

_ACROSS = [x - (_SIDE - 1) / 2 for _ in range(_SIDE) for x in range(_SIDE)]
_DOWN = [y - (_SIDE - 1) / 2 for y in range(_SIDE) for _ in range(_SIDE)]
_MOMENT = sum(x * x for x in _ACROSS)


@dataclass(frozen=True, slots=True)
class Place:
    """What was measured at one place of a video; variances are in 8-bit values.

    `luma` has the (mean level, variance between frames) of its smooth blocks and `within` their
    variances within a frame. `chroma` are the variances of Cb and Cr between frames; `covariance`
    are the luma's products at each of `_LAGS`, summed over the blocks.
    """

    luma: Sequence[tuple[float, float]]
    within: Sequence[float]
    chroma: tuple[float, float]
    covariance: Sequence[float]

    @property
    def variance(self) -> float:
        """The variance of its grain."""
        return float(statistics.median(variance for _, variance in self.luma))

    @property
    def grainy(self) -> bool:
        """Whether it has grain: enough of it, and from frame to frame another."""
        steady = statistics.median(
            between / max(within, 1e-6)
            for (_, between), within in zip(self.luma, self.within, strict=True)
        )
        is_grain = _STEADY[0] <= steady <= _STEADY[1]
        return is_grain and self.variance >= (0.8 * GRAINY) ** 2


@dataclass(frozen=True, slots=True)
class Noise:
    """The grain of a video: `level` is the luma's; `chroma` those of Cb and Cr. `points` are
    (luma level, level of the grain there). `covariance` is the luma's at `_LAGS`, 1 at the first.
    """

    level: float
    chroma: tuple[float, float] = (0.0, 0.0)
    points: Sequence[tuple[float, float]] = ()
    covariance: Sequence[float] = field(default=())
    found: bool = False

    @property
    def thresholds(self) -> tuple[float, float]:
        """The thresholds of the denoiser that remove it from the luma and from the chroma."""
        chroma = max(self.chroma)
        return round(_REMOVED * self.level, 2), (
            round(_REMOVED * chroma, 2) if chroma >= _CHROMA_GRAIN else 0.0
        )


def measure_place(data: bytes, width: int, height: int) -> Place | None:
    """Return what is measured at a place; None if nothing can be said of it.

    `data` holds its frames (yuv420p10le of even size). The smooth blocks are chosen by one in the
    middle, whose own grain would make those that have little of it look smoother, and the grain is
    measured between the first and the last.
    """
    luma, chroma = width * height, (width // 2) * (height // 2)
    size = luma + 2 * chroma
    samples = array("H")
    samples.frombytes(data[: len(data) // 2 * 2])
    if len(samples) < 2 * size:
        return None
    count = len(samples) // size
    one, middle, two = (
        samples[n * size : (n + 1) * size] for n in (0, (count - 1) // 2, count - 1)
    )
    found = []
    for y in range(0, height - _SIDE + 1, _SIDE):
        for x in range(0, width - _SIDE + 1, _SIDE):
            block = _block(middle, y * width + x, width, _SIDE)
            mean = sum(block) / _AREA / _SCALE
            if _DARKEST <= mean <= _LIGHTEST:
                found.append((_smooth_variance(block), x, y, mean))
    found.sort()
    chosen = found[: min(max(int(len(found) * _SMOOTHEST), _FEWEST), _MOST)]
    if len(chosen) < _FEWEST:
        return None
    blocks, within = [], []
    covariance = [0.0] * len(_LAGS)
    colours: tuple[list[float], list[float]] = ([], [])
    for _, x, y, mean in chosen:
        first, second = (_block(each, y * width + x, width, _SIDE) for each in (one, two))
        difference = list(map(sub, first, second))
        blocks.append((mean, _smooth_variance(difference) / 2))
        within.append(_smooth_variance(second))
        _add_products(covariance, difference)
        for plane, variances in enumerate(colours):
            at = luma + plane * chroma + (y // 2) * (width // 2) + x // 2
            halves = (_block(each, at, width // 2, _SIDE // 2) for each in (one, two))
            variances.append(statistics.pvariance(list(map(sub, *halves))) / 2 / _SCALE**2)
    if not any(variance for _, variance in blocks):
        return None  # twice the same frame
    chroma_noise = (statistics.median(colours[0]), statistics.median(colours[1]))
    return Place(blocks, within, chroma_noise, covariance)


def _block(samples: array[int], at: int, stride: int, side: int) -> list[int]:
    block: list[int] = []
    for row in range(at, at + side * stride, stride):
        block += samples[row : row + side]
    return block


def _smooth_variance(block: list[int]) -> float:
    """Return the variance of a block, less that of a gradient across it, in 8-bit values."""
    total = sum(block)
    squares: float = sum(map(mul, block, block)) - total * total / _AREA
    across: float = sum(map(mul, block, _ACROSS))
    down: float = sum(map(mul, block, _DOWN))
    return max(squares - (across * across + down * down) / _MOMENT, 0.0) / (_AREA - 3) / _SCALE**2


def _add_products(sums: list[float], block: Sequence[int]) -> None:
    """Add a block's mean products at `_LAGS`."""
    mean = sum(block) / _AREA
    rows = [
        [value - mean for value in block[at : at + _SIDE]] for at in range(0, len(block), _SIDE)
    ]
    for number, (x, y) in enumerate(_LAGS):
        total = 0.0
        for upper, lower in zip(rows, rows[y:], strict=False):
            left, right = (upper, lower[x:]) if x >= 0 else (upper[-x:], lower)
            total += sum(map(mul, left, right))
        sums[number] += total / ((_SIDE - abs(x)) * (_SIDE - y))


def combine(places: Sequence[Place | None]) -> Noise:
    """Return the grain of a video by what was measured at its places."""
    told = [place for place in places if place is not None]
    grainy = [place for place in told if place.grainy]
    if not told:
        return Noise(0.0)
    level = math.sqrt(statistics.median(place.variance for place in told))
    if len(grainy) < max(_MOST_PLACES * len(told), 1) or level < GRAINY:
        return Noise(level)
    level = math.sqrt(statistics.median(place.variance for place in grainy))
    chroma = [
        math.sqrt(statistics.median(place.chroma[plane] for place in grainy)) for plane in (0, 1)
    ]
    covariance = [sum(each) for each in zip(*(p.covariance for p in grainy), strict=True)]
    return Noise(
        level,
        (chroma[0], chroma[1]),
        _points(grainy, level),
        [each / covariance[0] for each in covariance],
        found=True,
    )


def _points(places: Sequence[Place], level: float) -> list[tuple[float, float]]:
    """Return the level of the grain by the luma's: about `level` where little was measured."""
    width = 256.0 / _BINS
    bins: list[list[float]] = [[] for _ in range(_BINS)]
    for place in places:
        for mean, variance in place.luma:
            bins[int(mean / width)].append(variance)
    found = []
    for number, variances in enumerate(bins):
        trust = len(variances) / (len(variances) + _TRUST)
        own = math.sqrt(statistics.median(variances)) if variances else level
        found.append(((number + 0.5) * width, trust * own + (1 - trust) * level))
    return found


def added(source: Noise, left: float) -> float:
    """Return what part of the source's grain must be added to a video that has grain of the level
    `left`, to have as much: variances add up."""
    return math.sqrt(max(1.0 - (left / source.level) ** 2, 0.25))


def synthesis(noise: Noise, part: float, seed: int = 1) -> Synthesis:
    """Return the AV1 film grain parameters for `part` of a grain."""
    weights = _weights(noise.covariance)
    gain = _gain(weights)
    while gain > _LARGEST_GAIN:
        weights = [0.9 * weight for weight in weights]
        gain = _gain(weights)
    shift = 7 if max(map(abs, weights), default=0.0) < 0.99 else 6
    coefficients = [min(max(round(w * (1 << shift)), -128), 127) for w in weights]
    gain = _gain([c / (1 << shift) for c in coefficients])
    smaller = 1 if gain > _HALVED_FROM else 0
    deviation = _TEMPLATE * gain / (1 << smaller)
    levels = [(at, part * level) for at, level in noise.points]
    chroma = [part * level for level in noise.chroma]
    coloured = max(chroma) >= _CHROMA_GRAIN
    plain = _TEMPLATE / (1 << smaller)
    largest = max(
        max(level for _, level in levels) / deviation,
        max(chroma) / plain if coloured else 0.0,
    )
    scaling = next((s for s in (11, 10, 9) if largest * (1 << s) <= 255), 8)

    def strength(level: float, of: float) -> int:
        return min(max(round(level / of * (1 << scaling)), 0), 255)

    luma: Points = [(round(at), strength(level, deviation)) for at, level in levels]
    flat = [[(0, strength(level, plain)), (255, strength(level, plain))] for level in chroma]
    return Synthesis(
        luma=luma,
        cb=flat[0] if coloured else [],
        cr=flat[1] if coloured else [],
        scaling_shift=scaling,
        lag=_LAG,
        coefficients=coefficients,
        coefficient_shift=shift,
        scale_shift=smaller,
        seed=seed,
    )


def _weights(covariance: Sequence[float]) -> list[float]:
    """Return how a grain sample depends on those before it (`_POSITIONS`): the solution of the
    normal equations (Yule-Walker)."""
    known = dict(zip(_LAGS, covariance, strict=True))

    def at(x: int, y: int) -> float:
        return known[(x, y) if (x, y) in known else (-x, -y)]

    rows = [
        [at(b[0] - a[0], b[1] - a[1]) + (0.01 if a == b else 0.0) for b in _POSITIONS] + [at(*a)]
        for a in _POSITIONS
    ]
    return _solved(rows)


def _solved(rows: list[list[float]]) -> list[float]:
    """Return the solution of linear equations by elimination; each row ends with its sum."""
    count = len(rows)
    for column in range(count):
        best = max(range(column, count), key=lambda n: abs(rows[n][column]))
        rows[column], rows[best] = rows[best], rows[column]
        pivot = rows[column][column]
        if abs(pivot) < 1e-9:
            return [0.0] * count
        rows[column] = [value / pivot for value in rows[column]]
        for n in range(count):
            if n != column and (factor := rows[n][column]):
                rows[n] = [a - factor * b for a, b in zip(rows[n], rows[column], strict=True)]
    return [row[count] for row in rows]


def _gain(weights: Sequence[float]) -> float:
    """Return the standard deviation of grain that is filtered with these weights, white being 1,
    by trying it on a template of AV1's size."""
    width, height = 82, 73
    noise = random.Random(1)  # noqa: S311 - the same each time
    rows: list[list[float]] = []
    for y in range(height):
        row: list[float] = []
        for x in range(width):
            value = noise.gauss(0.0, 1.0)
            if y >= 3 and 3 <= x < width - 3:
                for weight, (dx, dy) in zip(weights, _POSITIONS, strict=True):
                    if weight:
                        value += weight * (row[x + dx] if dy == 0 else rows[y + dy][x + dx])
            row.append(min(max(value, -2 * _CUT_OFF), 2 * _CUT_OFF))
        rows.append(row)
    inner = [value for row in rows[8:] for value in row[8:-3]]
    return statistics.pstdev(inner)
