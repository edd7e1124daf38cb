"""Film grain that players add to an AV1 video: its parameters, and writing them into a file.

The bundled SVT-AV1 can't be told which grain to describe, only to guess it from what it encodes. So
videos are encoded without grain, and `grain_child` writes the parameters into the headers of the
finished frames, which stay as they are. It runs in the sandbox, as the video comes from an encoder
that strangers' bytes went through.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from vidproc.ffmpeg.command import Command, input_file, output_file

GRAIN_CHILD = str(Path(__file__).with_name("grain_child.py"))
"""The script that a Command with ``program="grain"`` runs."""

FRAME_BYTES, REFRESH_BYTES = 6, 110
"""At most about so many bytes are added to a frame, and to one that repeats all parameters."""
_CAPTURE = 4096
_MEMORY = 512 << 20
"""Most of it is for the index of a long video and one frame."""

Points = list[tuple[int, int]]


class GrainFailed(Exception):
    """The parameters could not be written into the video. The text is for logs."""


class Synthesis(msgspec.Struct, kw_only=True, frozen=True):
    """Parameters of film grain, with the meaning that the AV1 specification gives them (6.8.20).

    `luma`, `cb` and `cr` are (luma level, strength) with rising levels, 0 to 255; `cb` and `cr`
    have both some or both none. `coefficients` are the luma's, -128 to 127, for `lag`. `seed` is
    where the seeds of the frames begin.
    """

    luma: Points
    cb: Points
    cr: Points
    scaling_shift: int
    lag: int
    coefficients: list[int]
    coefficient_shift: int
    scale_shift: int
    seed: int


class _Written(msgspec.Struct, kw_only=True):
    frames: int = 0
    samples: int = 0
    error: str | None = None


def grain_command(read: str, written: str, synthesis: Synthesis, *, weight: float) -> Command:
    """Return the command that makes the MP4 file `written` of `read` (AV1, ``moov`` in front)."""
    return Command(
        program="grain",
        arguments=(
            input_file(read),
            output_file(written),
            msgspec.json.encode(synthesis).decode(),
        ),
        stage="finishing",
        weight=weight,
        cpus=1.0,
        memory=_MEMORY,
        capture=_CAPTURE,
        near=True,
    )


def parse_grain(stdout: bytes) -> int:
    """Return the number of frames that got grain. Raises `GrainFailed`."""
    try:
        done = msgspec.json.decode(stdout, type=_Written)
    except msgspec.DecodeError as error:
        raise GrainFailed(f"the answer makes no sense: {error}") from None
    if done.error is not None or done.frames < 1:
        raise GrainFailed(done.error or "no frame got grain")
    return done.frames
