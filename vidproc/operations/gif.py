"""gif: a part of the film as an animated GIF with a palette of its own."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import ffmpeg

from vidproc.errors import ErrorCode, ServiceError
from vidproc.ffmpeg.capabilities import Capabilities
from vidproc.ffmpeg.command import THREADS, Command, ffmpeg_command, input_file, output_file
from vidproc.ffmpeg.media import MediaInfo
from vidproc.operations import clips, delivery, frames, reading, sizes
from vidproc.operations.base import (
    SHORT_CLIP,
    Expectation,
    Job,
    Operation,
    Plan,
    Product,
    require_encoder,
)
from vidproc.operations.parameters import Gif
from vidproc.units import format_size

MAX_ATTEMPTS = 4
"""Encodes that may be spent on a `max_size`."""
LARGEST_GUESS = 200_000_000
"""Bytes of a GIF that is refused before it is made."""
BUFFER = 200_000_000
"""Bytes of pictures that may wait in memory for the palette; more needs a second reading."""

_BYTES_PER_PIXEL = 0.45  # of ordinary filmed pictures in 256 colours
_PALETTE = "palette.png"
_TRIAL_FRAMES = 240  # of a GIF that is tried as a whole; of a longer one the first few are
_SAMPLE_FRAMES = 48
_SAME_SCORE = 0.005  # SSIM that nobody sees
_FEWEST_FPS = 5.0
_LEAST_WIDTH = 16
_LEAD_SLOW = 10.0  # seconds read before the start to find the picture shown at it
_ROUNDING = 0.001  # seconds: containers round times; half of the rate must not alternate by it
_COLOUR_COST = {256: 1.0, 128: 0.87, 64: 0.75}  # relative bytes
_FPS_EXPONENT = 0.85
_PIXELS_EXPONENT = 0.9


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
"""The first is what suits most films; `plain` is FFmpeg's own, which wins on some drawings."""


@dataclass(frozen=True, slots=True)
class Look:
    """What one attempt makes: size in pixels, pictures per second, colours."""

    size: sizes.Size
    fps: float
    colours: int = 256

    def cost(self, full: Look) -> float:
        """Return the guessed bytes as a part of those of the `full` look."""
        pixels = (self.size[0] * self.size[1]) / (full.size[0] * full.size[1])
        rate = self.fps / full.fps
        cost = _COLOUR_COST[self.colours] * rate**_FPS_EXPONENT * pixels**_PIXELS_EXPONENT
        return float(cost)


class GifOperation(Operation[Gif]):
    """Turn a part of a film into a GIF that loops."""

    name = "gif"

    def plan(self, media: MediaInfo, parameters: Gif, capabilities: Capabilities) -> Plan:
        """Return one encode, or a palette and an encode.

        Raises `ServiceError` 415 without video, 422 past the end or when it would be too large.
        """
        part, look = self._wish(media, parameters, capabilities)
        if parameters.max_size is None:
            _refuse_giant(look, part)
        return Plan(
            commands=list(
                _commands(media, capabilities, part, look, RECIPES[0], "result.gif", 1.0)
            ),
            product=_product(media, part, look, "result.gif", RECIPES[0]),
            warnings=_warnings(media, capabilities, part),
        )

    def estimate_output(self, media: MediaInfo, parameters: Gif) -> int:
        """Return the bytes of the GIFs that are tried, of which one is kept."""
        if parameters.max_size is not None:
            # The first trial may be far above the size that the last one keeps to.
            return 4 * self.estimate_size(parameters, media.size) + (8 << 20)
        return 6 * self.estimate_size(parameters, media.size) + (8 << 20)

    def is_short(self, parameters: Gif, source_size: int) -> bool:
        """Return whether the clip is short, however long the source is."""
        return parameters.length <= SHORT_CLIP

    def estimate_size(self, parameters: Gif, source_size: int) -> int:
        """Return a guess of the output's bytes, from 4:3 pictures."""
        if parameters.max_size is not None:
            return MAX_ATTEMPTS * parameters.max_size
        pixels = parameters.width**2 * 3 / 4
        guess = pixels * max(1.0, parameters.length * parameters.fps) * _BYTES_PER_PIXEL
        return int(min(guess, LARGEST_GUESS))

    async def run(self, job: Job[Gif]) -> Product:
        """Make it by the recipe that suits the film.

        With `max_size`, do it again with fewer colours, then pictures, then pixels.
        """
        part, full = self._wish(job.media, job.parameters, job.capabilities)
        most = job.parameters.max_size
        if most is None:
            _refuse_giant(full, part)
        for sentence in _warnings(job.media, job.capabilities, part):
            job.warn(sentence)
        if most is None:
            recipe, name = await _first(job, part, full, 1.0)
            return _product(job.media, part, full, name, recipe)
        search = SizeSearch(full, most, guess_size(full, part))
        chosen: Recipe | None = None
        while (look := search.next_look()) is not None:
            if chosen is None:
                chosen, name = await _first(job, part, look, 0.4)
            else:
                name = f"attempt-{search.attempts}.gif"
                for command in _commands(
                    job.media, job.capabilities, part, look, chosen, name, 0.2
                ):
                    await job.run(command)
            search.measured(look, job.size_of(name), name)
        if search.best is None or chosen is None:
            raise _too_small(most, search.smallest)
        look, _, name = search.best
        if look != full:
            job.warn(
                f"To stay under {format_size(most)} the GIF has "
                f"{look.colours} colours, {look.fps:.3g} pictures per second and "
                f"{look.size[0]}x{look.size[1]} pixels."
            )
        product = _product(job.media, part, look, name, chosen)
        return replace(product, details={**product.details, "attempts": search.attempts})

    def _wish(
        self, media: MediaInfo, parameters: Gif, capabilities: Capabilities
    ) -> tuple[clips.Clip, Look]:
        require_encoder(capabilities, "gif")
        shown = frames.require_video(media).displayed_size
        part = clips.clip(media, parameters.start, parameters.length, sound=False)
        return part, Look(sized(shown, min(parameters.width, shown[0])), float(parameters.fps))


