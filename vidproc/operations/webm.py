"""webm: a part of the film as WebM, VP9 or AV1 with Opus."""

from __future__ import annotations

from typing import Any

from vidproc.ffmpeg.command import ffmpeg_command
from vidproc.ffmpeg.media import MediaInfo
from vidproc.operations import filters
from vidproc.operations.base import (
    Capabilities,
    Expectation,
    Operation,
    Plan,
    Product,
    require_encoder,
)
from vidproc.operations.parameters import WebM

_RESULT = "result.webm"
_SVT_LEAST_SIDE = 64
_VP9_SPEED = 5  # half the CPU time of libvpx as it comes; 4 gains nothing in size
_VP9_STEP = 1  # of CRF: at that speed the same CRF looks up to 0.6 VMAF worse than as it comes


class WebMOperation(Operation[WebM]):
    """Cut a part out of a film, to the picture, for the web."""

    name = "webm"

    def plan(self, media: MediaInfo, parameters: WebM, capabilities: Capabilities) -> Plan:
        """Return one encode. Raises `ServiceError` 415 without video, 422 past the end."""
        video = filters.require_video(media)
        shown = video.displayed_size
        part = filters.segment(media, parameters.start, parameters.length, sound=True)
        warnings = list(part.warnings)
        wanted = parameters.width or shown[0]
        size = filters.limited(filters.scaled(shown, wanted / shown[0]))
        if parameters.width is not None and size[0] != parameters.width:
            warnings.append(f"The width of {parameters.width} became {size[0]}.")
        options = encoder(parameters, size, capabilities)

        sound = _sound(media, part)
        subtitles = filters.kept_subtitles(media)
        node = filters.source(media, start=part.start, duration=part.length)
        graph = filters.deliver(
            node,
            media,
            filters.picture(node, media, capabilities, size, sample=_from_zero),
            filters.Delivery(
                _RESULT,
                "webm",
                options,
                sound,
                subtitles,
                whole=False,
                extra=_exact_cut(part, bool(subtitles)),
            ),
        )
        command = ffmpeg_command(
            graph,
            stage="encoding",
            duration=part.length,
            memory=filters.encoding_memory(size, size, shown),
        )
        warnings.extend(filters.upscale_warning(shown, size))
        warnings.extend(filters.picture_warnings(media, capabilities))
        warnings.extend(filters.sound_warnings(media, sound))
        warnings.extend(filters.subtitle_warnings(media, subtitles))
        expectation = Expectation(
            video=True,
            audio=sound is not None,
            size=size,
            duration=part.length,
            tolerance=filters.tolerance(media),
        )
        return Plan([command], Product(_RESULT, "webm", expectation), warnings)

    def estimate_size(self, parameters: WebM, source_size: int) -> int:
        """Return a guess of the output's bytes: 8 Mbit/s, at most twice the source."""
        return max(1 << 20, min(int(parameters.length * 1_000_000), 2 * source_size))


def _sound(media: MediaInfo, part: filters.Segment) -> filters.Sound | None:
    """Return the sound of a part of the film, None when it has none there."""
    track = media.main_audio()
    if track is None:
        return None
    video = filters.require_video(media)
    start = part.start + video.start_time
    if track.duration is not None and start >= track.start_time + track.duration:
        return None
    if start + part.length <= track.start_time:
        return None
    # Packets can only be taken over from the film's own start: others do not begin where asked.
    return filters.choose_sound(media, "webm", cut=start > filters.NO_SEEK)


def _exact_cut(part: filters.Segment, subtitles: bool) -> dict[str, Any]:
    """Return output options that leave nothing outside of the part.

    The input's -t counts from the first picture after the cut, which may be one too many; its
    -ss lets earlier subtitles through; and the last of these may stay on longer than the film.
    """
    length = filters.seconds(part.length)
    options: dict[str, Any] = {"t": length}
    if subtitles:
        options["ss"] = 0
        options["copypriorss:a"] = 1  # the encoder's delay comes before 0 and must stay
        options["bsf:s"] = f"setts=duration=min(DURATION\\,{length}/TB-PTS)"
    return options


def _from_zero(stream: Any) -> Any:
    """Put the first picture at the very start: a cut falls between two, which leaves a hole."""
    return stream.filter("setpts", "if(eq(N,0),0,PTS)")


def encoder(parameters: WebM, size: filters.Size, capabilities: Capabilities) -> dict[str, Any]:
    """Return the encoder's output options."""
    options: dict[str, Any] = {"pix_fmt": "yuv420p", "crf": parameters.quality}
    if parameters.codec == "av1":
        small = min(size) < _SVT_LEAST_SIDE
        names = ("libaom-av1", "libsvtav1") if small else ("libsvtav1", "libaom-av1")
        name = require_encoder(capabilities, *names)
        if name == "libsvtav1":
            return {**options, "c:v": name, "preset": 8, "g": 240}
        return {**options, "c:v": name, "cpu-used": 6, "row-mt": 1, "b:v": 0}
    name = require_encoder(capabilities, "libvpx-vp9")
    tiles = max(0, min(4, (size[0] // 256).bit_length() - 1))
    return {
        **options,
        "c:v": name,
        "crf": max(0, parameters.quality - _VP9_STEP),
        "b:v": 0,
        "deadline": "good",
        "cpu-used": _VP9_SPEED,
        "row-mt": 1,
        "tile-columns": tiles,
        "g": 240,
    }
