"""Finding an FFmpeg and its capabilities."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

_TIMEOUT = 20.0

_REQUIRED_ENCODERS = ("libx264", "aac", "libmp3lame", "gif", "libvpx-vp9", "libopus")
_USED_ENCODERS = (*_REQUIRED_ENCODERS, "libx265", "libsvtav1")
_USED_FILTERS = ("zscale", "tonemap", "libvmaf", "bwdif", "palettegen", "paletteuse")

_CROPS_SINCE = (61, 7)
"""The libavformat version of FFmpeg 7.1, which introduced -apply_cropping codec."""


class FFmpegUnusable(Exception):
    """There is no FFmpeg, or it does not run. The text says what to do."""


@dataclass(frozen=True, slots=True)
class FFmpeg:
    """An FFmpeg: its path, version, and the names of its encoders and filters.

    `crops` says whether it applies cropping from the container itself. `spare_cores` are the cores
    of a cluster that runs it, 0 for this machine alone.
    """

    path: str
    version: str
    encoders: frozenset[str]
    filters: frozenset[str]
    crops: bool = False
    spare_cores: int = 0

    def missing(self) -> list[str]:
        """Return the features that vidproc uses and this build lacks."""
        encoders = [f"encoder {n}" for n in _USED_ENCODERS if n not in self.encoders]
        return encoders + [f"filter {n}" for n in _USED_FILTERS if n not in self.filters]


def find_ffmpeg(path: str | None = None) -> FFmpeg:
    """Return the FFmpeg at `path`, or the bundled one. Blocks for about 50 ms.

    Raises `FFmpegUnusable`.
    """
    if path is None:
        import imageio_ffmpeg

        try:
            path = imageio_ffmpeg.get_ffmpeg_exe()
        except RuntimeError:
            raise FFmpegUnusable(
                "no bundled FFmpeg for this machine; install one and name it with --ffmpeg PATH"
            ) from None
    if not Path(path).is_file():
        raise FFmpegUnusable(f"there is no FFmpeg at {path}; name another with --ffmpeg PATH")
    said = _ask(path, "-version")
    match = re.match(r"ffmpeg version (\S+)", said)
    if match is None:
        raise FFmpegUnusable(f"{path} is no FFmpeg; name another with --ffmpeg PATH")
    return FFmpeg(
        path=path,
        version=match[1],
        encoders=_names(_ask(path, "-hide_banner", "-encoders")),
        filters=_names(_ask(path, "-hide_banner", "-filters")),
        crops=_library_version(said, "libavformat") >= _CROPS_SINCE,
    )


def _library_version(said: str, library: str) -> tuple[int, int]:
    match = re.search(rf"^{library} +(\d+)\. *(\d+)", said, re.MULTILINE)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def _ask(path: str, *arguments: str) -> str:
    try:
        done = subprocess.run(
            [path, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_TIMEOUT,
            check=True,
            env={},
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise FFmpegUnusable(f"{path} does not run: {error}") from None
    return done.stdout.decode(errors="replace")


def _names(listing: str) -> frozenset[str]:
    """Return the names in the output of ``ffmpeg -encoders`` or ``-filters``."""
    return frozenset(re.findall(r"^ [A-Z.|]{2,6} ([A-Za-z0-9_-]+) ", listing, re.MULTILINE))
