"""compress: the same film in fewer bytes."""

from __future__ import annotations

from typing import Any

from vidproc.operations.base import Expectation, Job, Operation, Product
from vidproc.operations.compress_encode import (
    Coder,
    coder_for,
    copy_command,
    duration_of,
    even_size,
    film_command,
    source_video_bytes,
    video_of,
)
from vidproc.operations.parameters import Compress

_RESULT = "result.mp4"
_SIZE_RULE = 0.9
"""The part of the source's video bytes that a compressed film may have."""
_SECOND_TRY = 5.0
"""CRF steps between the first encode and the second one of a film that came out too large."""


class CompressOperation(Operation[Compress]):
    """Make a film smaller and keep how it looks."""

    name = "compress"

    async def run(self, job: Job[Compress]) -> Product:
        """Encode; if the result is no smaller, try once more, then leave the film as it is."""
        media, parameters = job.media, job.parameters
        video = video_of(media)
        coder = coder_for(parameters.codec, parameters.preset, job.capabilities)
        size = even_size(video)
        if size != video.displayed_size:
            job.warn(f"The picture's size was made even: {size[0]}x{size[1]}.")
        crf = coder.start_crf(parameters.quality)
        for attempt in range(2):
            rate = {"crf": round(crf, 1), **_cap(media.size, job, coder)}
            await job.run(
                film_command(
                    media, coder, rate, name=_RESULT, size=size, share=0.6 if attempt == 0 else 0.4
                )
            )
            written = job.size_of(_RESULT)
            if written < media.size:
                return Product(
                    _RESULT,
                    "mp4",
                    Expectation(True, bool(media.audio), size, duration_of(media)),
                    {
                        "codec": coder.codec,
                        "crf": round(crf, 1),
                        "percent_of_source": round(100 * written / media.size, 1),
                    },
                )
            crf = min(crf + _SECOND_TRY, coder.crf_range[1])
        return await _untouched(job)


def _cap(source_bytes: int, job: Job[Compress], coder: Coder) -> dict[str, Any]:
    duration = duration_of(job.media)
    if not duration or coder.codec != "h264":
        return {}
    rate = int(max(source_video_bytes(job.media) * 8 / duration * _SIZE_RULE, 16_000))
    return {"maxrate": rate, "bufsize": rate * 2}


_CONTAINERS = {
    "mov": "mov",
    "mp4": "mp4",
    "matroska": "matroska",
    "webm": "webm",
    "avi": "avi",
    "mpegts": "mpegts",
    "flv": "flv",
}
_MEDIA_TYPES = {"matroska": "mkv", "mpegts": "ts"}


async def _untouched(job: Job[Compress]) -> Product:
    """Return the source's own streams."""
    media = job.media
    names = media.container.split(",")
    container = next((_CONTAINERS[name] for name in names if name in _CONTAINERS), "matroska")
    if "mp4" in names:
        container = "mp4"
    media_type = _MEDIA_TYPES.get(container, container)
    name = f"result.{media_type}"
    job.warn("The film is compressed as far as it can be already; it was left as it is.")
    await job.run(copy_command(media, name=name, container=container, share=0.1))
    return Product(
        name,
        media_type,
        Expectation(True, bool(media.audio), None, duration_of(media)),
        {
            "already_optimal": True,
            "percent_of_source": round(100 * job.size_of(name) / media.size, 1),
        },
    )
