"""MMP/1 is a promise: clients get the same answers as in the recording. Additions are allowed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.wire.conversation import play, steps

RECORDED = Path(__file__).parent / "wire" / "mmp1.json"

TEXTS = {"message", "description", "solution", "error", "version", "warnings"}
"""Keys whose texts may be improved; only their presence and type are promised."""
MEASURED = {"input", "output", "limits", "progress", "eta", "speed", "stage"}
"""Keys whose values depend on the server and the file."""


class WireTests(SynchronousTestCase):
    def test_a_recorded_conversation_gets_the_same_answers(self) -> None:
        """All keys are present, with the same values, except texts."""
        recorded = json.loads(RECORDED.read_text())
        self.assertEqual([exchange["step"] for exchange in recorded], steps())
        today = play(Path(self.mktemp()))
        for exchange, answers in zip(recorded, today, strict=True):
            promised = exchange["answers"]
            if exchange["step"].get("do") == "complete":
                # The number of stages in a watch depends on the operation.
                promised, answers = [promised[0], promised[-1]], [answers[0], answers[-1]]
            self.assertEqual(len(answers), len(promised), exchange["step"])
            for (head, kind, payload), (was, kind_was, payload_was) in zip(
                answers, promised, strict=True
            ):
                self.assertEqual((kind, payload), (kind_was, payload_was), exchange["step"])
                self.assertKept(was, head, str(exchange["step"]))

    def assertKept(self, was: Any, now: Any, where: str) -> None:
        """`now` has everything that `was` had."""
        self.assertIs(type(now), type(was), where)
        if isinstance(was, dict):
            for key, value in was.items():
                self.assertIn(key, now, where)
                self.assertValueKept(key, value, now[key], f"{where} {key}")
        else:
            self.assertEqual(now, was, where)

    def assertValueKept(self, key: str, was: Any, now: Any, where: str) -> None:
        if key in MEASURED or (key in TEXTS and not isinstance(was, dict)):
            self.assertIs(type(now), type(was), where)
            if isinstance(was, dict):
                self.assertLessEqual(was.keys(), now.keys(), where)
        elif key == "actions":
            self.assertLessEqual(set(was), set(now), where)
        elif key == "operations":
            for name, parameters in was.items():
                self.assertLessEqual(set(parameters), set(now.get(name, ())), f"{where} {name}")
        else:
            self.assertKept(was, now, where)

    def test_short_answers_still_fit_one_packet(self) -> None:
        """All answers of the conversation, except the long forms."""
        for step, answers in zip(steps(), play(Path(self.mktemp())), strict=True):
            if "raw" in step or step["send"][0].get("detail"):
                continue
            for head, kind, _ in answers:
                size = 8 + len(json.dumps(head, separators=(",", ":")).encode()) + len(kind)
                self.assertLess(size, 1200, step)
