"""Statuses and transfers as text, the same for progress bars and plain lines.

Text from the server goes through `printable` first, so it cannot control the terminal.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vidproc.units import format_duration, format_size


def printable(value: object, limit: int = 2000) -> str:
    """Return `value` as text for a terminal: one line, control characters escaped, limited length.

    Characters that change the text direction are escaped too.
    """
    text = str(value)[:limit]
    return "".join(
        character if character.isprintable() else _escaped(character) for character in text
    )


def _escaped(character: str) -> str:
    if character in "\n\r\t\u00a0\u202f\u2009":
        return " "
    if "\udc80" <= character <= "\udcff":
        return character  # a byte of a file name that is not valid text; printed unchanged
    return character.encode("unicode_escape").decode("ascii")


def number(value: object) -> float | None:
    """Return a finite number of at least 0, or None for anything else."""
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e15:
        return float(value)
    return None


def time_left(seconds: float) -> str:
    """Return ``about 12 s left`` or ``about 3 min 05 s left``."""
    text = f"{max(1, round(seconds))} s" if seconds < 59.5 else format_duration(seconds)
    return f"about {text} left"


def fraction_of(fields: Mapping[str, Any]) -> float | None:
    """Return a status' progress (0 to 1), or None."""
    progress = number(fields.get("progress"))
    return None if progress is None else min(1.0, progress)


def stage_of(fields: Mapping[str, Any]) -> str:
    """Return the status and, while it is processing, the stage: ``processing: encoding``."""
    status = printable(fields.get("status") or "unknown", 40)
    stage = fields.get("stage")
    if status == "processing" and isinstance(stage, str) and stage and stage != status:
        return f"{status}: {printable(stage, 60)}"
    return status


def details_of(fields: Mapping[str, Any]) -> str:
    """Return more details: ``position 3 in the queue`` or ``1.8x, about 12 s left``."""
    texts = []
    status = fields.get("status")
    position = number(fields.get("queue_position"))
    if status == "queued" and position is not None:
        texts.append(f"position {position:.0f} in the queue" if position else "next in the queue")
    if status == "processing":
        speed = number(fields.get("speed"))
        if speed:
            texts.append(f"{speed:.1f}x" if speed >= 0.1 else f"{speed:.2f}x")
        eta = number(fields.get("eta"))
        if eta is not None:
            texts.append(time_left(eta))
    return ", ".join(texts)


def describe_status(fields: Mapping[str, Any]) -> str:
    """Return a status as one line: ``processing: encoding 45 % (1.8x, about 12 s left)``."""
    text = stage_of(fields)
    fraction = fraction_of(fields)
    if fields.get("status") == "processing" and fraction is not None:
        # 99.6 % must not be shown as 100 %.
        text += f" {int(fraction * 100)} %"
    details = details_of(fields)
    if fields.get("status") == "queued":
        return f"{text}: {details}" if details else text
    return f"{text} ({details})" if details else text


def describe_transfer(done: int, total: int, speed: float | None) -> str:
    """Return ``5.0 MiB of 11.0 MiB, 3.2 MiB/s, about 2 s left``; `speed` in bytes a second."""
    text = f"{format_size(done)} of {format_size(total)}"
    if speed:
        text += f", {format_size(speed)}/s"
        if done < total:
            text += f", {time_left((total - done) / speed)}"
    return text
