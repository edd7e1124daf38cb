"""What a worker says of a command, checked: it is trusted, but it may be broken or confused."""

from __future__ import annotations

import math

import msgspec

from vidproc.cluster import messages
from vidproc.cluster.digest import DIGEST_SIZE, block_size
from vidproc.cluster.messages import MadeFile, Outcome
from vidproc.ffmpeg.command import Command, FailureKind

_MOST_TEXT = 64 << 10


class Nonsense(Exception):
    """An answer that cannot be true."""


def checked(data: bytes, command: Command, prefix: str, most: int) -> Outcome:
    """Return the outcome of a command in an encoded answer. Raises `Nonsense`.

    Its files are named by the command, lie below `prefix` and have at most `most` bytes each. Texts
    are cut to what is asked for.
    """
    try:
        outcome = messages.decode_outcome(data)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise Nonsense(f"its answer cannot be read: {error}") from None
    if outcome.state == "failed" and outcome.kind not in set(FailureKind):
        raise Nonsense(f"it says that a command failed by {outcome.kind[:40]!r}")
    times = (outcome.elapsed, outcome.cpu_time, outcome.fetching, outcome.storing)
    for number in (*times, outcome.peak_memory, outcome.fetched):
        if not math.isfinite(number) or number < 0:
            raise Nonsense(f"it has measured {number}")
    names = [made.name for made in outcome.outputs]
    if len(set(names)) < len(names):
        raise Nonsense("it has made a file twice")
    for made in outcome.outputs:
        _check(made, command, prefix, most)
    return msgspec.structs.replace(
        outcome,
        stdout=outcome.stdout[: command.capture],
        reason=outcome.reason[:_MOST_TEXT],
        stderr_tail=outcome.stderr_tail[-_MOST_TEXT:],
    )


def _check(made: MadeFile, command: Command, prefix: str, most: int) -> None:
    if made.name not in command.outputs:
        raise Nonsense(f"it has made {made.name[:80]!r}, which no one asked for")
    if not made.key.startswith(f"{prefix}/") or ".." in made.key.split("/"):
        raise Nonsense(f"it has put {made.name!r} in another place")
    digest = made.digest
    if not 0 <= digest.size <= most:
        raise Nonsense(f"it has made {digest.size} bytes of {made.name!r}, and {most} are allowed")
    if digest.block != block_size(digest.size) or len(digest.root) != DIGEST_SIZE:
        raise Nonsense(f"the digest of {made.name!r} is none")
