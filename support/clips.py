"""Small videos with different known lengths, so that a result shows which video it was made
from."""

from __future__ import annotations

import subprocess
from pathlib import Path

import av
import imageio_ffmpeg


def make_clips(folder: Path, count: int) -> dict[str, float]:
    """Write `count` videos into a folder. Return their names and lengths in seconds."""
    folder.mkdir(parents=True, exist_ok=True)
    ffmpeg = imageio_ffmpeg.get_ffmpeg_exe()
    lengths = {f"clip{number:03d}.mp4": 0.4 + 0.2 * number for number in range(count)}
    for name, seconds in lengths.items():
        subprocess.run(
            [
                *[ffmpeg, "-nostdin", "-loglevel", "error", "-y"],
                *["-f", "lavfi", "-i", f"color=gray:s=32x32:r=5:d={seconds:.1f}"],
                *["-f", "lavfi", "-i", f"sine=frequency=440:duration={seconds:.1f}"],
                *["-c:v", "mpeg4", "-c:a", "aac", f"file:{folder / name}"],
            ],
            check=True,
        )
    return lengths


def length_of(path: Path) -> float:
    """Return the length of a media file in seconds."""
    with av.open(str(path)) as container:
        assert container.duration is not None
        return float(container.duration / av.time_base)
