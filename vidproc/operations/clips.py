"""The stretch of a video that GIF and WebM are made of."""

from __future__ import annotations

from dataclasses import dataclass

from vidproc.errors import ErrorCode, ServiceError
from vidproc.ffmpeg.media import MediaInfo
from vidproc.operations.frames import require_video
from vidproc.operations.reading import seconds


@dataclass(frozen=True, slots=True)
class Clip:
    """A part of the film that exists: `start` and `length` in seconds, 0 the first picture."""

    start: float
    length: float
    warnings: tuple[str, ...] = ()


def clip(media: MediaInfo, start: float, length: float, *, sound: bool) -> Clip:
    """Return the part of the film that was asked for, cut at the film's end.

    The end is that of the picture, or with `sound` that of the longest stream. Raises
    `ServiceError` 422 when no picture is shown at `start` or later.
    """
    video = require_video(media)
    film = media.duration - video.start_time if media.duration is not None else None
    pictures = video.duration if video.duration is not None else film
    if pictures is None:
        return Clip(start, length)
    last = pictures - 0.999 / video.frame_rate if video.frame_rate else pictures
    if start > max(0.0, last):
        raise ServiceError(
            ErrorCode.INVALID_PARAMETER,
            f"start_time is {seconds(start)} s, but the video is only {pictures:.2f} s long.",
            f"Choose a start_time below {max(0.01, last):.2f}. Example: --start-time 0",
        )
    end = max(pictures, film or 0.0) if sound else pictures
    if start + length <= end:
        return Clip(start, length)
    short = start + length - end
    warning = (
        f"The part asked for runs past the end of the video ({end:.2f} s): "
        f"it was cut to {end - start:.2f} s."
    )
    return Clip(start, end - start, (warning,) if short > 0.1 else ())
