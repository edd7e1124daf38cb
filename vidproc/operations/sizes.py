"""Frame sizes in pixels: even, limited, and fitted into each other."""

from __future__ import annotations

import math

Size = tuple[int, int]


MAX_SIDE = 8192
"""Pixels: the longest side of a frame that we produce."""


def even(value: float) -> int:
    """Return the even number nearest to `value` (the lower if there are two), at least 2."""
    return max(2, 2 * math.ceil(value / 2 - 0.5))


def scaled(size: Size, factor: float) -> Size:
    """Return `size` times `factor` in even numbers."""
    return even(size[0] * factor), even(size[1] * factor)


def limited(size: Size, longest: int = MAX_SIDE) -> Size:
    """Return `size`, scaled down if a side is longer than `longest`; keeps the aspect ratio."""
    factor = min(1.0, longest / max(size))
    return size if factor == 1.0 else scaled(size, factor)


def inside(shown: Size, target: Size) -> Size:
    """Return the largest size with the aspect ratio of `shown` that fits into `target`; even."""
    factor = min(target[0] / shown[0], target[1] / shown[1])
    fitted = scaled(shown, factor)
    # A bar of one or two pixels would only be a rounding error.
    width, height = (
        whole if abs(whole - side) <= 2 else min(whole, side)
        for whole, side in zip(target, fitted, strict=True)
    )
    return width, height


def around(shown: Size, target: Size) -> Size:
    """Return the smallest size with the aspect ratio of `shown` that covers `target`; even."""
    factor = max(target[0] / shown[0], target[1] / shown[1])
    fitted = scaled(shown, factor)
    width, height = (
        whole if side <= whole + 2 else side for whole, side in zip(target, fitted, strict=True)
    )
    return width, height


def upscale_warning(shown: Size, inner: Size) -> list[str]:
    """Return a sentence if a frame of `shown` pixels is enlarged to `inner`."""
    if inner[0] <= shown[0] + 2 and inner[1] <= shown[1] + 2:
        return []
    return [
        f"The video was enlarged from {shown[0]}x{shown[1]} to {inner[0]}x{inner[1]}, "
        "which adds no detail."
    ]
