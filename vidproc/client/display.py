"""Progress display: bars on a terminal, plain lines elsewhere.

Both use the same words.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from vidproc.client.words import (
    describe_status,
    describe_transfer,
    details_of,
    fraction_of,
    stage_of,
)

if TYPE_CHECKING:
    from rich.progress import TaskID

REFRESH_SECONDS = 0.1
"""The shortest time between two updates of the bars."""


class Display(Protocol):
    """Shows the progress of a run. Sizes are in bytes."""

    def upload(self, sent: int, total: int) -> None:
        """Show that `sent` of `total` bytes have been sent."""

    def status(self, fields: Mapping[str, Any]) -> None:
        """Show a task's status as received from the server."""

    def download(self, received: int, total: int) -> None:
        """Show that `received` of `total` bytes have arrived."""

    def line(self, text: str) -> None:
        """Write a permanent line."""

    def close(self) -> None:
        """End the progress display; `line` can still be used."""


class SpeedMeter:
    """Measures the speed of a transfer in this run, in bytes per second. `clock` is in seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._start: tuple[float, int] | None = None

    def __call__(self, done: int) -> float | None:
        """Return the speed now that `done` bytes are done, None if it is too early to say."""
        now = self._clock()
        if self._start is None or done < self._start[1]:
            # Bytes from before this run, or before an interruption, do not count.
            self._start = (now, done)
        elapsed = now - self._start[0]
        return (done - self._start[1]) / elapsed if elapsed >= 0.2 else None


class PlainDisplay:
    """Prints a line every `interval` seconds, and whenever the status or the stage changes."""

    def __init__(self, stream: TextIO, interval: float, clock: Callable[[], float]) -> None:
        self._stream = stream
        self._interval = interval
        self._clock = clock
        self._kind: object = None
        self._last = 0.0
        self._meters = {name: SpeedMeter(clock) for name in ("uploading", "downloading")}

    def upload(self, sent: int, total: int) -> None:
        """See `Display.upload`."""
        self._transfer("uploading", sent, total)

    def download(self, received: int, total: int) -> None:
        """See `Display.download`."""
        self._transfer("downloading", received, total)

    def status(self, fields: Mapping[str, Any]) -> None:
        """See `Display.status`."""
        if self._due(stage_of(fields)):
            self.line(describe_status(fields))

    def line(self, text: str) -> None:
        """See `Display.line`."""
        write_line(self._stream, text)

    def close(self) -> None:
        """See `Display.close`."""

    def _transfer(self, verb: str, done: int, total: int) -> None:
        speed = self._meters[verb](done)
        if self._due(verb):
            percent = done * 100 // total if total else 100
            self.line(f"{verb}: {percent} % ({describe_transfer(done, total, speed)})")

    def _due(self, kind: object) -> bool:
        now = self._clock()
        if kind == self._kind and now - self._last < self._interval:
            return False
        self._kind = kind
        self._last = now
        return True


def write_line(stream: TextIO, text: str) -> None:
    """Write a line and flush; ignore a closed stream."""
    try:
        try:
            stream.write(text + "\n")
        except UnicodeEncodeError:
            encoding = stream.encoding or "ascii"
            stream.write(text.encode(encoding, "backslashreplace").decode(encoding) + "\n")
        stream.flush()
    except (OSError, ValueError):
        pass


class BarDisplay:
    """Shows one progress bar at a time; needs a terminal."""

    def __init__(self, stream: TextIO, clock: Callable[[], float]) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn
        from rich.table import Column

        self._console = Console(file=stream, highlight=False, soft_wrap=True)
        self._progress = Progress(
            TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True)),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[percent]}", markup=False, table_column=Column(no_wrap=True)),
            TextColumn(
                "{task.fields[note]}",
                markup=False,
                table_column=Column(no_wrap=True, overflow="ellipsis"),
            ),
            console=self._console,
            # No refresh thread: all changes come through the reactor anyway.
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._clock = clock
        self._stream = stream
        self._task: TaskID | None = None
        self._kind: object = None
        self._shown: object = None
        self._drawn = float("-inf")
        self._meters = {name: SpeedMeter(clock) for name in ("upload", "download")}

    def upload(self, sent: int, total: int) -> None:
        """See `Display.upload`."""
        self._transfer("upload", sent, total)

    def download(self, received: int, total: int) -> None:
        """See `Display.download`."""
        self._transfer("download", received, total)

    def status(self, fields: Mapping[str, Any]) -> None:
        """See `Display.status`."""
        status = fields.get("status")
        fraction = fraction_of(fields)
        if status == "completed":
            fraction = 1.0
        elif status != "processing":
            fraction = None
        label = stage_of(fields).removeprefix("processing: ")
        # Waiting and processing share a bar.
        self._show("processing", label, fraction, details_of(fields), final=status != "processing")

    def line(self, text: str) -> None:
        """See `Display.line`."""
        if self._task is None:
            write_line(self._stream, text)
            return
        try:
            self._console.print(text, markup=False, emoji=False)
        except (OSError, ValueError):
            pass

    def close(self) -> None:
        """See `Display.close`."""
        if self._task is None:
            return
        try:
            self._progress.refresh()
            self._progress.stop()
        except (OSError, ValueError):
            pass
        self._task = None

    def _transfer(self, name: str, done: int, total: int) -> None:
        speed = self._meters[name](done)
        fraction = done / total if total else 1.0
        note = describe_transfer(done, total, speed)
        self._show(name, name, fraction, note, final=done == total)

    def _show(
        self, kind: str, label: str, fraction: float | None, note: str, *, final: bool
    ) -> None:
        now = self._clock()
        changed = final or (kind, label) != self._shown
        if not changed and now - self._drawn < REFRESH_SECONDS:
            return
        self._drawn = now
        self._shown = (kind, label)
        percent = "" if fraction is None else f"{int(fraction * 100):3d} %"
        try:
            if self._task is None:
                self._progress.start()
            if self._task is None or kind != self._kind:
                self._task = self._progress.add_task(f"{label:<11}", percent=percent, note=note)
                self._kind = kind
            self._progress.update(
                self._task,
                description=f"{label:<11}",
                total=None if fraction is None else 1.0,
                completed=fraction or 0.0,
                percent=percent,
                note=note,
                refresh=True,
            )
        except (OSError, ValueError):
            pass  # the terminal is gone; the run continues


def make_display(stream: TextIO, interval: float, clock: Callable[[], float]) -> Display:
    """Return progress bars if `stream` is a suitable terminal, else plain lines.

    `interval` is the time between plain lines, in seconds; so is `clock`.
    """
    try:
        terminal = stream.isatty() and os.environ.get("TERM", "").lower() not in ("dumb", "unknown")
    except (AttributeError, ValueError):
        terminal = False
    return BarDisplay(stream, clock) if terminal else PlainDisplay(stream, interval, clock)
