"""Statuses, answers and transfers in words."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.client_harness import (
    TASK,
    status,
)
from vidproc.client.files import safe_stem
from vidproc.client.texts import cancel_sentence, info_block, status_block, summary
from vidproc.client.words import describe_status, describe_transfer, printable, time_left


def processing(**more: Any) -> dict[str, Any]:
    """Return a status in the middle of an encode."""
    return {"status": "processing", "stage": "encoding", "progress": 0.456, **more}


class WordTests(SynchronousTestCase):
    """Statuses and transfers in words."""

    def test_a_status_names_stage_percent_speed_and_time_left(self) -> None:
        """Everything that is known, on one line."""
        self.assertEqual(
            describe_status(processing(speed=1.84, eta=12.3)),
            "processing: encoding 45 % (1.8x, about 12 s left)",
        )

    def test_a_queued_task_shows_its_position(self) -> None:
        """Those who wait want to know how long the queue is."""
        text = describe_status({"status": "queued", "queue_position": 3})
        self.assertEqual(text, "queued: position 3 in the queue")

    def test_a_bare_status_is_enough(self) -> None:
        """Simple servers send only the status."""
        self.assertEqual(describe_status({"status": "processing"}), "processing")
        self.assertEqual(describe_status({}), "unknown")

    def test_values_of_odd_types_are_left_out(self) -> None:
        """A server may send anything without causing an error."""
        fields = processing(speed="fast", eta=-1, progress=None, stage=7, queue_position=[])
        self.assertEqual(describe_status(fields), "processing")

    def test_nothing_is_at_100_percent_before_it_is_done(self) -> None:
        """99.9 % is shown as 99 %."""
        self.assertIn("99 %", describe_status(processing(progress=0.999)))

    def test_a_transfer_names_bytes_speed_and_time_left(self) -> None:
        """Sizes as people read them."""
        text = describe_transfer(5 << 20, 11 << 20, float(3 << 20))
        self.assertEqual(text, "5.0 MiB of 11.0 MiB, 3.0 MiB/s, about 2 s left")
        self.assertEqual(describe_transfer(0, 0, None), "0 bytes of 0 bytes")

    def test_long_times_are_in_minutes(self) -> None:
        """3,600 seconds would be hard to read."""
        self.assertEqual(time_left(185), "about 3 min 05 s left")

    def test_control_characters_do_not_reach_the_terminal(self) -> None:
        """A server's text can neither clear the screen nor reverse the direction of text."""
        self.assertEqual(printable("a\x1b[2Jb\u202ec\nd"), "a\\x1b[2Jb\\u202ec d")

    def test_an_endless_text_is_cut(self) -> None:
        """It stays on one line."""
        self.assertEqual(len(printable("x" * 10_000)), 2000)


class AnswerTextTests(SynchronousTestCase):
    """Answers as people read them."""

    def test_a_status_block_has_what_there_is(self) -> None:
        """Stage, progress, time left, error and solution, as far as they are known."""
        block = dict(
            status_block(
                TASK,
                status("processing", stage="encoding", progress=0.5, speed=2.0, eta=12),
            )
        )
        self.assertEqual((block["Stage"], block["Progress"]), ("encoding", "50 %"))
        self.assertIn("about 12 s left", block["Speed and time"])
        block = dict(status_block(TASK, {"status": "failed", "error": "E.", "solution": "S."}))
        self.assertEqual((block["Task"], block["Error"], block["Solution"]), (TASK, "E.", "S."))
        self.assertNotIn("Created", block)

    def test_a_summary_has_sizes_dimensions_and_length(self) -> None:
        """One line, which says if the video was optimal already."""
        output = {"width": 640, "height": 480, "duration": 6.2}
        self.assertEqual(
            summary({"output": output}, 4 << 20, 1 << 20),
            "Done: 4.0 MiB -> 1.0 MiB (25 %), 640x480, 6.2 s",
        )
        text = summary({"output": {"already_optimal": True}}, 10, 10)
        self.assertIn("already well compressed", text)
        self.assertEqual(summary({"output": None}, 10, 5), "Done: 10 bytes -> 5 bytes (50 %)")

    def test_a_cancel_of_a_finished_task_says_what_it_did(self) -> None:
        """Its status stays, and its files are removed."""
        self.assertEqual(cancel_sentence(TASK, {"status": "cancelled"}), f"{TASK}: cancelled")
        self.assertIn("already completed", cancel_sentence(TASK, {"status": "completed"}))

    def test_server_info_of_any_shape_is_shown(self) -> None:
        """Limits in units, operations with ranges; lists, dicts and plain values."""
        block = dict(
            info_block(
                "h",
                1,
                {
                    "version": "1",
                    "limits": {"max_upload": 1 << 30, "other": None},
                    "operations": {"gif": {"fps": {"minimum": 1, "maximum": 50}}, "x": ["a"]},
                    "load": {"queued": 3},
                    "sandbox": ["a", "b"],
                },
            )
        )
        self.assertEqual(block["Max upload"], "1.0 GiB")
        self.assertEqual((block["gif"], block["x"]), ("fps (1 to 50)", "a"))
        self.assertEqual((block["Load"], block["Sandbox"]), ("queued 3", "a, b"))
        self.assertEqual(dict(info_block("h", 1, {"operations": ["gif"]}))["Operations"], "gif")

    def test_a_task_id_in_a_file_name_stays_in_its_folder(self) -> None:
        """Slashes and dots are replaced."""
        self.assertEqual(safe_stem("../a/b"), "___a_b")
