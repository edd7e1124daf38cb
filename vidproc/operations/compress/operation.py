"""compress: the same video in fewer bytes, at a perceived quality or below a size.

The quality is a VMAF score. Every result is measured, and corrected if it misses. The result is
never larger than the source: when no encode is good and small enough, the source's own streams
are the result.
"""

from __future__ import annotations

from vidproc.ffmpeg.media import MediaInfo
from vidproc.operations.base import Job, Operation, Product, filmed_bytes
from vidproc.operations.compress.by_shot import compress_by_shot, suits
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
        return codecs * (filmed_bytes(media) + max(3 * media.size, 4 << 20))


async def _compress(work: Work) -> Product:
    """Compress with one codec."""
    job = work.job
    target = job.parameters.target_size
    if target is not None:
        if target < job.media.size:
            return await compress_to_size(work, target)
        job.warn(
            "The source is no larger than the target size; it was compressed to the quality "
            f"{job.parameters.quality:g}."
        )
    if suits(work):
        product = await compress_by_shot(work)
        if product is not None:
            return product
    return await compress_at_one_crf(work)
