"""How a GIF's colours are chosen and mixed, and which way suits a video."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite

_SAME_SCORE = 0.005  # SSIM difference that is invisible


@dataclass(frozen=True, slots=True)
class Recipe:
    """How colours are chosen (palettegen's `stats`) and mixed (paletteuse's `options`)."""

    name: str
    stats: str
    options: tuple[tuple[str, str | int], ...]


RECIPES = (
    Recipe("bayer", "diff", (("dither", "bayer"), ("bayer_scale", 5), ("diff_mode", "rectangle"))),
    Recipe("flat", "diff", (("dither", "none"), ("diff_mode", "rectangle"))),
    Recipe("plain", "full", (("dither", "sierra2_4a"),)),
)
"""The first suits most videos; `plain` is FFmpeg's default, which is best for some drawings."""


def read_scores(printed: bytes) -> dict[str, float]:
    """Return the mean SSIM of each recipe from the trial's output."""
    scores: dict[str, list[float]] = {}
    score = 0.0
    for line in printed.decode(errors="replace").splitlines():
        key, _, value = line.partition("=")
        if key == "lavfi.ssim.All":
            score = float(value)
            if not isfinite(score):
                score = 0.0  # frames under 8 pixels can't be compared
        elif key == "recipe":
            scores.setdefault(value, []).append(score)
    return {name: sum(values) / len(values) for name, values in scores.items()}


def choose_recipe(scores: dict[str, float], sizes: dict[str, int]) -> Recipe:
    """Return the smallest recipe among those that look as good as the best.

    Never one that is larger or less similar to the source than FFmpeg's plain palette.
    """
    plain = RECIPES[-1].name
    good = [
        recipe
        for recipe in RECIPES
        if scores.get(recipe.name, 0.0) >= scores.get(plain, 0.0)
        and sizes[recipe.name] <= sizes[plain]
    ]
    best = max(scores.get(recipe.name, 0.0) for recipe in good)
    near = [each for each in good if scores.get(each.name, 0.0) >= best - _SAME_SCORE]
    # Differences of up to 2 % do not count: the earlier recipe has softer edges.
    fewest = min(sizes[each.name] for each in near)
    return next(each for each in near if sizes[each.name] <= 1.02 * fewest)
