"""The source as it is, where no smaller encode is good enough."""

from __future__ import annotations

from typing import Any

from vidproc.ffmpeg.command import SOURCE, CommandFailed
from vidproc.operations.base import Expectation, Product
from vidproc.operations.compress.encode import copy_command
from vidproc.operations.compress.work import Work
from vidproc.operations.frames import require_video
from vidproc.operations.tracks import wanted_audio

_CONTAINERS = {
    "mp4": ("mp4", "mp4"),
    "webm": ("webm", "webm"),
    "matroska": ("matroska", "mkv"),
    "avi": ("avi", "avi"),
    "mpegts": ("mpegts", "ts"),
    "flv": ("flv", "flv"),
    "mov": ("mov", "mov"),
    "asf": ("asf", "wmv"),
    "mpeg": ("mpeg", "mpg"),
    "ogg": ("ogg", "ogv"),
    "mxf": ("mxf", "mxf"),
    "gif": ("gif", "gif"),
}
"""A demuxer's name -> the muxer of the same kind of file, and the kind's name."""


async def untouched(work: Work) -> Product:
    """Return the source's own streams in their own container, or the source's very bytes when
    that is smaller or nothing else works."""
    job, media = work.job, work.job.media
    job.warn(
        "The video is already well compressed: no smaller encode reaches this quality. "
        "It was returned unchanged."
    )
    video = require_video(media)
    muxer, kind = _container(work)
    audio = wanted_audio(media, job.parameters.audio_tracks)
    if any(video.crop):
        muxer = None  # not every muxer writes the cropping
    details: dict[str, Any] = {
        "codec": video.codec,
        "probes": work.probes,
        "search_time": round(work.search_time, 2),
        "encode_time": 0.0,
        "already_optimal": True,
    }
    name = f"untouched.{kind}"
    written = media.size
    if muxer is not None:
        try:
            command = copy_command(
                media, audio, name=name, container=muxer, weight=work.weight(0.5)
            )
            await job.run(command)
            written = job.size_of(name)
        except CommandFailed as error:
            if not error.kind.may_be_the_files:
                raise
            written = media.size + 1
    if muxer is None or not 0 < written <= media.size:
        name, written = SOURCE, media.size
        job.warn("The result is the file that was sent, unchanged, with all of its tags.")
    details["percent_of_source"] = round(100 * written / media.size, 1)
    return Product(
        name,
        kind,
        Expectation(True, bool(audio), video.displayed_size, media.duration),
        details,
    )


def _container(work: Work) -> tuple[str | None, str]:
    """Return the muxer for the source's own container, None without one, and its media type."""
    media = work.job.media
    return _CONTAINERS.get(media.container_name, (None, media.container_name[:10]))
