"""gif: a clip as an animated GIF with its own palette."""

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
"""The most encodes for a `max_size`."""
LARGEST_GUESS = 200_000_000
"""Bytes: a GIF that is expected to be larger is refused."""
BUFFER = 200_000_000
"""Bytes of frames that may wait in memory for the palette; for more, the source is read twice."""

_BYTES_PER_PIXEL = 0.45  # of ordinary live-action frames in 256 colours
_PALETTE = "palette.png"
_TRIAL_FRAMES = (
    240  # the longest GIF that is tried as a whole; of a longer one, the first frames are
)
_SAMPLE_FRAMES = 48
_SAME_SCORE = 0.005  # SSIM difference that is invisible
_FEWEST_FPS = 5.0
_LEAST_WIDTH = 16
_LEAD_SLOW = 10.0  # seconds read before the start to find the frame shown at it
_ROUNDING = (
    0.001  # seconds: containers round times; that must not make frames alternate at half the rate
)
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
"""The first suits most videos; `plain` is FFmpeg's default, which is best for some drawings."""


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


class GifOperation(Operation[Gif]):
    """Turn a clip into a GIF that loops."""

    name = "gif"

    def plan(self, media: MediaInfo, parameters: Gif, capabilities: Capabilities) -> Plan:
        """Return one encode, or a palette command and an encode.

        Raises `ServiceError` 415 if there is no video, 422 past its end or if the GIF would be too
        large.
        """
        clip, rendition = self._wish(media, parameters, capabilities)
        if parameters.max_size is None:
            _refuse_giant(rendition, clip)
        return Plan(
            commands=list(
                _commands(media, capabilities, clip, rendition, RECIPES[0], "result.gif", 1.0)
            ),
            product=_product(media, clip, rendition, "result.gif", RECIPES[0]),
            warnings=_warnings(media, capabilities, clip),
        )

    def estimate_output(self, media: MediaInfo, parameters: Gif) -> int:
        """Return the bytes of all the GIFs that are tried, one of which is kept."""
        if parameters.max_size is not None:
            # The first attempt may be far larger than the limit, which only the last one meets.
            return 4 * self.estimate_size(parameters, media.size) + (8 << 20)
        return 6 * self.estimate_size(parameters, media.size) + (8 << 20)

    def is_short(self, parameters: Gif, source_size: int) -> bool:
        """Return whether the clip is short, however long the source is."""
        return parameters.length <= SHORT_CLIP

    def estimate_size(self, parameters: Gif, source_size: int) -> int:
        """Return an estimate of the output's bytes, assuming 4:3 frames."""
        if parameters.max_size is not None:
            return MAX_ATTEMPTS * parameters.max_size
        pixels = parameters.width**2 * 3 / 4
        guess = pixels * max(1.0, parameters.length * parameters.fps) * _BYTES_PER_PIXEL
        return int(min(guess, LARGEST_GUESS))

    async def run(self, job: Job[Gif]) -> Product:
        """Make it with the recipe that suits the video.

        With `max_size`, repeat with fewer colours, then fewer frames, then fewer pixels.
        """
        clip, full = self._wish(job.media, job.parameters, job.capabilities)
        most = job.parameters.max_size
        if most is None:
            _refuse_giant(full, clip)
        for sentence in _warnings(job.media, job.capabilities, clip):
            job.warn(sentence)
        if most is None:
            recipe, name = await _first(job, clip, full, 1.0)
            return _product(job.media, clip, full, name, recipe)
        search = SizeSearch(full, most, guess_size(full, clip))
        chosen: Recipe | None = None
        while (rendition := search.next_rendition()) is not None:
            if chosen is None:
                chosen, name = await _first(job, clip, rendition, 0.4)
            else:
                name = f"attempt-{search.attempts}.gif"
                for command in _commands(
                    job.media, job.capabilities, clip, rendition, chosen, name, 0.2
                ):
                    await job.run(command)
            search.measured(rendition, job.size_of(name), name)
        if search.best is None or chosen is None:
            raise _too_small(most, search.smallest)
        rendition, _, name = search.best
        if rendition != full:
            job.warn(
                f"To stay under {format_size(most)} the GIF has "
                f"{rendition.colours} colours, {rendition.fps:.3g} frames per second and "
                f"{rendition.size[0]}x{rendition.size[1]} pixels."
            )
        product = _product(job.media, clip, rendition, name, chosen)
        return replace(product, details={**product.details, "attempts": search.attempts})

    def _wish(
        self, media: MediaInfo, parameters: Gif, capabilities: Capabilities
    ) -> tuple[clips.Clip, Rendition]:
        require_encoder(capabilities, "gif")
        shown = frames.require_video(media).displayed_size
        clip = clips.clip(media, parameters.start, parameters.length, with_audio=False)
        return clip, Rendition(sized(shown, min(parameters.width, shown[0])), float(parameters.fps))


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
    return rendition.size[0] * rendition.size[1] * frame_count(rendition, clip) * _BYTES_PER_PIXEL


