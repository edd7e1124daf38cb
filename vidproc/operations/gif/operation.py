"""gif: a clip as an animated GIF with its own palette."""

from __future__ import annotations

from dataclasses import replace

from vidproc.errors import ErrorCode, ServiceError
from vidproc.ffmpeg.capabilities import Capabilities
from vidproc.ffmpeg.media import MediaInfo
from vidproc.operations import clips, delivery, frames
from vidproc.operations.base import (
    SHORT_CLIP,
    Expectation,
    Job,
    Operation,
    Plan,
    Product,
    require_encoder,
)
from vidproc.operations.gif.commands import fits_memory, gif_commands, trial_command, trial_file
from vidproc.operations.gif.recipes import RECIPES, Recipe, choose_recipe, read_scores
from vidproc.operations.gif.renditions import (
    BYTES_PER_PIXEL,
    MAX_ATTEMPTS,
    Rendition,
    SizeSearch,
    frame_count,
    guess_size,
    sized,
)
from vidproc.operations.parameters import Gif
from vidproc.units import format_size

LARGEST_GUESS = 200_000_000
"""Bytes: a GIF that is expected to be larger is refused."""

_TRIAL_FRAMES = 240
"""Frames of the longest GIF that is tried as a whole; of a longer one a sample is."""
_SAMPLE_FRAMES = 48


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
                gif_commands(media, capabilities, clip, rendition, RECIPES[0], "result.gif", 1.0)
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
        guess = pixels * max(1.0, parameters.length * parameters.fps) * BYTES_PER_PIXEL
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
                for command in gif_commands(
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


async def _first(
    job: Job[Gif], clip: clips.Clip, rendition: Rendition, weight: float
) -> tuple[Recipe, str]:
    """Make the GIF with the recipe that suits it best; return the recipe and the file's name.

    A short one is made with every recipe at once; for a long one, a sample decides.
    """
    recipe, name = RECIPES[0], "attempt-1.gif"
    if "ssim" in job.capabilities.filters:
        count = frame_count(rendition, clip)
        whole = count <= _TRIAL_FRAMES and fits_memory(rendition, clip)
        sample = clip if whole else replace(clip, length=min(count, _SAMPLE_FRAMES) / rendition.fps)
        if fits_memory(rendition, sample):
            used = weight if whole else weight / 4
            done = await job.run(
                trial_command(job.media, job.capabilities, sample, rendition, used)
            )
            scores = read_scores(done.stdout)
            sizes = {each.name: job.size_of(trial_file(each)) for each in RECIPES}
            recipe = choose_recipe(scores, sizes)
            if whole:
                return recipe, trial_file(recipe)
            weight -= used
    for command in gif_commands(job.media, job.capabilities, clip, rendition, recipe, name, weight):
        await job.run(command)
    return recipe, name


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
    return [*clip.warnings, *frames.frame_warnings(media, capabilities)]
