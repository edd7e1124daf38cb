"""aspect_ratio: the video with a different aspect ratio."""

from __future__ import annotations

from vidproc.ffmpeg.capabilities import Capabilities
from vidproc.ffmpeg.media import MediaInfo
from vidproc.operations import frames, sizes
from vidproc.operations.base import Job, Operation, Plan, Product
from vidproc.operations.parameters import AspectRatio, Fit
from vidproc.operations.resolution import Shape, reshape, reshaped


class AspectRatioOperation(Operation[AspectRatio]):
    """Change the aspect ratio to W:H, with square pixels and without scaling."""

    name = "aspect_ratio"

    def plan(self, media: MediaInfo, parameters: AspectRatio, capabilities: Capabilities) -> Plan:
        """Return one encode. Raises `ServiceError` 415 without video."""
        return reshaped(media, capabilities, self._shape(media, parameters))

    async def run(self, job: Job[AspectRatio]) -> Product:
        """Make it, in segments if a cluster has cores for them."""
        plan = self.plan(job.media, job.parameters, job.capabilities)
        return await reshape(job, plan, self._shape(job.media, job.parameters))

    def _shape(self, media: MediaInfo, parameters: AspectRatio) -> Shape:
        shown = frames.require_video(media).displayed_size
        width, height = parameters.ratio()
        exact = canvas(shown, width / height, parameters.fit)
        size = sizes.limited((sizes.even(exact[0]), sizes.even(exact[1])))
        warnings = []
        if max(exact) > sizes.MAX_SIDE + 1:
            warnings.append(
                f"A frame of {exact[0]:.0f}x{exact[1]:.0f} would be too large; "
                f"it was reduced to {size[0]}x{size[1]}."
            )
        return Shape(size, parameters.fit, parameters.audio_tracks, tuple(warnings))

    def estimate_size(self, parameters: AspectRatio, source_size: int) -> int:
        """Return an estimate of the output's bytes: twice the source's."""
        return max(2 * source_size, 4 << 20)


def canvas(shown: sizes.Size, ratio: float, fit: Fit) -> tuple[float, float]:
    """Return the (width, height) with the aspect ratio `ratio` = width / height.

    A crop reduces `shown`; padding and stretching enlarge it, so that no detail is lost.
    """
    width, height = shown
    wider = ratio > width / height
    if wider == (fit == "crop"):
        return width, width / ratio
    return height * ratio, height
