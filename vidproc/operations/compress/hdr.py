"""What encoders are told of an HDR video: on which display it was graded, and how bright it is."""

from __future__ import annotations

from dataclasses import replace

from vidproc.ffmpeg.media import MasteringDisplay, VideoStream
from vidproc.operations.compress.search import Curve

_STEPS = {
    ("libx265", "smpte2084"): 9.0,
    ("libx265", "arib-std-b67"): 7.0,
    ("libsvtav1", "smpte2084"): 16.0,
    ("libsvtav1", "arib-std-b67"): 10.5,
}
"""CRF steps by which HDR needs a lower one than SDR for the same score, from VMAF 80 to 95: what a
viewer of SDR sees takes fewer of the encoder's levels in PQ and HLG. About the
means of three films: 12, 9 and 6; 8 and 6; 20, 17 and 12; 13 and 8."""
_LEAST_CRF = 2.0


def hdr_curve(encoder: str, video: VideoStream, curve: Curve) -> Curve:
    """Return how an encoder usually responds to its CRF where the film stays HDR."""
    steps = _STEPS[encoder, video.color_transfer or ""]
    return replace(
        curve,
        crf_range=(_LEAST_CRF, curve.crf_range[1]),
        typical=tuple((score, crf - steps) for score, crf in curve.typical),
    )


def hdr_parameters(encoder: str, video: VideoStream) -> dict[str, str]:
    """Return the encoder's parameters (``x265-params`` and the like) for a video that stays HDR.

    The transfer function, primaries and matrix come with the frames.
    """
    display, light = video.mastering_display, video.content_light
    words = []
    if encoder == "libx265":
        if display is not None:
            words.append(f"master-display={_x265_display(display)}")
        if light is not None:
            words.append(f"max-cll={light[0]},{light[1]}")
        return {"x265-params": ":".join(words)} if words else {}
    if display is not None:
        words.append(f"mastering-display={_svt_display(display)}")
    if light is not None:
        words.append(f"content-light={light[0]},{light[1]}")
    return {"svtav1-params": ":".join(words)} if words else {}


def _x265_display(display: MasteringDisplay) -> str:
    """Return it in units of 0.00002 and 0.0001 cd/m2."""

    def place(point: tuple[float, float]) -> str:
        return f"({round(point[0] * 50_000)},{round(point[1] * 50_000)})"

    return (
        f"G{place(display.green)}B{place(display.blue)}R{place(display.red)}"
        f"WP{place(display.white)}"
        f"L({round(display.most * 10_000)},{round(display.least * 10_000)})"
    )


def _svt_display(display: MasteringDisplay) -> str:
    def place(point: tuple[float, float]) -> str:
        return f"({point[0]:.6f},{point[1]:.6f})"

    return (
        f"G{place(display.green)}B{place(display.blue)}R{place(display.red)}"
        f"WP{place(display.white)}L({display.most:.4f},{display.least:.6f})"
    )
