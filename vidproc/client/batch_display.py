"""Progress display of a batch: on a terminal, one bar for all videos and one for each video in
progress; plain lines elsewhere."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TextIO

from vidproc.client.batch_report import Outcome
from vidproc.client.display import write_line
from vidproc.client.words import describe_status, fraction_of, printable, stage_of, time_left

if TYPE_CHECKING:
    from rich.progress import TaskID

_UPLOADED, _PROCESSED = 0.1, 0.95
"""The progress of a video that has been uploaded, and of one that has been processed."""


class BatchDisplay:
    """Keeps count of the videos. Subclasses draw, by `_draw` and `line`.

    It is also the `Display` for everything that belongs to no single video. `clock` is in seconds.
    """

    def __init__(self, total: int, clock: Callable[[], float]) -> None:
        self.total = total
        self.clock = clock
        self.finished = 0
        self.troubles = 0
        self.films: dict[int, FilmDisplay] = {}
        self._began = clock()
        self._skipped = 0

    def begin(self, number: int, name: str) -> FilmDisplay:
        """Return the display of a video that starts now."""
        film = self.films[number] = FilmDisplay(self, number, printable(name))
        self._changed()
        return film

    def waiting(self, number: int, why: str) -> None:
        """Show that a video waits for the server, and why."""
        film = self.films[number]
        film.show(film.fraction, f"waiting: {why}")

    def ended(self, number: int, outcome: Outcome) -> None:
        """Remove a video from the display, and show its outcome."""
        film = self.films.pop(number, None)
        self.finished += 1
        self.troubles += not outcome.finished
        # Videos that took no time say nothing about how long the others will take.
        self._skipped += outcome.what in ("skipped", "done earlier")
        if film is not None:
            self._removed(film)
        count = f"[{self.finished:{len(str(self.total))}}/{self.total}]"
        details = ", ".join(part for part in (outcome.sizes, outcome.note) if part)
        self.line(f"{count} {outcome.name}: {outcome.what}{', ' if details else ''}{details}")
        for warning in outcome.warnings:
            self.line(f"    Warning: {warning}")
        self._changed()

    @property
    def fraction(self) -> float:
        """The progress of the batch, 0 to 1."""
        parts = sum(film.fraction for film in self.films.values())
        return min(1.0, (self.finished + parts) / self.total) if self.total else 1.0

    @property
    def summary(self) -> str:
        """``37 of 200 videos, 1 not done, about 5 min left``."""
        text = f"{self.finished} of {self.total} videos"
        if self.troubles:
            text += f", {self.troubles} not done"
        worked = self.fraction * self.total - self._skipped
        if worked > 0.5 and self.finished < self.total:
            left = (self.clock() - self._began) / worked * (self.total * (1 - self.fraction))
            text += f", {time_left(left)}"
        return text

    # for what belongs to no video in particular

    def upload(self, sent: int, total: int) -> None:
        """See `Display.upload`."""

    def status(self, fields: Mapping[str, Any]) -> None:
        """See `Display.status`."""

    def download(self, received: int, total: int) -> None:
        """See `Display.download`."""

    def line(self, text: str) -> None:
        """Write a permanent line."""
        raise NotImplementedError

    def close(self) -> None:
        """End the display; `line` can still be used."""

    def _changed(self, film: FilmDisplay | None = None) -> None:
        """Redraw after a change."""

    def _removed(self, film: FilmDisplay) -> None:
        """Remove a video."""


class FilmDisplay:
    """The `Display` of one video of a batch."""

    def __init__(self, batch: BatchDisplay, number: int, name: str) -> None:
        self._batch = batch
        self.number = number
        self.name = name
        self.fraction = 0.0
        self.note = ""
        self.handle: TaskID | None = None

    def show(self, fraction: float, note: str) -> None:
        """Show the progress, 0 to 1, and what is being done."""
        self.fraction, self.note = fraction, note
        self._batch._changed(self)

    def upload(self, sent: int, total: int) -> None:
        """See `Display.upload`."""
        share = sent / total if total else 1.0
        self.show(share * _UPLOADED, f"uploading {int(share * 100)} %")

    def status(self, fields: Mapping[str, Any]) -> None:
        """See `Display.status`."""
        done = fraction_of(fields) if stage_of(fields).startswith("processing") else 0.0
        if fields.get("status") == "completed":
            done = 1.0
        span = _PROCESSED - _UPLOADED
        self.show(_UPLOADED + (done or 0.0) * span, describe_status(fields))

    def download(self, received: int, total: int) -> None:
        """See `Display.download`."""
        share = received / total if total else 1.0
        self.show(_PROCESSED + share * (1 - _PROCESSED), f"downloading {int(share * 100)} %")

    def line(self, text: str) -> None:
        """See `Display.line`."""
        self._batch.line(f"{self.name}: {text}")

    def close(self) -> None:
        """See `Display.close`."""


class PlainBatchDisplay(BatchDisplay):
    """A line for each video that ends, and every `interval` seconds one about those in progress."""

    def __init__(
        self, total: int, stream: TextIO, interval: float, clock: Callable[[], float]
    ) -> None:
        super().__init__(total, clock)
        self._stream = stream
        self._interval = interval
        self._last = clock()

    def line(self, text: str) -> None:
        """See `Display.line`."""
        write_line(self._stream, text)

    def _changed(self, film: FilmDisplay | None = None) -> None:
        now = self.clock()
        if now - self._last >= self._interval:
            self._last = now
            current = "; ".join(f"{one.name}: {one.note}" for one in self.films.values())
            self.line(f"{self.summary} ({current})" if current else self.summary)


class BarBatchDisplay(BatchDisplay):
    """Progress bars; needs a terminal."""

    def __init__(self, total: int, stream: TextIO, clock: Callable[[], float]) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn
        from rich.table import Column

        super().__init__(total, clock)
        self._stream = stream
        self._console = Console(file=stream, highlight=False)
        narrow = Column(no_wrap=True, overflow="ellipsis", max_width=32)
        self._progress = Progress(
            TextColumn("{task.description}", markup=False, table_column=narrow),
            BarColumn(bar_width=24),
            TextColumn(
                "{task.fields[note]}",
                markup=False,
                table_column=Column(no_wrap=True, overflow="ellipsis"),
            ),
            console=self._console,
            auto_refresh=False,  # the reactor draws; no thread is needed
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._all = self._progress.add_task("all videos", total=1.0, note="")
        self._drawn = float("-inf")
        self._open = False

    def line(self, text: str) -> None:
        """See `Display.line`."""
        if not self._open:
            write_line(self._stream, text)
            return
        try:
            self._console.print(text, markup=False, emoji=False, soft_wrap=True)
        except (OSError, ValueError):
            pass  # the terminal is gone; the run continues

    def close(self) -> None:
        """See `Display.close`."""
        if self._open:
            self._draw()
            try:
                self._progress.stop()
            except (OSError, ValueError):
                pass
            self._open = False

    def _changed(self, film: FilmDisplay | None = None) -> None:
        if film is None or self.clock() - self._drawn >= 0.1:
            self._draw()

    def _removed(self, film: FilmDisplay) -> None:
        if film.handle is not None:
            self._progress.remove_task(film.handle)

    def _draw(self) -> None:
        self._drawn = self.clock()
        try:
            if not self._open:
                self._progress.start()
                self._open = True
            self._progress.update(self._all, completed=self.fraction, note=self.summary)
            for film in self.films.values():
                if film.handle is None:
                    film.handle = self._progress.add_task(film.name, total=1.0, note="")
                self._progress.update(film.handle, completed=film.fraction, note=film.note)
            self._progress.refresh()
        except (OSError, ValueError):
            pass


def make_batch_display(
    total: int, stream: TextIO, interval: float, clock: Callable[[], float]
) -> BatchDisplay:
    """Return progress bars if `stream` is a suitable terminal, else plain lines."""
    try:
        terminal = stream.isatty() and os.environ.get("TERM", "").lower() not in ("dumb", "unknown")
    except (AttributeError, ValueError):
        terminal = False
    if terminal:
        return BarBatchDisplay(total, stream, clock)
    return PlainBatchDisplay(total, stream, interval, clock)
