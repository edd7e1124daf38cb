"""What a worker says is checked before the server believes it."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from vidproc.cluster import messages
from vidproc.cluster.digest import Digest, block_size
from vidproc.cluster.messages import MadeFile, Outcome
from vidproc.cluster.outcomes import Nonsense, checked
from vidproc.ffmpeg.command import Command

COMMAND = Command("ffmpeg", (), "encoding", writes=("a.mp4", "b.mp4"), capture=10)
MOST = 1000


def made(name: str = "a.mp4", key: str = "p/1/a.mp4.0", size: int = 5, **changed: Any) -> MadeFile:
    fields = {"size": size, "block": block_size(max(size, 0)), "root": bytes(32), **changed}
    return MadeFile(name, key, Digest(**fields))


class OutcomeTests(SynchronousTestCase):
    def check(self, data: bytes | Outcome) -> Outcome:
        encoded = data if isinstance(data, bytes) else messages.encode(data)
        return checked(encoded, COMMAND, "p/1", MOST)

    def refused(self, data: bytes | Outcome) -> str:
        return str(self.assertRaises(Nonsense, self.check, data))

    def test_what_makes_sense_is_believed(self) -> None:
        """All of it."""
        outcome = Outcome(
            "completed", elapsed=1.0, outputs=(made(), made("b.mp4", "p/1/b.mp4.0", MOST))
        )
        self.assertEqual(self.check(outcome), outcome)
        failed = Outcome("failed", "status 1", "input", stderr_tail="Invalid data")
        self.assertEqual(self.check(failed), failed)

    def test_garbage_is_not(self) -> None:
        """Neither other types, nor what is cut off, nor nesting without end."""
        whole = messages.encode(Outcome("completed"))
        for data in (b"", b"garbage", whole[:-1], whole + b"x", b"\x91" * 100_000, b"\xc0"):
            self.assertIn("cannot be read", self.refused(data))
        self.assertIn("cannot be read", self.refused(messages.encode({"state": "well"})))

    def test_files_are_those_of_the_command(self) -> None:
        """Once each, in their place, and not larger than a file may be."""
        for wrong, words in (
            ((made("../a.mp4"),), "no one asked for"),
            ((made(), made()), "twice"),
            ((made(key="q/1/a.mp4"),), "another place"),
            ((made(key="p/1/../../q"),), "another place"),
            ((made(size=MOST + 1),), "1000 are allowed"),
            ((made(size=-1),), "are allowed"),
            ((made(block=0),), "digest"),
            ((made(root=b"short"),), "digest"),
        ):
            self.assertIn(words, self.refused(Outcome("completed", outputs=wrong)))

    def test_numbers_are_numbers(self) -> None:
        """They go into the accounts of CPU time and memory."""
        for wrong in ({"elapsed": float("nan")}, {"cpu_time": -1.0}, {"peak_memory": -1}):
            self.assertIn("measured", self.refused(Outcome("completed", **wrong)))
        self.assertIn("measured", self.refused(Outcome("completed", elapsed=float("inf"))))

    def test_an_unknown_failure_is_no_failure_of_the_video(self) -> None:
        """The command is tried elsewhere."""
        self.assertIn("'mood'", self.refused(Outcome("failed", kind="mood")))

    def test_texts_are_cut(self) -> None:
        """To what the command captures, and to what a log should hold."""
        found = self.check(Outcome("completed", stdout=b"x" * 100, stderr_tail="y" * 10**6))
        self.assertEqual(found.stdout, b"x" * 10)
        self.assertLess(len(found.stderr_tail), 10**5)
