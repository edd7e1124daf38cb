"""The outcomes of a batch's videos, and the table of them at its end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from vidproc.units import format_duration, format_size

_FINISHED = {"done", "done earlier", "skipped", "accepted"}


@dataclass
class Outcome:
    """The outcome of one video. Sizes are in bytes, 0 if unknown.

    `lasting` is whether another try would have the same outcome.
    """

    name: str
    what: str
    exit_status: int
    note: str = ""
    result: str = ""
    size_in: int = 0
    size_out: int = 0
    seconds: float = 0.0
    lasting: bool = False
    warnings: list[str] = field(default_factory=list)

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to do for this video."""
        return self.what in _FINISHED

    @property
    def sizes(self) -> str:
        """``1.2 MiB -> 0.4 MiB (33 %)``, empty without a result."""
        if not self.size_in:
            return ""
        share = self.size_out * 100 / self.size_in
        return f"{format_size(self.size_in)} -> {format_size(self.size_out)} ({share:.0f} %)"


def short_reason(lines: Sequence[str]) -> str:
    """Return the reason, and what to do, as one line."""
    return " ".join(line.removeprefix("The processing failed: ") for line in lines[:2])


def report_lines(outcomes: Sequence[Outcome], seconds: float) -> list[str]:
    """Return the table, a line for each video, and the line of totals."""
    rows = [
        (
            one.name,
            one.what,
            one.sizes,
            format_duration(one.seconds) if one.seconds >= 0.05 else "",
            _first_sentence(one.note) or _warned(one),
        )
        for one in outcomes
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    widths[0] = min(widths[0], 60)
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    return [*lines, total_line(outcomes, seconds)]


def _first_sentence(text: str) -> str:
    # The whole text was shown when the video ended; the table has short lines.
    sentence = text.partition(". ")[0].rstrip(".")
    return sentence if len(sentence) <= 100 else f"{sentence[:99]}\N{HORIZONTAL ELLIPSIS}"


def _warned(one: Outcome) -> str:
    count = len(one.warnings)
    return f"{count} warning{'s' if count > 1 else ''}" if count else ""


def total_line(outcomes: Sequence[Outcome], seconds: float) -> str:
    """Return ``197 done, 2 failed: 3.1 GiB -> 1.2 GiB (39 %), 12 min``."""
    counts = Counter(one.what for one in outcomes)
    words = ", ".join(f"{count} {what}" for what, count in counts.items())
    together = Outcome("", "", 0)
    together.size_in = sum(one.size_in for one in outcomes)
    together.size_out = sum(one.size_out for one in outcomes)
    sizes = f": {together.sizes}" if together.sizes else ""
    return f"{len(outcomes)} videos, {words}{sizes}, {format_duration(seconds)}"
