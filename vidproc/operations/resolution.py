"""resolution: the video at a different frame size."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

from ffmpeg.nodes import FilterableStream, OutputStream

from vidproc.ffmpeg.capabilities import Capabilities
from vidproc.ffmpeg.command import Command, ffmpeg_command
from vidproc.ffmpeg.media import MediaInfo
from vidproc.operations import delivery, frames, reading, sizes, spread
from vidproc.operations.base import (
    Expectation,
    Job,
    Operation,
    P,
    Plan,
    Product,
    filmed_bytes,
    follow,
    require_encoder,
)
from vidproc.operations.parameters import AudioTracks, Fit, Resolution
from vidproc.operations.tracks import choose_tracks, track_warnings

_RESULT = "result.mp4"


class ResolutionOperation(Operation[Resolution]):
    """Make the displayed frame exactly `width` x `height` pixels."""

    name = "resolution"

    def plan(self, media: MediaInfo, parameters: Resolution, capabilities: Capabilities) -> Plan:
        """Return one encode. Raises `ServiceError` 415 without video."""
        return reshaped(media, capabilities, self._shape(media, parameters))

    async def run(self, job: Job[Resolution]) -> Product:
        """Make it, in segments if a cluster has cores for them."""
        plan = self.plan(job.media, job.parameters, job.capabilities)
        return await reshape(job, plan, self._shape(job.media, job.parameters))

    def _shape(self, media: MediaInfo, parameters: Resolution) -> Shape:
        frames.require_video(media)
        asked = parameters.width, parameters.height
        size = sizes.even(asked[0]), sizes.even(asked[1])
        warnings = []
        if size != asked:
            warnings.append(
                f"H.264 needs an even width and height: {asked[0]}x{asked[1]} became "
                f"{size[0]}x{size[1]}."
            )
        drawn = drawn_size(media, size, parameters.fit)
        warnings += sizes.upscale_warning(frames.require_video(media).displayed_size, drawn)
        return Shape(size, parameters.fit, parameters.audio_tracks, tuple(warnings))

    def estimate_output(self, media: MediaInfo, parameters: Resolution) -> int:
        """Return the bytes of the video at its new size."""
        size = (float(parameters.width), float(parameters.height))
        return filmed_bytes(media, size) + max(2 * media.size, 4 << 20)

    def estimate_size(self, parameters: Resolution, source_size: int) -> int:
        """Return an estimate of the output's bytes: twice the source's."""
        return max(2 * source_size, 4 << 20)


def drawn_size(media: MediaInfo, size: sizes.Size, fit: Fit) -> sizes.Size:
    """Return the size of the whole frame when it is fitted into `size`."""
    shown = frames.require_video(media).displayed_size
    if fit == "stretch":
        return size
    return sizes.inside(shown, size) if fit == "pad" else sizes.around(shown, size)


@dataclass(frozen=True, slots=True)
class Shape:
    """The frame that a video is fitted into: its `size` in pixels (even numbers), how, and warnings
    about it. `audio_tracks` are those that are kept."""

    size: sizes.Size
    fit: Fit
    audio_tracks: AudioTracks
    warnings: tuple[str, ...] = ()


def reshaped(media: MediaInfo, capabilities: Capabilities, shape: Shape) -> Plan:
    """Return the plan that fits the video into a frame, in one command."""
    work = _Reshaping(media, capabilities, shape)
    command = ffmpeg_command(
        work.delivered(work.scaled(work.node, lambda stream: stream), delivery.x264()),
        stage="encoding",
        duration=work.duration,
        memory=work.memory,
    )
    return Plan([command], work.product({}), work.warnings())


async def reshape(job: Job[P], plan: Plan, shape: Shape) -> Product:
    """Fit the video into a frame: in segments if a cluster has cores for them, else by `plan`."""
    work = _Reshaping(job.media, job.capabilities, shape)
    length = frames.require_video(job.media).duration
    lengths = spread.divide(job.media, length, job.capabilities.spare_cores)
    film = await spread.cut(job, lengths, tick=spread.tick_for(job.media))
    if film is None:
        return await follow(job, plan)
    segment = partial(work.segment, film)
    if await spread.encode(job, film, segment, [work.join(film)]) is None:
        return await follow(job, plan)
    for sentence in plan.warnings:
        job.warn(sentence)
    return work.product({"chunks": len(film.segments)})


class _Reshaping:
    """A video on its way into a frame."""

    def __init__(self, media: MediaInfo, capabilities: Capabilities, shape: Shape) -> None:
        require_encoder(capabilities, "libx264")
        self._media = media
        self._capabilities = capabilities
        self._shape = shape
        self._tracks = choose_tracks(media, "mp4", shape.audio_tracks)
        self.node = reading.source(media)
        self.duration = delivery.film_duration(media, self._tracks)

    @property
    def memory(self) -> int:
        """The memory of an encode, in bytes."""
        size = self._shape.size
        drawn = drawn_size(self._media, size, self._shape.fit)
        shown = frames.require_video(self._media).displayed_size
        return delivery.encoding_memory(size, drawn, shown)

    def scaled(self, node: reading.Source, sample: frames.Sample) -> FilterableStream:
        """Return the fitted frames of an input; `sample` selects some of them."""
        size, fit = self._shape.size, self._shape.fit
        return frames.fitted(node, self._media, self._capabilities, size, fit, sample)

    def delivered(self, stream: FilterableStream, options: dict[str, object]) -> OutputStream:
        """Return the output node of the finished file with the video `stream`."""
        what = delivery.Delivery(_RESULT, "mp4", options, self._tracks)
        return delivery.deliver(self.node, self._media, stream, what)

    def segment(self, film: spread.Film, segment: spread.Segment, careful: bool) -> Command:
        """Return the command that encodes a segment of the film."""
        return spread.encode_command(
            film,
            segment,
            self.scaled,
            {**delivery.x264(), **delivery.STITCHABLE},
            memory=self.memory,
            weight=film.encoding_weight(segment),
            careful=careful,
        )

    def join(self, film: spread.Film) -> Command:
        """Return the command that joins the segments, with audio and subtitles."""
        copied = {"c:v": "copy", "video_track_timescale": film.timescale}
        command = ffmpeg_command(
            self.delivered(film.joined(), copied),
            stage="joining",
            duration=self.duration,
            weight=spread.JOINING,
        )
        return spread.with_join(command, film)

    def product(self, details: dict[str, Any]) -> Product:
        """Return the finished file."""
        expectation = Expectation(
            video=True,
            audio=bool(self._tracks.audio),
            audio_tracks=len(self._tracks.audio),
            size=self._shape.size,
            duration=self.duration,
            tolerance=delivery.tolerance(self._media),
        )
        return Product(_RESULT, "mp4", expectation, details)

    def warnings(self) -> list[str]:
        """Return a sentence for everything that is changed or dropped."""
        return [
            *self._shape.warnings,
            *frames.frame_warnings(self._media, self._capabilities),
            *track_warnings(self._media, self._tracks),
        ]
