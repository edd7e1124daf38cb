"""Reading FFmpeg's ``-progress`` output: blocks of ``key=value`` lines."""

from __future__ import annotations

from vidproc.ffmpeg.command import Progress

_MAX_LINE = 4096


class ProgressParser:
    """An incremental parser: bytes in, one `Progress` per block out."""

    def __init__(self) -> None:
        self._rest = b""
        self._block: dict[bytes, bytes] = {}

    def feed(self, data: bytes) -> list[Progress]:
        """Parse bytes, split in any way; return the blocks that they complete."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        self._rest = self._rest[-_MAX_LINE:]
        found = []
        for line in lines:
            key, _, value = line.strip().partition(b"=")
            if key == b"progress":
                found.append(self._finish())
            elif len(self._block) < 64:
                self._block[key] = value.strip()
        return found

    def _finish(self) -> Progress:
        block, self._block = self._block, {}
        out_time = _number(block.get(b"out_time_us"))
        frame = _number(block.get(b"frame"))
        speed = _number(block.get(b"speed", b"").rstrip(b"x"))
        return Progress(
            out_time=None if out_time is None else max(0.0, out_time / 1e6),
            frame=None if frame is None else int(frame),
            speed=speed,
        )


def _number(text: bytes | None) -> float | None:
    try:
        value = float(text or b"")
    except ValueError:  # "N/A" before the first frame
        return None
    return value if abs(value) < 1e15 else None