def _refuse_giant(rendition: Rendition, clip: clips.Clip) -> None:
    guess = guess_size(rendition, clip)
    if guess > LARGEST_GUESS:
        raise ServiceError(
            ErrorCode.INVALID_PARAMETER,
            f"The GIF would be about {format_size(guess)}; "
            f"the limit is {format_size(LARGEST_GUESS)}.",
            "Use webm, which needs a tenth of that, or reduce duration, width or fps. "
            "Example: --type webm",
        )


def _too_small(most: int, smallest: int) -> ServiceError:
    return ServiceError(
        ErrorCode.INVALID_PARAMETER,
        f"The GIF does not fit into {most} bytes; at least {smallest} bytes are needed.",
        f"Allow more, or reduce duration or width. Example: --max-size {smallest}",
    )


def _product(
    media: MediaInfo, clip: clips.Clip, rendition: Rendition, name: str, recipe: Recipe
) -> Product:
    expectation = Expectation(
        video=True,
        audio=False,
        size=rendition.size,
        duration=frame_count(rendition, clip) / rendition.fps,
        tolerance=max(delivery.tolerance(media), 2 / rendition.fps),
    )
    details = {"fps": round(rendition.fps, 3), "colours": rendition.colours, "palette": recipe.name}
    return Product(name, "gif", expectation, details)


def _warnings(media: MediaInfo, capabilities: Capabilities, clip: clips.Clip) -> list[str]:
    return [*clip.warnings, *frames.picture_warnings(media, capabilities)]


async def _first(
    job: Job[Gif], clip: clips.Clip, rendition: Rendition, share: float
) -> tuple[Recipe, str]:
    """Make the GIF with the recipe that suits it best; return the recipe and the file's name.

    A short one is made with every recipe at once; for a long one, a sample decides.
    """
    recipe, name = RECIPES[0], "attempt-1.gif"
    if "ssim" in job.capabilities.filters:
        count = frame_count(rendition, clip)
        whole = count <= _TRIAL_FRAMES and _buffered(rendition, clip) <= BUFFER
        sample = clip if whole else replace(clip, length=min(count, _SAMPLE_FRAMES) / rendition.fps)
        if _buffered(rendition, sample) <= BUFFER:
            used = share if whole else share / 4
            done = await job.run(_trial(job.media, job.capabilities, sample, rendition, used))
            scores = read_scores(done.stdout)
            sizes = {each.name: job.size_of(_trial_file(each)) for each in RECIPES}
            recipe = choose_recipe(scores, sizes)
            if whole:
                return recipe, _trial_file(recipe)
            share -= used
    for command in _commands(job.media, job.capabilities, clip, rendition, recipe, name, share):
        await job.run(command)
    return recipe, name


