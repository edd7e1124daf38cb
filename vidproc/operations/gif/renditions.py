"""How large a GIF is, and which size, frame rate and colours meet a limit."""

from __future__ import annotations

from dataclasses import dataclass, replace

from vidproc.operations import clips, sizes

MAX_ATTEMPTS = 4
"""The most encodes for a `max_size`."""
BYTES_PER_PIXEL = 0.45
"""Of ordinary live-action frames in 256 colours."""

_FEWEST_FPS = 5.0
_LEAST_WIDTH = 16
_COLOUR_COST = {256: 1.0, 128: 0.87, 64: 0.75}  # relative bytes
_FPS_EXPONENT = 0.85
_PIXELS_EXPONENT = 0.9


@dataclass(frozen=True, slots=True)
class Rendition:
    """What one attempt makes: size in pixels, frames per second, number of colours."""

    size: sizes.Size
    fps: float
    colours: int = 256

    def cost(self, full: Rendition) -> float:
        """Return the estimated size relative to the `full` rendition's."""
        pixels = (self.size[0] * self.size[1]) / (full.size[0] * full.size[1])
        rate = self.fps / full.fps
        cost = _COLOUR_COST[self.colours] * rate**_FPS_EXPONENT * pixels**_PIXELS_EXPONENT
        return float(cost)


class SizeSearch:
    """Finds a rendition whose GIF is at most `most` bytes, in at most `MAX_ATTEMPTS` encodes.

    It reduces colours first (down to 64), then the frame rate (down to half, but not below 5),
    then pixels. `guess` is the size of the full rendition in bytes, corrected by each measurement.
    """

    def __init__(self, full: Rendition, most: int, guess: float) -> None:
        self._full = full
        self._most = most
        self._full_size = guess
        self.attempts = 0
        self.best: tuple[Rendition, int, str] | None = None
        self.smallest = 0
        self._last: Rendition | None = None

    def next_rendition(self) -> Rendition | None:
        """Return what to try next, or None if the search is over."""
        if self.attempts == MAX_ATTEMPTS or (self.best is not None and self._good_enough()):
            return None
        if self.attempts == 0 and self._full_size < 6 * self._most:
            rendition = self._full
        else:
            # The later attempts leave a larger margin for the model's error.
            margin = (0.95, 0.93, 0.88, 0.75)[self.attempts]
            rendition = reduced(self._full, margin * self._most / self._full_size)
        if self.best is not None and rendition.cost(self._full) <= self.best[0].cost(self._full):
            return None
        if rendition == self._last:
            return None
        self.attempts += 1
        self._last = rendition
        return rendition

    def measured(self, rendition: Rendition, size: int, name: str) -> None:
        """Record the size in bytes of `rendition`, which is in the file `name`."""
        self._full_size = size / rendition.cost(self._full)
        self.smallest = min(self.smallest or size, size)
        if size <= self._most and (self.best is None or size > self.best[1]):
            self.best = (rendition, size, name)

    def _good_enough(self) -> bool:
        assert self.best is not None
        return self.best[0] == self._full or self.best[1] > 0.7 * self._most


def reduced(full: Rendition, fraction: float) -> Rendition:
    """Return a rendition of about `fraction` (0 to 1) of the size of the `full` one."""
    if fraction >= 1:
        return full
    for colours in (128, 64):
        if _COLOUR_COST[colours] <= fraction:
            return replace(full, colours=colours)
    fraction /= _COLOUR_COST[64]
    fewest = min(full.fps, max(_FEWEST_FPS, full.fps / 2))
    fps = full.fps * fraction ** (1 / _FPS_EXPONENT)
    if fps >= fewest:
        return replace(full, colours=64, fps=round(fps, 2))
    fraction /= (fewest / full.fps) ** _FPS_EXPONENT
    width = full.size[0] * fraction ** (0.5 / _PIXELS_EXPONENT)
    return Rendition(sized(full.size, max(_LEAST_WIDTH, int(width))), fewest, 64)


def sized(shown: sizes.Size, width: int) -> sizes.Size:
    """Return `width` and the height that keeps the aspect ratio; GIF allows odd numbers."""
    return width, max(1, round(width * shown[1] / shown[0]))


def frame_count(rendition: Rendition, clip: clips.Clip) -> int:
    """Return how many frames the GIF has."""
    return max(1, round(clip.length * rendition.fps))


def guess_size(rendition: Rendition, clip: clips.Clip) -> float:
    """Return the expected bytes of such a GIF of ordinary live-action frames."""
    return rendition.size[0] * rendition.size[1] * frame_count(rendition, clip) * BYTES_PER_PIXEL
