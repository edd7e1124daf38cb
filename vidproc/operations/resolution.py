"""resolution: the video at a different frame size."""

from __future__ import annotations

from vidproc.ffmpeg.capabilities import Capabilities
from vidproc.ffmpeg.command import ffmpeg_command
from vidproc.ffmpeg.media import MediaInfo
from vidproc.operations import delivery, frames, reading, sizes
from vidproc.operations.base import (
    Expectation,
    Operation,
    Plan,
    Product,
    filmed_bytes,
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
        return reshaped(
            media, capabilities, size, parameters.fit, parameters.audio_tracks, warnings
        )

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


def reshaped(
    media: MediaInfo,
    capabilities: Capabilities,
    size: sizes.Size,
    fit: Fit,
    audio_tracks: AudioTracks,
    warnings: list[str],
) -> Plan:
    """Return the plan that fits the video into a frame of `size` pixels (even numbers).

    `warnings` has the warnings about the size.
    """
    require_encoder(capabilities, "libx264")
    video = frames.require_video(media)
    shown = video.displayed_size
    tracks = choose_tracks(media, "mp4", audio_tracks)
    node = reading.source(media)
    graph = delivery.deliver(
        node,
        media,
        frames.fitted(node, media, capabilities, size, fit),
        delivery.Delivery(_RESULT, "mp4", delivery.x264(), tracks),
    )
    duration = delivery.film_duration(media, tracks)
    command = ffmpeg_command(
        graph,
        stage="encoding",
        duration=duration,
        memory=delivery.encoding_memory(size, drawn_size(media, size, fit), shown),
    )
    return Plan(
        commands=[command],
        product=Product(
            _RESULT,
            "mp4",
            Expectation(
                video=True,
                audio=bool(tracks.audio),
                audio_tracks=len(tracks.audio),
                size=size,
                duration=duration,
                tolerance=delivery.tolerance(media),
            ),
        ),
        warnings=[
            *warnings,
            *frames.frame_warnings(media, capabilities),
            *track_warnings(media, tracks),
        ],
    )
