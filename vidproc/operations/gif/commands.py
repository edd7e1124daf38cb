"""The commands that make a GIF, and the one that tries every recipe."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TypedDict

import ffmpeg
from ffmpeg.nodes import FilterableStream, OutputStream

from vidproc.ffmpeg.capabilities import Capabilities
from vidproc.ffmpeg.command import (
    THREADS,
    Command,
    ffmpeg_command,
    input_file,
    output_file,
)
from vidproc.ffmpeg.media import MediaInfo
from vidproc.operations import clips, delivery, frames, reading
from vidproc.operations.gif.recipes import RECIPES, Recipe
from vidproc.operations.gif.renditions import Rendition, frame_count

BUFFER = 200_000_000
"""Bytes of frames that may wait in memory for the palette; for more, the source is read twice."""
_FILTERS = 64 << 20
"""Bytes that the filters of palettes take besides: without them, 217 MiB were used of 214."""

_PALETTE = "palette.png"
_LEAD_SLOW = 10.0
"""Seconds that are read before the start to find the frame that is shown there."""
_ROUNDING = 0.001
"""Seconds: containers round times, which must not make frames alternate at half the rate."""


class _Needs(TypedDict):
    duration: float
    cpus: float
    memory: int


def fits_memory(rendition: Rendition, clip: clips.Clip) -> bool:
    """Return whether all frames of a GIF may wait in memory until its palette is ready."""
    return _buffered(rendition, clip) <= BUFFER


def gif_commands(
    media: MediaInfo,
    capabilities: Capabilities,
    clip: clips.Clip,
    rendition: Rendition,
    recipe: Recipe,
    name: str,
    weight: float,
) -> Iterator[Command]:
    """Yield one command, or two if the frames would not fit into memory."""
    needs = _needs(media, clip, rendition)
    if fits_memory(rendition, clip):
        twice = _frames(media, capabilities, clip, rendition).split()
        graph = _output(_paletted(twice[0], _palette(twice[1], rendition, recipe), recipe), name)
        yield ffmpeg_command(graph, stage="encoding", weight=weight, **needs)
        return
    palette = _palette(_frames(media, capabilities, clip, rendition), rendition, recipe)
    graph = ffmpeg.output(
        palette, output_file(_PALETTE), format="image2", update=1, **{"frames:v": 1, "c:v": "png"}
    )
    yield ffmpeg_command(graph, stage="palette", weight=weight * 0.4, **needs)
    palette = ffmpeg.input(input_file(_PALETTE), format="png_pipe", protocol_whitelist="file")
    gif_frames = _frames(media, capabilities, clip, rendition)
    graph = _output(_paletted(gif_frames, palette, recipe), name)
    yield ffmpeg_command(graph, stage="encoding", weight=weight * 0.6, **needs)


def trial_command(
    media: MediaInfo,
    capabilities: Capabilities,
    clip: clips.Clip,
    rendition: Rendition,
    weight: float,
) -> Command:
    """Return a command that makes a GIF with each recipe and prints the SSIM of each one."""
    split = _frames(media, capabilities, clip, rendition).split()
    outputs = []
    for number, recipe in enumerate(RECIPES):
        made = _paletted(
            split[3 * number], _palette(split[3 * number + 1], rendition, recipe), recipe
        ).split()
        outputs.append(_output(made[0], trial_file(recipe)))
        scored = ffmpeg.filter([made[1], split[3 * number + 2]], "ssim")
        scored = scored.filter("metadata", mode="add", key="recipe", value=recipe.name)
        scored = scored.filter("metadata", mode="print", file="-", direct=1)
        outputs.append(ffmpeg.output(scored, "-", format="null"))
    return ffmpeg_command(
        ffmpeg.merge_outputs(*outputs),
        stage="encoding",
        weight=weight,
        capture=1 << 20,
        **_needs(media, clip, rendition),
    )


def trial_file(recipe: Recipe) -> str:
    """Return the name of the GIF that a trial makes with a recipe."""
    return f"attempt-1-{recipe.name}.gif"


def _needs(media: MediaInfo, clip: clips.Clip, rendition: Rendition) -> _Needs:
    shown = frames.require_video(media).displayed_size
    memory = delivery.encoding_memory(rendition.size, rendition.size, shown)
    return {
        "duration": clip.length,
        "cpus": 2.0,
        "memory": memory + _FILTERS + min(_buffered(rendition, clip), BUFFER),
    }


def _buffered(rendition: Rendition, clip: clips.Clip) -> int:
    """Return the bytes of the frames that wait in memory until the palette is ready."""
    return frame_count(rendition, clip) * rendition.size[0] * rendition.size[1] * 4


def _frames(
    media: MediaInfo, capabilities: Capabilities, clip: clips.Clip, rendition: Rendition
) -> FilterableStream:
    """Return exactly the frames of the GIF, evenly spaced.

    Reading starts a little earlier, so that the first one is the frame that is being shown at the
    start, not the next one.
    """
    video = frames.require_video(media)
    slow = not video.constant_rate or not video.frame_rate
    lead = _LEAD_SLOW if slow or not video.frame_rate else 2 / video.frame_rate
    skipped = min(math.ceil(lead * rendition.fps), math.floor(clip.start * rendition.fps + 1e-6))
    before = skipped / rendition.fps

    def sample(stream: FilterableStream) -> FilterableStream:
        # Without "pass", a video shorter than half an interval would have no frame at all.
        stream = stream.filter(
            "fps", fps=rate(rendition.fps), start_time=-_ROUNDING, eof_action="pass"
        )
        stream = stream.filter(
            "trim", start_frame=skipped, end_frame=skipped + frame_count(rendition, clip)
        )
        return stream.filter("setpts", "PTS-STARTPTS")

    start = max(0.0, clip.start - before)
    node = reading.source(media, start=start, duration=clip.length + before)
    return frames.normalised(
        node, media, capabilities, rendition.size, pixels=frames.Pixels("bgra"), sample=sample
    )


def rate(fps: float) -> str:
    """Return a frame rate as a fraction, to a thousandth."""
    return f"{round(fps * 1000)}/1000"


def _palette(stream: FilterableStream, rendition: Rendition, recipe: Recipe) -> FilterableStream:
    return stream.filter("palettegen", max_colors=rendition.colours, stats_mode=recipe.stats)


def _paletted(
    stream: FilterableStream, palette: FilterableStream, recipe: Recipe
) -> FilterableStream:
    return ffmpeg.filter([stream, palette], "paletteuse", **dict(recipe.options))


def _output(stream: FilterableStream, name: str) -> OutputStream:
    return ffmpeg.output(
        stream,
        output_file(name),
        format="gif",
        loop=0,
        map_metadata=-1,
        threads=THREADS,
        filter_complex_threads=THREADS,
    )
