"""``client.log``."""

from __future__ import annotations

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from vidproc.client.log import open_log


class LogTests(SynchronousTestCase):
    """``client.log``."""

    def test_one_line_an_event_with_utc_time(self) -> None:
        """Any text becomes one line without control characters."""
        folder = Path(self.mktemp())
        log, warning = open_log(folder)
        self.assertIsNone(warning)
        log.info("two\nlines \x1b[2J")
        for handler in log.handlers:
            handler.close()
        text = (folder / "client.log").read_text()
        self.assertRegex(text, r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z info two\\nlines ")
        self.assertEqual(text.count("\n"), 1)
        self.assertNotIn("\x1b", text)

    def test_an_unwritable_folder_is_a_warning(self) -> None:
        """The run continues without a log."""
        blocked = Path(self.mktemp())
        blocked.write_text("a file, not a folder")
        log, warning = open_log(blocked)
        log.info("nobody reads this")
        self.assertIn("no log is kept", warning or "")
