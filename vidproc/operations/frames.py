"""Normalising the frames of a video.

The output of `normalised` and `fitted` is upright, progressive, SDR, limited range and has square
pixels, so that operations only have to deal with its size. Everything here is pure: it turns the
probe's findings into ffmpeg-python nodes and sentences.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import msgspec
from ffmpeg.nodes import FilterableStream

from vidproc.errors import ErrorCode, ServiceError
from vidproc.ffmpeg.capabilities import Capabilities
from vidproc.ffmpeg.media import MediaInfo, VideoStream
from vidproc.operations.parameters import Fit
from vidproc.operations.reading import Source
from vidproc.operations.sizes import MAX_SIDE, Size, around, inside, scaled

REFERENCE_WHITE = 203
"""cd/m2: the HDR level that becomes (almost) SDR white (ITU-R BT.2408, 3.2)."""


_RGB = ("rgb", "bgr", "gbr", "argb", "abgr", "0rgb", "0bgr", "x2rgb", "x2bgr", "pal8", "bayer")


_SCALER = "lanczos+accurate_rnd+full_chroma_int"


_RGB_SCALER = "lanczos"  # full-resolution chroma makes a GIF of drawings 7 % larger


Sample = Callable[[FilterableStream], FilterableStream]
"""Selects frames of a stream: a frame rate, a clip, a segment."""


@dataclass(frozen=True, slots=True)
class Pixels:
    """What frames become: a pixel format of FFmpeg's, and whether PQ and HLG stay as they are.

    `denoise` are the strengths with which grain is removed from luma and chroma, in 8-bit values.
    """

    format: str = "yuv420p"
    hdr: bool = False
    denoise: tuple[float, float] | None = None

    def scaled(self, factor: float) -> Pixels:
        """Return the same for frames that are smaller by a factor, where grain is weaker."""
        if self.denoise is None or factor == 1.0:
            return self
        luma, chroma = (round(factor * strength, 2) for strength in self.denoise)
        return replace(self, denoise=(luma, chroma))


def require_video(media: MediaInfo) -> VideoStream:
    """Return the video stream; raises `ServiceError` 415 if there is none that can be read."""
    if media.video is None:
        if media.unreadable_video:
            raise ServiceError(
                ErrorCode.UNSUPPORTED_MEDIA,
                "The video is too damaged or in an unknown format: no frame could be decoded.",
                "Check that it plays on your machine and was copied completely, then send it "
                "again; extract_audio can still extract its audio.",
            )
        raise ServiceError(
            ErrorCode.UNSUPPORTED_MEDIA,
            "The file has no video, only audio.",
            "Send a file with a video stream, or use extract_audio for its audio.",
        )
    if media.video.dolby_vision_only:
        raise ServiceError(
            ErrorCode.UNSUPPORTED_MEDIA,
            "The video is Dolby Vision without a compatible base layer (profile 5): its colours "
            "cannot be read here.",
            "Export it as HDR10, HLG or SDR and send that; extract_audio can still extract its "
            "audio.",
        )
    return media.video


def normalised(
    node: Source,
    media: MediaInfo,
    capabilities: Capabilities,
    size: Size | None = None,
    *,
    pixels: Pixels = Pixels(),
    sample: Sample | None = None,
) -> FilterableStream:
    """Return the normalised video at `size` (displayed pixels; default: the source's).

    FFmpeg rotates it itself. Sizes must be even unless the `pixels` are RGB or 4:4:4.
    `sample` selects frames (a frame rate, a clip) where that is cheapest: before any scaling.
    """
    video = require_video(media)
    width, height = size or scaled(video.displayed_size, 1.0)
    stream = node[str(video.index)]
    if video.interlaced:
        stream = stream.filter("bwdif", mode="send_frame", deint="interlaced")
    if any(video.crop):
        left, top, right, bottom = video.displayed_crop
        stream = stream.filter(
            "crop", f"iw-{left + right}", f"ih-{top + bottom}", left, top, exact=1
        )
    if sample is not None:
        stream = sample(stream)
    rgb = is_rgb(video.pixel_format)
    if video.hdr and pixels.hdr:
        stream = _as_hdr(stream, video, (width, height))
    elif (video.hdr or wide_gamut(video)) and maps_colours(capabilities):
        stream = stream.filter(
            "scale",
            width,
            height,
            flags=_SCALER,
            **({"out_color_matrix": "bt2020", "out_range": "tv"} if rgb else {}),
        )
        stream = _to_sdr(stream.filter("format", "yuv444p10le"), video, rgb)
    else:
        if not rgb and video.color_matrix is None:
            # Players guess an untagged matrix from the size, and the size may change here.
            stream = stream.filter("setparams", colorspace=guessed_matrix(video))
        options: dict[str, object] = {"out_range": "tv"}
        if video.full_range and not rgb:
            options["in_range"] = "pc"
        if rgb:
            options["out_color_matrix"] = "bt709"
        if is_rgb(pixels.format):
            options = {k: v for k, v in options.items() if k == "in_range"}
        if _one_off(video, (width, height)):
            stream = stream.filter("crop", width, height, 0, 0, exact=1)
        flags = _RGB_SCALER if is_rgb(pixels.format) else _SCALER
        stream = stream.filter("scale", width, height, flags=flags, **options)
    stream = stream.filter("format", pixels.format).filter("setsar", 1)
    return _denoised(stream, pixels.denoise) if pixels.denoise is not None else stream


def _denoised(stream: FilterableStream, strengths: tuple[float, float]) -> FilterableStream:
    """Return frames without grain. Each depends on nothing but itself, and is the same each time:
    so segments, samples and references are."""
    for strength, planes in zip(strengths, (_LUMA, _CHROMA), strict=True):
        if strength:
            stream = stream.filter("vaguedenoiser", threshold=strength, percent=100, planes=planes)
    return stream


_LUMA, _CHROMA = 1, 6  # planes of FFmpeg's filters, as bits


def as_shown(
    stream: FilterableStream, video: VideoStream, capabilities: Capabilities, pixels: Pixels
) -> FilterableStream:
    """Return what a viewer sees of normalised frames on an SDR display: HDR is tone-mapped."""
    if not (video.hdr and pixels.hdr and maps_colours(capabilities)):
        return stream
    video = msgspec.structs.replace(
        video, full_range=False, color_matrix=_hdr_matrix(video), color_primaries=_primaries(video)
    )
    return _to_sdr(stream.filter("format", "yuv444p10le"), video, False).filter("format", "yuv420p")


def maps_colours(capabilities: Capabilities) -> bool:
    """Return whether this FFmpeg can map HDR and wide gamuts to BT.709."""
    return "zscale" in capabilities.filters and "tonemap" in capabilities.filters


def _as_hdr(stream: FilterableStream, video: VideoStream, size: Size) -> FilterableStream:
    """Return HDR frames at `size`, limited range, without metadata that only the source had."""
    stream = _without(stream, *(n for kind in video.dynamic_metadata for n in _SIDE_DATA[kind]))
    rgb = is_rgb(video.pixel_format)
    options: dict[str, object] = {"out_range": "tv"}
    if rgb:
        options["out_color_matrix"] = "bt2020"
    elif video.full_range:
        options["in_range"] = "pc"
    if _one_off(video, size):
        stream = stream.filter("crop", *size, 0, 0, exact=1)
    return stream.filter("scale", *size, flags=_SCALER, **options).filter(
        "setparams",
        range="tv",
        color_primaries=_primaries(video),
        color_trc=video.color_transfer,
        colorspace=_hdr_matrix(video),
    )


def _without(stream: FilterableStream, *kinds: str) -> FilterableStream:
    """Return frames without side data of some kinds, which would be written into the result."""
    for kind in kinds:
        stream = stream.filter("sidedata", mode="delete", type=kind)
    return stream


_SIDE_DATA = {
    "HDR10+": ("DYNAMIC_HDR_PLUS",),
    "Dolby Vision": ("DOVI_RPU_BUFFER", "DOVI_METADATA"),
}


def _hdr_matrix(video: VideoStream) -> str:
    return video.color_matrix if video.color_matrix not in (None, "gbr") else "bt2020nc"


def _primaries(video: VideoStream) -> str:
    return video.color_primaries or "bt2020"


def _one_off(video: VideoStream, size: Size) -> bool:
    """Whether `size` lacks only an odd column or row: cropping keeps the rest sharp."""
    if video.sample_aspect_ratio != (1, 1):
        return False
    lacking = [have - want for have, want in zip(video.displayed_size, size, strict=True)]
    return lacking != [0, 0] and all(0 <= lack <= 1 for lack in lacking)


def _to_sdr(stream: FilterableStream, video: VideoStream, rgb: bool) -> FilterableStream:
    """Map HDR or wide-gamut frames to BT.709."""
    given = {
        "tin": video.color_transfer or "bt709",
        "pin": video.color_primaries or "bt2020",
        "min": "bt2020nc" if rgb or video.color_matrix in (None, "gbr") else video.color_matrix,
        "rin": "full" if video.full_range and not rgb else "limited",
    }
    if given["tin"] in ("smpte428", "bt1361e"):  # zscale supports neither
        given["tin"] = "bt709"
    if given["min"] == "smpte2085":
        given["min"] = "bt2020nc"
    target = {"p": "bt709", "t": "bt709", "m": "bt709", "r": "limited"}
    if video.mastering_display is not None:
        stream = _without(stream, "MASTERING_DISPLAY_METADATA")
    if video.content_light is not None:
        stream = _without(stream, "CONTENT_LIGHT_LEVEL")
    stream = _without(stream, *(n for kind in video.dynamic_metadata for n in _SIDE_DATA[kind]))
    if not video.hdr:
        return stream.filter("zscale", **given, **target)
    # Mobius does not change levels below half of the reference white, and rolls off highlights
    # up to 1,000 cd/m2; reference white becomes 90 % signal.
    stream = stream.filter("zscale", **given, t="linear", npl=REFERENCE_WHITE)
    stream = stream.filter("format", "gbrpf32le").filter("zscale", p="bt709")
    stream = stream.filter("tonemap", "mobius", param=0.5, peak=5, desat=0)
    return stream.filter("zscale", **target)


def is_rgb(pixel_format: str | None) -> bool:
    """Whether a pixel format stores red, green and blue rather than luma and chroma."""
    return pixel_format is not None and pixel_format.startswith(_RGB)


def wide_gamut(video: VideoStream) -> bool:
    """Whether the colours are BT.2020 or P3 without HDR."""
    return not video.hdr and video.color_primaries in ("bt2020", "smpte431", "smpte432")


def guessed_matrix(video: VideoStream) -> str:
    """Return the colour matrix that players assume for an untagged video of this size."""
    if video.width >= 1280 or video.height > 576:
        return "bt709"
    return "bt470bg" if video.height == 576 else "smpte170m"


def fitted(
    node: Source,
    media: MediaInfo,
    capabilities: Capabilities,
    target: Size,
    fit: Fit,
    sample: Sample | None = None,
) -> FilterableStream:
    """Return the normalised video in a frame of exactly `target` pixels (even numbers).

    `pad` adds black bars around it, `crop` fills the frame and cuts off what does not fit, and
    `stretch` distorts it. `sample` selects frames as in `normalised`. Raises `ServiceError` 415 if
    there is no video, 422 if too little of a cropped frame would be left.
    """
    shown = require_video(media).displayed_size
    if fit == "pad":
        inner = inside(shown, target)
        stream = normalised(node, media, capabilities, inner, sample=sample)
        if inner == target:
            return stream
        x, y = ((outer - side) // 4 * 2 for outer, side in zip(target, inner, strict=True))
        return stream.filter("pad", *target, x, y, color="black")
    if fit == "crop":
        outer = around(shown, target)
        if max(outer) > 2 * MAX_SIDE:
            raise ServiceError(
                ErrorCode.INVALID_PARAMETER,
                f"A frame of {shown[0]}x{shown[1]} cannot be cropped to {target[0]}x{target[1]}: "
                "too little of it would be left.",
                "Choose a shape closer to the source's, or pad. Example: --fit pad",
            )
        stream = normalised(node, media, capabilities, outer, sample=sample)
        if outer == target:
            return stream
        x, y = ((whole - side) // 4 * 2 for whole, side in zip(outer, target, strict=True))
        return stream.filter("crop", *target, x, y)
    return normalised(node, media, capabilities, target, sample=sample)


def frame_warnings(
    media: MediaInfo,
    capabilities: Capabilities,
    pixels: Pixels = Pixels(),
) -> list[str]:
    """Return a sentence for everything that `normalised` changes or drops."""
    video = require_video(media)
    sentences = []
    converts = maps_colours(capabilities)
    name = "PQ" if video.color_transfer == "smpte2084" else "HLG"
    if video.hdr and pixels.hdr:
        if video.dynamic_metadata:
            kept = "HDR10" if name == "PQ" else name
            sentences.append(
                f"The {' and '.join(video.dynamic_metadata)} metadata was left out; the video is "
                f"{kept}."
            )
    elif video.hdr:
        sentences.append(
            f"The HDR video ({name}) was mapped to standard dynamic range."
            if converts
            else f"The HDR video ({name}) looks washed out: this server's FFmpeg cannot map it."
        )
    elif wide_gamut(video) and converts:
        sentences.append("The wide colour gamut was mapped to BT.709.")
    if video.interlaced:
        sentences.append("The interlaced video was deinterlaced.")
    if media.other_videos:
        sentences.append(
            f"Only one video stream was used; {counted(media.other_videos, 'other')} left out."
        )
    sentences.extend(ending_warnings(media))
    return sentences


def ending_warnings(media: MediaInfo) -> list[str]:
    """Return a sentence if the file ends before its header says."""
    if not media.ends_early:
        return []
    if media.duration is None or media.claimed_duration is None:
        return ["The source is damaged or ends early; the result contains what could be read."]
    return [
        f"The source ends early: only {media.duration:.1f} of its {media.claimed_duration:.1f} "
        "seconds could be read."
    ]


def counted(number: int, noun: str) -> str:
    """Return ``1 other was`` or ``2 others were``."""
    return f"{number} {noun} was" if number == 1 else f"{number} {noun}s were"
