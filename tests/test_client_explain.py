"""Early ends of a run: the exit status, the messages, and the command lines for continuing."""

from __future__ import annotations

import io
import logging
import shlex
import signal
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.client_harness import TASK
from vidproc.client.command_line import parse_command_line
from vidproc.client.errors import (
    ChecksumMismatch,
    ConnectFailed,
    InputChanged,
    LostForGood,
    Refused,
    ResultNotWritten,
    WaitOver,
)
from vidproc.client.explain import explain
from vidproc.client.next_steps import RunState
from vidproc.client.options import Options

WATCH, FETCH, CANCEL = (f"vidproc --{action} {TASK}" for action in ("watch", "download", "cancel"))


def run_state(*, accepted: bool = False, **more: Any) -> RunState:
    """Return the state of a run that processes `film.mp4`."""
    options = Options(action="process", input=Path("film.mp4"), type="compress")
    return RunState(options, TASK if accepted else "", accepted=accepted, **more)


class ExplainTests(SynchronousTestCase):
    """All ways in which a run can end early."""

    def setUp(self) -> None:
        self.logged = io.StringIO()
        self.log = logging.Logger("test", logging.INFO)
        self.log.addHandler(logging.StreamHandler(self.logged))

    def explained(self, error: BaseException, state: RunState) -> tuple[int, str]:
        status, lines = explain(error, state, self.log)
        return status, "\n".join(lines)

    def test_each_error_has_its_status_and_advice(self) -> None:
        """If a task was accepted, the message says how to fetch its result later."""
        for error, expected, texts in (
            (ConnectFailed("No way.", "Try another."), 3, ("No way.", "Try another.")),
            (LostForGood("Gone.", "Add --tls."), 3, ("Gone.", "Add --tls.")),
            (WaitOver("passed"), 4, (TASK, "1 h 00 min", "--max-wait-time")),
            (ResultNotWritten("Disk full."), 1, ("Disk full.", "--output")),
            (ChecksumMismatch("the sum differs"), 1, ("damaged", "the sum differs")),
        ):
            status, said = self.explained(error, run_state(accepted=True))
            self.assertEqual(status, expected, said)
            for text in (*texts, FETCH):
                self.assertIn(text, said)
            self.assertIn(str(error), self.logged.getvalue())

    def test_a_changed_input_is_the_users_to_mend(self) -> None:
        """Nothing on the server can help."""
        status, said = self.explained(InputChanged("It changed."), run_state())
        self.assertEqual((status, said.count("vidproc")), (2, 0))
        self.assertIn("It changed.", said)

    def test_a_connection_lost_before_the_task_says_what_to_run_again(self) -> None:
        """A kept upload can be resumed; otherwise nothing was started."""
        for kept, text in ((True, "continues where it stopped"), (False, "Nothing was started")):
            status, said = self.explained(LostForGood("Gone."), run_state(upload_kept=kept))
            self.assertEqual(status, 3)
            self.assertIn(text, said)

    def test_a_signal_counts_more_than_what_it_broke(self) -> None:
        """The status is 128 plus its number. A task that has ended need not be cancelled."""
        state = run_state(accepted=True, signal=signal.SIGTERM)
        status, said = self.explained(ConnectFailed("cut"), state)
        self.assertEqual(status, 128 + signal.SIGTERM)
        for text in ("Interrupted.", WATCH, FETCH, CANCEL):
            self.assertIn(text, said)
        state.finished = True
        _, said = self.explained(ConnectFailed("cut"), state)
        self.assertIn(FETCH, said)
        self.assertNotIn(WATCH, said)
        self.assertNotIn(CANCEL, said)

    def test_a_refusal_can_name_the_task_in_the_way(self) -> None:
        """Its ID comes from the server, so it is quoted for the shell."""
        refusal = Refused(429, "Busy.\x1b", "Wait.", {"task_id": "a; rm -rf b"})
        status, said = self.explained(refusal, run_state())
        self.assertEqual(status, 5)
        for text in ("(429): Busy.\\x1b", "Wait.", "vidproc --watch 'a; rm -rf b'"):
            self.assertIn(text, said)

    def test_a_fault_of_ours_is_a_line_for_people_and_a_traceback_for_the_log(self) -> None:
        """Exit status 1."""
        try:
            raise ZeroDivisionError("secret detail")
        except ZeroDivisionError as error:
            status, said = self.explained(error, run_state())
        self.assertEqual(status, 1)
        self.assertIn("ZeroDivisionError", said)
        self.assertNotIn("Traceback", said)
        self.assertIn("secret detail", self.logged.getvalue())


class CommandTests(SynchronousTestCase):
    """The command lines that are printed do what they say."""

    def test_they_reach_the_same_server_in_the_same_way(self) -> None:
        """With the same host, port, encryption, token and folder, even with odd characters in
        paths."""
        folder = Path(self.mktemp()).absolute() / "a folder's name"
        folder.mkdir(parents=True)
        film, token, ca = folder / "film.mp4", folder / "token", folder / "ca.pem"
        film.write_bytes(b"x")
        token.write_text("s3cret\n")
        ca.write_text("-----BEGIN CERTIFICATE-----")
        secret = ["--token-file", str(token)]
        for words in (
            [],
            ["--host", "192.0.2.1", "--port", "1234"],
            [*secret, "--host", "video.example", "--tls", "--ca", str(ca)],
            [*secret, "--host", "video.example", "--insecure"],
            [*secret, "--host", "127.0.0.1"],
        ):
            options = parse_command_line([str(film), "--type", "compress", *words])
            state = RunState(options, TASK, accepted=True)
            again = parse_command_line(shlex.split(state.command("--download", TASK))[1:])
            for name in ("host", "port", "tls", "ca", "token", "insecure"):
                self.assertEqual(getattr(again, name), getattr(options, name), name)
            self.assertEqual((again.action, again.task_id), ("download", TASK))
            self.assertEqual(again.output, folder)
