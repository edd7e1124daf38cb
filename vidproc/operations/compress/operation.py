"""compress: the same video in fewer bytes, at a perceived quality or below a size.

The quality is a VMAF score. Every result is measured, and corrected if it misses. The result is
never larger than the source: when no encode is good and small enough, the source's own streams
are the result.
"""

from __future__ import annotations

from dataclasses import replace

from vidproc.ffmpeg.media import MediaInfo
from vidproc.operations.base import Job, Operation, Product, filmed_bytes
from vidproc.operations.compress.by_shot import compress_by_shot, suits
from vidproc.operations.compress.grain import (
    SAMPLE_BYTES,
    Grain,
    described,
    find_grain,
    grain_bytes,
    synthesise,
)
from vidproc.operations.compress.one_crf import compress_at_one_crf
from vidproc.operations.compress.smallest import compress_smallest
from vidproc.operations.compress.target_size import compress_to_size
from vidproc.operations.compress.work import Work
from vidproc.operations.parameters import Compress


class CompressOperation(Operation[Compress]):
    """Make a video smaller without visible loss."""

    name = "compress"

    async def run(self, job: Job[Compress]) -> Product:
        """Search, encode, score.

        Raises `ServiceError` 415 for a file without video, 422 for a size that can't be met.
        """
        if job.parameters.codec == "auto":
            return await compress_smallest(job, _compress)
        return await _compress(Work.of(job))

    def estimate_output(self, media: MediaInfo, parameters: Compress) -> int:
        """Return the bytes of the encodes that are tried: samples and segments, the file that
        they are joined to, and shots that are encoded again."""
        codecs = len(parameters.plays or ()) if parameters.codec == "auto" else 1
        encodes = codecs * (filmed_bytes(media) + max(3 * media.size, 4 << 20))
        return encodes + (0 if parameters.grain == "off" else SAMPLE_BYTES + media.size)


async def _compress(work: Work) -> Product:
    """Compress with one codec."""
    if work.job.parameters.grain == "off":
        return await _encode(work)
    grain = await find_grain(work)
    if not grain.removed:
        return _with_grain_told(await _encode(work), grain)
    target = work.job.parameters.target_size
    product = await _encode(work, grain_bytes(work))
    if product.details["already_optimal"]:
        return _with_grain_told(product, grain)
    finished = await synthesise(work, product, grain)
    if finished is not None:
        if target is not None and "target_size" in finished.details:
            finished.details["target_size"] = target
        return finished
    plain = Work.of(work.job)
    plain.left, plain.files = work.left, work.files + _FILES
    return _with_grain_told(
        await _encode(plain), replace(grain, reason="it could not be synthesised")
    )


def _with_grain_told(product: Product, grain: Grain) -> Product:
    return replace(product, details={**product.details, "grain": described(grain)})


_FILES = 50
"""How far apart the numbers of two encodes' files begin."""


async def _encode(work: Work, reserved: int = 0) -> Product:
    """Encode the video; `reserved` bytes of a target size are left for what is added to it."""
    job = work.job
    target = job.parameters.target_size
    if target is not None:
        if target < job.media.size:
            return await compress_to_size(work, max(target - reserved, 1))
        job.warn(
            "The source is no larger than the target size; it was compressed to the quality "
            f"{job.parameters.quality:g}."
        )
    if suits(work):
        product = await compress_by_shot(work)
        if product is not None:
            return product
    return await compress_at_one_crf(work)
