"""Sizes, durations and times as people write them."""

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from vidproc.units import (
    format_duration,
    format_size,
    iso_utc,
    parse_duration,
    parse_size,
    parse_time,
)

PROPERTY = settings(max_examples=150, deadline=None, derandomize=True, database=None)


class ParseSizeTests(SynchronousTestCase):
    def test_units_are_powers_of_1024(self) -> None:
        for text, size in [
            ("0", 0),
            ("4096", 4096),
            ("8K", 8 << 10),
            ("8M", 8 << 20),
            ("64G", 64 << 30),
            ("4T", 4 << 40),
            ("1.5G", 3 << 29),
            ("10 MB", 10 << 20),
            ("10MiB", 10 << 20),
            ("8m", 8 << 20),
            (" 8M ", 8 << 20),
        ]:
            self.assertEqual(parse_size(text), size, text)

    def test_nonsense_says_how_to_write_it(self) -> None:
        for text in ["", "M", "-1", "1P", "1.5.2", "0x10", "1e6", "ten", "9" * 400, "٣"]:
            error = self.assertRaises(ValueError, parse_size, text)
            self.assertIn("64G", str(error), text)


class ParseDurationTests(SynchronousTestCase):
    def test_units(self) -> None:
        for text, seconds in [
            ("30", 30),
            ("30s", 30),
            ("5m", 300),
            ("24h", 86400),
            ("7d", 604800),
            ("1.5h", 5400),
            ("0s", 0),
        ]:
            self.assertEqual(parse_duration(text), seconds, text)

    def test_nonsense_says_how_to_write_it(self) -> None:
        for text in ["", "s", "-1s", "1w", "1h30m", "inf", "nan", "9" * 400]:
            error = self.assertRaises(ValueError, parse_duration, text)
            self.assertIn("24h", str(error), text)


class ParseTimeTests(SynchronousTestCase):
    def test_seconds_and_clock(self) -> None:
        cases: list[tuple[str | float, float]] = [
            (0, 0.0),
            (12.5, 12.5),
            ("0", 0.0),
            ("12.5", 12.5),
            (".5", 0.5),
            ("5.", 5.0),
            (" 7 ", 7.0),
            ("01:30", 90.0),
            ("00:01:30.500", 90.5),
            ("1:2:3", 3723.0),
            ("100:00:00", 360000.0),
            ("00:00:59.999", 59.999),
        ]
        for value, seconds in cases:
            self.assertEqual(parse_time(value), seconds, repr(value))

    def test_nonsense_says_how_to_write_it(self) -> None:
        for value in [
            "",
            "-1",
            -1,
            -0.001,
            float("nan"),
            float("inf"),
            True,
            10**400,
            "00:60:00",
            "00:00:60",
            "1:2:3:4",
            "1:",
            ":30",
            "1h",
            "nan",
            "inf",
            "1e3",
            "9" * 400,
            "9" * 400 + ":00:00",
            "9" * 5000 + ":00:00",
            "٣",
        ]:
            error = self.assertRaises(ValueError, parse_time, value)
            self.assertIn("00:01:30.5", str(error), repr(value)[:40])

    @PROPERTY
    @given(st.one_of(st.text(), st.text(alphabet="0123456789:. ", max_size=20)))
    def test_any_text_is_a_time_or_a_value_error(self, text: str) -> None:
        try:
            seconds = parse_time(text)
        except ValueError:
            return
        self.assertTrue(0 <= seconds < 1e15)

    @PROPERTY
    @given(st.integers(0, 99), st.integers(0, 59), st.integers(0, 59_999))
    def test_clock_is_the_sum_of_its_parts(self, hours: int, minutes: int, millis: int) -> None:
        text = f"{hours:02d}:{minutes:02d}:{millis / 1000:06.3f}"
        self.assertAlmostEqual(parse_time(text), hours * 3600 + minutes * 60 + millis / 1000, 6)


class FormatTests(SynchronousTestCase):
    def test_sizes(self) -> None:
        for size, text in [
            (0, "0 bytes"),
            (1023, "1023 bytes"),
            (1024, "1.0 KiB"),
            (1128375, "1.1 MiB"),
            (5 << 30, "5.0 GiB"),
            (4 << 40, "4.0 TiB"),
            (4 << 50, "4096.0 TiB"),
        ]:
            self.assertEqual(format_size(size), text)

    def test_durations(self) -> None:
        for seconds, text in [
            (0, "0.0 s"),
            (4.21, "4.2 s"),
            (59.94, "59.9 s"),
            (59.97, "1 min 00 s"),
            (185, "3 min 05 s"),
            (3599.7, "1 h 00 min"),
            (7800, "2 h 10 min"),
        ]:
            self.assertEqual(format_duration(seconds), text)

    def test_moments_are_utc(self) -> None:
        self.assertEqual(iso_utc(0), "1970-01-01T00:00:00.000Z")
        self.assertEqual(iso_utc(1767225600.5), "2026-01-01T00:00:00.500Z")
        self.assertIsNone(iso_utc(None))
