"""Sizes of frames, in pixels: even, not too long, fitted into one another."""

from __future__ import annotations

import math

Size = tuple[int, int]


MAX_SIDE = 8192
"""Pixels: the longest side of a picture that we make."""


def even(value: float) -> int:
    """Return the even number nearest to `value`, the lower of two, at least 2."""
    return max(2, 2 * math.ceil(value / 2 - 0.5))


def scaled(size: Size, factor: float) -> Size:
    """Return `size` times `factor` in even numbers."""
    return even(size[0] * factor), even(size[1] * factor)


def limited(size: Size, longest: int = MAX_SIDE) -> Size:
    """Return `size`, made smaller in its own shape when a side is longer than `longest`."""
    factor = min(1.0, longest / max(size))
    return size if factor == 1.0 else scaled(size, factor)


def inside(shown: Size, target: Size) -> Size:
    """Return the largest size in `shown`'s shape that fits into `target`, in even numbers."""
    factor = min(target[0] / shown[0], target[1] / shown[1])
    fitted = scaled(shown, factor)
    # A bar of one or two pixels is only a rounding error.
    return tuple(  # type: ignore[return-value]
        whole if abs(whole - part) <= 2 else min(whole, part)
        for whole, part in zip(target, fitted, strict=True)
    )


def around(shown: Size, target: Size) -> Size:
    """Return the smallest size in `shown`'s shape that covers `target`, in even numbers."""
    factor = max(target[0] / shown[0], target[1] / shown[1])
    fitted = scaled(shown, factor)
    return tuple(  # type: ignore[return-value]
        whole if part <= whole + 2 else part for whole, part in zip(target, fitted, strict=True)
    )


def upscale_warning(shown: Size, inner: Size) -> list[str]:
    """Return a sentence when a picture of `shown` pixels is enlarged to `inner`."""
    if inner[0] <= shown[0] + 2 and inner[1] <= shown[1] + 2:
        return []
    return [
        f"The picture was enlarged from {shown[0]}x{shown[1]} to {inner[0]}x{inner[1]}, "
        "which adds no detail."
    ]