class SizeSearch:
    """Finds a look whose GIF is at most `most` bytes, in at most `MAX_ATTEMPTS` encodes.

    What goes first: colours down to 64, then pictures down to half the rate (but 5 a second),
    then pixels. `guess` is the size of the full look in bytes, corrected by each measurement.
    """

    def __init__(self, full: Look, most: int, guess: float) -> None:
        self._full = full
        self._most = most
        self._full_size = guess
        self.attempts = 0
        self.best: tuple[Look, int, str] | None = None
        self.smallest = 0
        self._last: Look | None = None

    def next_look(self) -> Look | None:
        """Return what to try next, None when the search is over."""
        if self.attempts == MAX_ATTEMPTS or (self.best is not None and self._good_enough()):
            return None
        if self.attempts == 0 and self._full_size < 6 * self._most:
            look = self._full
        else:
            # The nearer the last attempt, the more room for the model's error.
            room = (0.95, 0.93, 0.88, 0.75)[self.attempts]
            look = reduced(self._full, room * self._most / self._full_size)
        if self.best is not None and look.cost(self._full) <= self.best[0].cost(self._full):
            return None
        if look == self._last:
            return None
        self.attempts += 1
        self._last = look
        return look

    def measured(self, look: Look, size: int, name: str) -> None:
        """Take the bytes that `look` needed, in the file `name`."""
        self._full_size = size / look.cost(self._full)
        self.smallest = min(self.smallest or size, size)
        if size <= self._most and (self.best is None or size > self.best[1]):
            self.best = (look, size, name)

    def _good_enough(self) -> bool:
        assert self.best is not None
        return self.best[0] == self._full or self.best[1] > 0.7 * self._most


def reduced(full: Look, part: float) -> Look:
    """Return a look that needs about `part` (0 to 1) of the bytes of the `full` one."""
    if part >= 1:
        return full
    for colours in (128, 64):
        if _COLOUR_COST[colours] <= part:
            return replace(full, colours=colours)
    part /= _COLOUR_COST[64]
    fewest = min(full.fps, max(_FEWEST_FPS, full.fps / 2))
    fps = full.fps * part ** (1 / _FPS_EXPONENT)
    if fps >= fewest:
        return replace(full, colours=64, fps=round(fps, 2))
    part /= (fewest / full.fps) ** _FPS_EXPONENT
    width = full.size[0] * part ** (0.5 / _PIXELS_EXPONENT)
    return Look(sized(full.size, max(_LEAST_WIDTH, int(width))), fewest, 64)


def sized(shown: sizes.Size, width: int) -> sizes.Size:
    """Return `width` pixels and the height that keeps the shape; GIF takes odd numbers."""
    return width, max(1, round(width * shown[1] / shown[0]))


