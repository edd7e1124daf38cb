"""resolution: the film at another size."""

from __future__ import annotations

from vidproc.ffmpeg.capabilities import Capabilities
from vidproc.ffmpeg.command import ffmpeg_command
from vidproc.ffmpeg.media import MediaInfo
from vidproc.operations import filters
from vidproc.operations.base import Expectation, Operation, Plan, Product, require_encoder
from vidproc.operations.parameters import Fit, Resolution

_RESULT = "result.mp4"


class ResolutionOperation(Operation[Resolution]):
    """Make the displayed picture exactly `width` x `height` pixels."""

    name = "resolution"

    def plan(self, media: MediaInfo, parameters: Resolution, capabilities: Capabilities) -> Plan:
        """Return one encode. Raises `ServiceError` 415 without video."""
        filters.require_video(media)
        asked = parameters.width, parameters.height
        size = filters.even(asked[0]), filters.even(asked[1])
        warnings = []
        if size != asked:
            warnings.append(
                f"The size was made even, as H.264 needs it: {asked[0]}x{asked[1]} became "
                f"{size[0]}x{size[1]}."
            )
        drawn = drawn_size(media, size, parameters.fit)
        warnings += filters.upscale_warning(filters.require_video(media).displayed_size, drawn)
        return reshaped(media, capabilities, size, parameters.fit, warnings)

    def estimate_size(self, parameters: Resolution, source_size: int) -> int:
        """Return a guess of the output's bytes: a high rate at the new size, or the source's."""
        return max(2 * source_size, 4 << 20)


def drawn_size(media: MediaInfo, size: filters.Size, fit: Fit) -> filters.Size:
    """Return the pixels that the whole picture takes when it is fitted into `size`."""
    shown = filters.require_video(media).displayed_size
    if fit == "stretch":
        return size
    return filters.inside(shown, size) if fit == "pad" else filters.around(shown, size)


def reshaped(
    media: MediaInfo,
    capabilities: Capabilities,
    size: filters.Size,
    fit: Fit,
    warnings: list[str],
) -> Plan:
    """Return the plan that puts the picture into a frame of `size` pixels (even numbers).

    `warnings` holds what is to be told of the size already.
    """
    require_encoder(capabilities, "libx264")
    video = filters.require_video(media)
    shown = video.displayed_size
    sound = filters.choose_sound(media, "mp4")
    subtitles = filters.kept_subtitles(media)
    node = filters.source(media)
    graph = filters.deliver(
        node,
        media,
        filters.fit_picture(node, media, capabilities, size, fit),
        filters.Delivery(_RESULT, "mp4", filters.x264(), sound, subtitles),
    )
    duration = filters.film_duration(media, sound)
    command = ffmpeg_command(
        graph,
        stage="encoding",
        duration=duration,
        memory=filters.encoding_memory(size, drawn_size(media, size, fit), shown),
    )
    return Plan(
        commands=[command],
        product=Product(
            _RESULT,
            "mp4",
            Expectation(
                video=True,
                audio=sound is not None,
                size=size,
                duration=duration,
                tolerance=filters.tolerance(media),
            ),
        ),
        warnings=[
            *warnings,
            *filters.picture_warnings(media, capabilities),
            *filters.sound_warnings(media, sound),
            *filters.subtitle_warnings(media, subtitles),
        ],
    )
