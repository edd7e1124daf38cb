"""The progress displays: plain lines and bars."""

from __future__ import annotations

import io
import os
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from vidproc.client.display import (
    BarDisplay,
    PlainDisplay,
    SpeedMeter,
    make_display,
)


def processing(**more: Any) -> dict[str, Any]:
    """Return a status in the middle of an encode."""
    return {"status": "processing", "stage": "encoding", "progress": 0.456, **more}


class SpeedMeterTests(SynchronousTestCase):
    """Bytes a second."""

    def test_bytes_of_an_earlier_run_do_not_count(self) -> None:
        """A resumed transfer has the speed of this run."""
        clock = Clock()
        meter = SpeedMeter(clock.seconds)
        self.assertIsNone(meter(1000))
        clock.advance(2)
        self.assertEqual(meter(3000), 1000.0)

    def test_starting_over_measures_anew(self) -> None:
        """Going back does not give a negative speed."""
        clock = Clock()
        meter = SpeedMeter(clock.seconds)
        meter(1000)
        clock.advance(2)
        self.assertIsNone(meter(0))


class PlainDisplayTests(SynchronousTestCase):
    """Lines for logs and pipes."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.stream = io.StringIO()
        self.display = PlainDisplay(self.stream, 60.0, self.clock.seconds)

    def lines(self) -> list[str]:
        return self.stream.getvalue().splitlines()

    def test_one_line_per_interval(self) -> None:
        """Lines about the same stage are the requested number of seconds apart."""
        for _ in range(121):
            self.display.status(processing())
            self.clock.advance(1)
        self.assertEqual(len(self.lines()), 3)

    def test_a_change_of_stage_or_status_is_told_at_once(self) -> None:
        """Nobody has to wait a minute to learn that a task is done."""
        self.display.status({"status": "queued"})
        self.display.status(processing(stage="probing"))
        self.display.status(processing(stage="encoding"))
        self.display.status({"status": "completed"})
        self.assertEqual(
            [line.split(" 4")[0] for line in self.lines()],
            ["queued", "processing: probing", "processing: encoding", "completed"],
        )

    def test_transfers_are_told_with_percent(self) -> None:
        """Upload and download look alike."""
        self.display.upload(1, 4)
        self.display.download(4, 4)
        self.assertEqual(
            self.lines(),
            ["uploading: 25 % (1 byte of 4 bytes)", "downloading: 100 % (4 bytes of 4 bytes)"],
        )

    def test_a_closed_stream_does_not_end_the_work(self) -> None:
        """As in ``vidproc ... 2>&1 | head``."""
        self.stream.close()
        self.display.line("still here")


def environment(case: SynchronousTestCase, **values: str) -> None:
    """Set environment variables during a test."""
    before = {name: os.environ.get(name) for name in values}

    def restore() -> None:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value

    case.addCleanup(restore)
    os.environ.update(values)


class Terminal(io.StringIO):
    """A stream that claims to be a terminal."""

    def isatty(self) -> bool:
        return True


class BarDisplayTests(SynchronousTestCase):
    """Bars on a terminal."""

    def setUp(self) -> None:
        environment(self, TERM="xterm", COLUMNS="100", LINES="30", NO_COLOR="1")
        self.clock = Clock()
        self.stream = Terminal()
        self.display = BarDisplay(self.stream, self.clock.seconds)
        self.addCleanup(self.display.close)

    def test_each_phase_has_its_bar(self) -> None:
        """Upload, processing with its stage, download."""
        self.display.upload(5, 10)
        self.display.status({"status": "queued", "queue_position": 2})
        self.display.status(processing(speed=2.0, eta=9))
        self.display.download(10, 10)
        self.display.close()
        shown = self.stream.getvalue()
        for text in (
            "upload",
            " 50 %",
            "queued",
            "position 2 in the queue",
            "encoding",
            " 45 %",
            "2.0x, about 9 s left",
            "download",
            "100 %",
        ):
            self.assertIn(text, shown)

    def test_a_flood_of_events_draws_now_and_then(self) -> None:
        """On a fast network, drawing must not take up the time."""
        for sent in range(1000):
            self.display.upload(sent, 2000)
        self.assertLess(self.stream.getvalue().count("upload"), 5)

    def test_markup_in_a_servers_text_is_text(self) -> None:
        """Square brackets have no special meaning."""
        self.display.status(processing(stage="[red]x[/nope]"))
        self.display.line("[bold]y[/nope]")
        self.assertIn("[red]x[/nope]", self.stream.getvalue())
        self.assertIn("[bold]y[/nope]", self.stream.getvalue())

    def test_the_cursor_comes_back(self) -> None:
        """Closing always restores the terminal."""
        self.display.upload(1, 10)
        self.display.close()
        self.display.line("after")
        self.assertTrue(self.stream.getvalue().endswith("\x1b[?25hafter\n"))


class MakeDisplayTests(SynchronousTestCase):
    """The choice of the display."""

    def test_a_terminal_gets_bars(self) -> None:
        """The stream decides."""
        environment(self, TERM="xterm")
        self.assertIsInstance(make_display(Terminal(), 60, Clock().seconds), BarDisplay)

    def test_a_pipe_gets_lines(self) -> None:
        """So does a terminal that can't move its cursor."""
        self.assertIsInstance(make_display(io.StringIO(), 60, Clock().seconds), PlainDisplay)
        environment(self, TERM="dumb")
        self.assertIsInstance(make_display(Terminal(), 60, Clock().seconds), PlainDisplay)