def frame_count(look: Look, part: clips.Clip) -> int:
    """Return how many frames the GIF has."""
    return max(1, round(part.length * look.fps))


def guess_size(look: Look, part: clips.Clip) -> float:
    """Return the bytes that such a GIF of ordinary filmed pictures has."""
    return look.size[0] * look.size[1] * frame_count(look, part) * _BYTES_PER_PIXEL


def _refuse_giant(look: Look, part: clips.Clip) -> None:
    guess = guess_size(look, part)
    if guess > LARGEST_GUESS:
        raise ServiceError(
            ErrorCode.INVALID_PARAMETER,
            f"The GIF would have about {format_size(guess)}; "
            f"at most {format_size(LARGEST_GUESS)} are made.",
            "Use webm, which needs a tenth of that, or a shorter duration, less width or fps. "
            "Example: --type webm",
        )


def _too_small(most: int, smallest: int) -> ServiceError:
    return ServiceError(
        ErrorCode.INVALID_PARAMETER,
        f"The GIF does not fit into {most} bytes; {smallest} bytes are possible.",
        f"Allow more, or choose a shorter duration or less width. Example: --max-size {smallest}",
    )


def _product(media: MediaInfo, part: clips.Clip, look: Look, name: str, recipe: Recipe) -> Product:
    expectation = Expectation(
        video=True,
        audio=False,
        size=look.size,
        duration=frame_count(look, part) / look.fps,
        tolerance=max(delivery.tolerance(media), 2 / look.fps),
    )
    details = {"fps": round(look.fps, 3), "colours": look.colours, "palette": recipe.name}
    return Product(name, "gif", expectation, details)


def _warnings(media: MediaInfo, capabilities: Capabilities, part: clips.Clip) -> list[str]:
    return [*part.warnings, *frames.picture_warnings(media, capabilities)]


async def _first(job: Job[Gif], part: clips.Clip, look: Look, share: float) -> tuple[Recipe, str]:
    """Make the GIF by the recipe that suits it best; return that and the file's name.

    A short one is made by every recipe at once; for a long one a sample decides.
    """
    recipe, name = RECIPES[0], "attempt-1.gif"
    if "ssim" in job.capabilities.filters:
        count = frame_count(look, part)
        whole = count <= _TRIAL_FRAMES and _buffered(look, part) <= BUFFER
        sample = part if whole else replace(part, length=min(count, _SAMPLE_FRAMES) / look.fps)
        if _buffered(look, sample) <= BUFFER:
            used = share if whole else share / 4
            done = await job.run(_trial(job.media, job.capabilities, sample, look, used))
            scores = read_scores(done.stdout)
            sizes = {each.name: job.size_of(_trial_file(each)) for each in RECIPES}
            recipe = choose_recipe(scores, sizes)
            if whole:
                return recipe, _trial_file(recipe)
            share -= used
    for command in _commands(job.media, job.capabilities, part, look, recipe, name, share):
        await job.run(command)
    return recipe, name


def _trial(
    media: MediaInfo, capabilities: Capabilities, part: clips.Clip, look: Look, share: float
) -> Command:
    """Return a command that makes a GIF by each recipe and prints how near each one is."""
    split = _pictures(media, capabilities, part, look).split()
    outputs = []
    for number, recipe in enumerate(RECIPES):
        made = _paletted(
            split[3 * number], _palette(split[3 * number + 1], look, recipe), recipe
        ).split()
        outputs.append(_output(made[0], _trial_file(recipe)))
        scored = ffmpeg.filter([made[1], split[3 * number + 2]], "ssim")
        scored = scored.filter("metadata", mode="add", key="recipe", value=recipe.name)
        scored = scored.filter("metadata", mode="print", file="-", direct=1)
        outputs.append(ffmpeg.output(scored, "-", format="null"))
    return ffmpeg_command(
        ffmpeg.merge_outputs(*outputs),
        stage="encoding",
        share=share,
        capture=1 << 20,
        **_needs(media, part, look),
    )


def _trial_file(recipe: Recipe) -> str:
    return f"attempt-1-{recipe.name}.gif"


