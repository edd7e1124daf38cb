"""Which file a line goes to, what a line is, and what bounds the files."""

from __future__ import annotations

import io
import os
import stat
from pathlib import Path
from typing import Any

from twisted.logger import LogEvent, Logger, globalLogPublisher
from twisted.python.components import Componentized
from twisted.trial.unittest import SynchronousTestCase

from vidproc.app import twistd_log
from vidproc.app.line_budget import LineBudget
from vidproc.app.logs import FILES, TopicLogs, bounded_file
from vidproc.app.private_files import everything_below, tighten
from vidproc.topics import Topic, TopicLogger


class Speaker:
    """A module far from where its topic's other lines come from."""

    performance = TopicLogger(Topic.PERFORMANCE)
    media = TopicLogger(Topic.MEDIA)
    connections = TopicLogger(Topic.CONNECTIONS)
    nobody = Logger()


class TopicTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.logs = TopicLogs(self.folder)
        self.logs.start()
        self.addCleanup(self.logs.stop)
        self.speaker = Speaker()

    def lines(self, name: str) -> list[str]:
        return (self.folder / name).read_text().splitlines()

    def test_a_line_goes_to_the_file_of_the_topic_that_the_logger_names(self) -> None:
        self.speaker.performance.info("figures")
        self.speaker.media.error("a process hangs")
        self.assertRegex(self.lines("performance.log")[0], r"Z INFO figures$")
        self.assertRegex(self.lines("video_processor.log")[0], r"Z ERROR a process hangs$")
        self.assertEqual(self.lines("server.log"), [])

    def test_a_failure_keeps_its_topic(self) -> None:
        try:
            raise OSError("the disk is gone")
        except OSError:
            self.speaker.media.failure("it broke")
        self.assertIn("the disk is gone", self.lines("video_processor.log")[0])
        self.assertEqual(len(self.flushLoggedErrors(OSError)), 1)

    def test_of_what_names_no_topic_only_warnings_are_kept(self) -> None:
        self.speaker.nobody.info("chatter")
        self.speaker.nobody.warn("trouble")
        self.assertEqual(
            [line.split(" ", 1)[1] for line in self.lines("server.log")], ["WARN trouble"]
        )

    def test_a_line_break_from_outside_makes_no_second_line(self) -> None:
        self.speaker.media.info("file {name}", name="a\nZ INFO forged")
        self.assertEqual(len(self.lines("video_processor.log")), 1)

    def test_a_flood_of_connections_does_not_push_out_the_rest(self) -> None:
        for number in range(5000):
            self.speaker.connections.info("peer {number}: idle", number=number)
        self.speaker.connections.warn("the limit is reached")
        lines = self.lines("server.log")
        self.assertLess(len(lines), 1300)  # a minute may end in between
        self.assertIn("(more such lines are left out)", "".join(lines))
        self.assertTrue(lines[-1].endswith("WARN the limit is reached"))

    def test_files_are_private_whatever_the_umask_is(self) -> None:
        modes = {stat.S_IMODE((self.folder / name).stat().st_mode) for name in FILES}
        self.assertEqual(modes, {0o600})


class LineBudgetTests(SynchronousTestCase):
    def taken(self, budget: LineBudget, times: list[float]) -> int:
        events: list[LogEvent] = [{"log_time": at, "log_format": "x"} for at in times]
        return len([event for event in events if budget.take(event) is not None])

    def test_a_new_minute_is_a_new_budget(self) -> None:
        budget = LineBudget(3)
        self.assertEqual(self.taken(budget, [0.0] * 10), 3)
        self.assertEqual(self.taken(budget, [61.0] * 10), 3)

    def test_a_clock_that_is_set_back_silences_nothing(self) -> None:
        budget = LineBudget(3)
        self.taken(budget, [1e9] * 10)
        self.assertEqual(self.taken(budget, [5.0] * 10), 3)

    def test_the_note_on_omissions_is_not_seen_by_other_observers(self) -> None:
        event: LogEvent = {"log_time": 0.0, "log_format": "x"}
        taken = LineBudget(1).take(event)
        assert taken is not None
        self.assertIn("left out", taken["log_format"])
        self.assertEqual(event["log_format"], "x")


class TwistdLogTests(SynchronousTestCase):
    def bound(self, **options: Any) -> Any:
        application = Componentized()
        defaults = {"logfile": None, "nodaemon": False, "syslog": False, "logger": None}
        twistd_log.bound(application, {**defaults, **options})
        from twisted.logger import ILogObserver

        return application.getComponent(ILogObserver)

    def test_a_flood_from_outside_leaves_it_small(self) -> None:
        output = io.StringIO()
        observer = twistd_log.observer_to(output)
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)
        speaker = Speaker()
        for number in range(1000):
            speaker.connections.info("peer {number}: refused", number=number)
            speaker.performance.info("figures")
            speaker.nobody.info("Timing out client {number}", number=number)
        speaker.connections.warn("the limit is reached")
        lines = output.getvalue().splitlines()
        self.assertLess(len(lines), 300)  # a minute may end in between
        self.assertNotIn("refused", output.getvalue())
        self.assertIn("the limit is reached", lines[-1])

    def test_the_file_is_rotated_and_old_ones_go(self) -> None:
        path = Path(self.mktemp())
        file = bounded_file(path, rotate_at=1000, kept=3)
        for _ in range(100):
            file.write("x" * 99 + "\n")
        file.close()
        written = sorted(path.parent.glob(f"{path.name}*"))
        self.assertEqual(len(written), 4)
        self.assertEqual({stat.S_IMODE(each.stat().st_mode) for each in written}, {0o600})

    def test_the_operators_own_choice_is_left_alone(self) -> None:
        self.assertIsNone(self.bound(syslog=True))
        self.assertIsNone(self.bound(logger="some.logger"))

    def test_a_log_that_cannot_be_written_is_said(self) -> None:
        error = self.assertRaises(SystemExit, self.bound, logfile="/nonexistent/twistd.log")
        self.assertIn("choose another --logfile", str(error))


class TightenTests(SynchronousTestCase):
    def test_what_an_older_run_left_open_is_closed_and_links_are_not_followed(self) -> None:
        root = Path(self.mktemp())
        (root / "results").mkdir(parents=True, mode=0o755)
        inner = root / "results" / "x"
        outer = Path(self.mktemp())
        for path in (inner, outer):
            path.write_bytes(b"")
            path.chmod(0o664)
        os.symlink(outer.absolute(), root / "link")
        root.chmod(0o755)
        tighten(everything_below(root))
        modes = [stat.S_IMODE(path.stat().st_mode) for path in (root, inner.parent, inner, outer)]
        self.assertEqual(modes, [0o700, 0o700, 0o600, 0o664])