def _trial(
    media: MediaInfo,
    capabilities: Capabilities,
    clip: clips.Clip,
    rendition: Rendition,
    share: float,
) -> Command:
    """Return a command that makes a GIF with each recipe and prints the SSIM of each one."""
    split = _frames(media, capabilities, clip, rendition).split()
    outputs = []
    for number, recipe in enumerate(RECIPES):
        made = _paletted(
            split[3 * number], _palette(split[3 * number + 1], rendition, recipe), recipe
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
        **_needs(media, clip, rendition),
    )


def _trial_file(recipe: Recipe) -> str:
    return f"attempt-1-{recipe.name}.gif"


def read_scores(printed: bytes) -> dict[str, float]:
    """Return the mean SSIM of each recipe from the trial's output."""
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


def _buffered(rendition: Rendition, clip: clips.Clip) -> int:
    """Return the bytes of the frames that wait in memory until the palette is ready."""
    return frame_count(rendition, clip) * rendition.size[0] * rendition.size[1] * 4


def _needs(media: MediaInfo, clip: clips.Clip, rendition: Rendition) -> dict[str, Any]:
    shown = frames.require_video(media).displayed_size
    memory = delivery.encoding_memory(rendition.size, rendition.size, shown)
    return {
        "duration": clip.length,
        "cpus": 2.0,
        "memory": memory + min(_buffered(rendition, clip), BUFFER),
    }


def _commands(
    media: MediaInfo,
    capabilities: Capabilities,
    clip: clips.Clip,
    rendition: Rendition,
    recipe: Recipe,
    name: str,
    share: float,
) -> Iterator[Command]:
    """Yield one command, or two if the frames would not fit into memory."""
    needs = _needs(media, clip, rendition)
    if _buffered(rendition, clip) <= BUFFER:
        twice = _frames(media, capabilities, clip, rendition).split()
        graph = _output(_paletted(twice[0], _palette(twice[1], rendition, recipe), recipe), name)
        yield ffmpeg_command(graph, stage="encoding", share=share, **needs)
        return
    palette = _palette(_frames(media, capabilities, clip, rendition), rendition, recipe)
    graph = ffmpeg.output(
        palette, output_file(_PALETTE), format="image2", update=1, **{"frames:v": 1, "c:v": "png"}
    )
    yield ffmpeg_command(graph, stage="palette", share=share * 0.4, **needs)
    palette = ffmpeg.input(input_file(_PALETTE), format="png_pipe", protocol_whitelist="file")
    gif_frames = _frames(media, capabilities, clip, rendition)
    graph = _output(_paletted(gif_frames, palette, recipe), name)
    yield ffmpeg_command(graph, stage="encoding", share=share * 0.6, **needs)


def _frames(
    media: MediaInfo, capabilities: Capabilities, clip: clips.Clip, rendition: Rendition
) -> Any:
    """Return exactly the frames of the GIF, evenly spaced.

    Reading starts a little earlier, so that the first one is the frame that is being shown at the
    start, not the next one.
    """
    video = frames.require_video(media)
    slow = not video.constant_rate or not video.frame_rate
    lead = _LEAD_SLOW if slow or not video.frame_rate else 2 / video.frame_rate
    skipped = min(math.ceil(lead * rendition.fps), math.floor(clip.start * rendition.fps + 1e-6))
    before = skipped / rendition.fps

    def sample(stream: Any) -> Any:
        stream = stream.filter("fps", fps=rate(rendition.fps), start_time=-_ROUNDING)
        stream = stream.filter(
            "trim", start_frame=skipped, end_frame=skipped + frame_count(rendition, clip)
        )
        return stream.filter("setpts", "PTS-STARTPTS")

    start = max(0.0, clip.start - before)
    node = reading.source(media, start=start, duration=clip.length + before)
    return frames.picture(
        node, media, capabilities, rendition.size, pixel_format="bgra", sample=sample
    )


def rate(fps: float) -> str:
    """Return a frame rate as a fraction, to a thousandth."""
    return f"{round(fps * 1000)}/1000"


def _palette(stream: Any, rendition: Rendition, recipe: Recipe) -> Any:
    return stream.filter("palettegen", max_colors=rendition.colours, stats_mode=recipe.stats)


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
