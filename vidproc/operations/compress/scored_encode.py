"""Encoding and scoring in one command: FFmpeg decodes what it has just encoded.

That saves the start of a process and one of two times that the source is decoded, and scoring does
not wait for the end of the encode.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from vidproc.ffmpeg.command import THREADS, Command, input_file

_INPUT_LABEL = re.compile(r"\[(\d+):([^\]]*)\]")
_LABEL = re.compile(r"\[(s\d+)\]")


def scored_encode(encode: Command, score: Command) -> Command | None:
    """Return a command that does what two commands do: encode a video from one input into one file,
    as its first stream, and score that file against the same input.

    Returns None if the two are not like that.
    """
    (name,) = encode.outputs
    inputs, scored_inputs = _inputs(encode.arguments), _inputs(score.arguments)
    if len(inputs) != 1 or sorted(scored_inputs) != sorted((*inputs, input_file(name))):
        return None
    encoded = scored_inputs.index(input_file(name))
    last = max(at for at, word in enumerate(score.arguments) if word == "-i")
    rest = list(score.arguments[last + 2 :])
    graph = rest.index("-filter_complex") + 1
    rest[graph] = _INPUT_LABEL.sub(
        lambda found: "[dec:0]" if int(found[1]) == encoded else f"[0:{found[2]}]", rest[graph]
    )
    # Labels are looked up in all graphs of a command.
    rest = [_LABEL.sub(r"[scored-\1]", word) for word in rest]
    return replace(
        encode,
        arguments=(*encode.arguments, "-threads", THREADS, "-dec", "0:0", *rest),
        weight=encode.weight + score.weight,
        memory=encode.memory + score.memory,
    )


def _inputs(arguments: Sequence[str]) -> list[str]:
    return [arguments[at + 1] for at, word in enumerate(arguments) if word == "-i"]
