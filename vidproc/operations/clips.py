"""The stretch of a video that GIF and WebM are made of."""

from __future__ import annotations

from dataclasses import dataclass

from vidproc.errors import ErrorCode, ServiceError
from vidproc.ffmpeg.media import MediaInfo
from vidproc.operations.frames import require_video
from vidproc.operations.reading import seconds


@dataclass(frozen=True, slots=True)
class Clip:
    """A clip within the video: `start` and `length` in seconds; 0 is the first frame."""

    start: float
    length: float
    warnings: tuple[str, ...] = ()


def clip(media: MediaInfo, start: float, length: float, *, with_audio: bool) -> Clip:
    """Return the requested clip, shortened at the end of the video.

    The end is that of the video stream or, `with_audio`, of the longest stream. Raises
    `ServiceError` 422 if no frame is shown at `start` or later.
    """
    video = require_video(media)
    whole = media.duration - video.start_time if media.duration is not None else None
    shown = video.duration if video.duration is not None else whole
    if shown is None:
        return Clip(start, length)
    last = shown - 0.999 / video.frame_rate if video.frame_rate else shown
    if start > max(0.0, last):
        why = f"the video is only {shown:.2f} s long"
        if start < shown:
            why = f"no frame begins after that; the video is {shown:.2f} s long"
        raise ServiceError(
            ErrorCode.INVALID_PARAMETER,
            f"start_time is {seconds(start)} s, but {why}.",
            f"Choose a start_time below {max(0.01, last):.2f}. Example: --start-time 0",
        )
    end = max(shown, whole or 0.0) if with_audio else shown
    if start + length <= end:
        return Clip(start, length)
    short = start + length - end
    warning = (
        f"The requested clip extends past the end of the video ({end:.2f} s), so it was "
        f"shortened to {end - start:.2f} s."
    )
    return Clip(start, end - start, (warning,) if short > 0.1 else ())