def read_scores(printed: bytes) -> dict[str, float]:
    """Return the mean SSIM of each recipe from what the trial printed."""
    scores: dict[str, list[float]] = {}
    score = 0.0
    for line in printed.decode(errors="replace").splitlines():
        key, _, value = line.partition("=")
        if key == "lavfi.ssim.All":
            score = float(value)
        elif key == "recipe":
            scores.setdefault(value, []).append(score)
    return {name: sum(values) / len(values) for name, values in scores.items()}


def choose_recipe(scores: dict[str, float], sizes: dict[str, int]) -> Recipe:
    """Return the recipe with the fewest bytes among those that look as good as the best.

    Never one that is larger or further from the film than FFmpeg's plain palette.
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
    # Bytes are counted in steps of 2 %: for less, the earlier recipe with its softer edges wins.
    fewest = min(sizes[each.name] for each in near)
    return next(each for each in near if sizes[each.name] <= 1.02 * fewest)


def _buffered(look: Look, part: clips.Clip) -> int:
    """Return the bytes of the pictures that wait in memory until the palette is ready."""
    return frame_count(look, part) * look.size[0] * look.size[1] * 4


def _needs(media: MediaInfo, part: clips.Clip, look: Look) -> dict[str, Any]:
    shown = frames.require_video(media).displayed_size
    memory = delivery.encoding_memory(look.size, look.size, shown)
    return {
        "duration": part.length,
        "cpus": 2.0,
        "memory": memory + min(_buffered(look, part), BUFFER),
    }


def _commands(
    media: MediaInfo,
    capabilities: Capabilities,
    part: clips.Clip,
    look: Look,
    recipe: Recipe,
    name: str,
    share: float,
) -> Iterator[Command]:
    """Yield the command, or two when the pictures would not fit into memory between them."""
    needs = _needs(media, part, look)
    if _buffered(look, part) <= BUFFER:
        twice = _pictures(media, capabilities, part, look).split()
        graph = _output(_paletted(twice[0], _palette(twice[1], look, recipe), recipe), name)
        yield ffmpeg_command(graph, stage="encoding", share=share, **needs)
        return
    palette = _palette(_pictures(media, capabilities, part, look), look, recipe)
    graph = ffmpeg.output(
        palette, output_file(_PALETTE), format="image2", update=1, **{"frames:v": 1, "c:v": "png"}
    )
    yield ffmpeg_command(graph, stage="palette", share=share * 0.4, **needs)
    palette = ffmpeg.input(input_file(_PALETTE), format="png_pipe", protocol_whitelist="file")
    pictures = _pictures(media, capabilities, part, look)
    graph = _output(_paletted(pictures, palette, recipe), name)
    yield ffmpeg_command(graph, stage="encoding", share=share * 0.6, **needs)


def _pictures(media: MediaInfo, capabilities: Capabilities, part: clips.Clip, look: Look) -> Any:
    """Return exactly the pictures of the GIF, evenly spaced.

    Reading begins a little earlier, so that the first one is the picture that is on the screen
    at the start, not the next one to come.
    """
    video = frames.require_video(media)
    slow = not video.constant_rate or not video.frame_rate
    lead = _LEAD_SLOW if slow or not video.frame_rate else 2 / video.frame_rate
    skipped = min(math.ceil(lead * look.fps), math.floor(part.start * look.fps + 1e-6))
    before = skipped / look.fps

    def sample(stream: Any) -> Any:
        stream = stream.filter("fps", fps=rate(look.fps), start_time=-_ROUNDING)
        stream = stream.filter(
            "trim", start_frame=skipped, end_frame=skipped + frame_count(look, part)
        )
        return stream.filter("setpts", "PTS-STARTPTS")

    start = max(0.0, part.start - before)
    node = reading.source(media, start=start, duration=part.length + before)
    return frames.picture(node, media, capabilities, look.size, pixel_format="bgra", sample=sample)


def rate(fps: float) -> str:
    """Return a frame rate as a fraction, to a thousandth."""
    return f"{round(fps * 1000)}/1000"


def _palette(stream: Any, look: Look, recipe: Recipe) -> Any:
    return stream.filter("palettegen", max_colors=look.colours, stats_mode=recipe.stats)


def _paletted(stream: Any, palette: Any, recipe: Recipe) -> Any:
    return ffmpeg.filter([stream, palette], "paletteuse", **dict(recipe.options))


def _output(stream: Any, name: str) -> Any:
    return ffmpeg.output(
        stream,
        output_file(name),
        format="gif",
        loop=0,
        map_metadata=-1,
        threads=THREADS,
        filter_complex_threads=THREADS,
    )
