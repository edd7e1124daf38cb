"""One connection: bytes in, answers out."""

from __future__ import annotations

import io
from typing import Any

from twisted.internet import error, task
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from tests.client_harness import FakeTransport
from vidproc.client.answer import Answer
from vidproc.client.connection import Connection
from vidproc.client.errors import (
    ConnectFailed,
    ConnectionBroken,
    Refused,
)
from vidproc.mmp.codec import (
    encode_head,
)


class ConnectionTests(TestCase):
    """One connection, without a network."""

    def setUp(self) -> None:
        self.clock = task.Clock()
        self.connection = Connection(self.clock, 60.0)
        self.transport = FakeTransport()
        self.connection.makeConnection(self.transport)

    def test_a_payload_is_read_only_as_the_network_takes_it(self) -> None:
        """The transport gets one chunk each time it asks; no more of the file is in memory."""
        file = io.BytesIO(b"x" * (5 << 20))
        sent: list[int] = []
        self.connection.upload({"action": "upload"}, "mp4", file, 5 << 20, sent.append)
        self.assertEqual(file.tell(), 0)
        self.transport.producer.resumeProducing()
        self.assertLessEqual(file.tell(), 1 << 20)
        self.assertEqual(sum(sent), file.tell())
        for _ in range(4):
            self.transport.producer.resumeProducing()
        self.assertIsNone(self.transport.producer)
        self.assertEqual(sum(sent), 5 << 20)

    def test_an_answer_split_in_any_way_is_one_answer(self) -> None:
        """The network may split bytes anywhere."""
        waiting = self.connection.request({"action": "status"})
        for byte in encode_head(b'{"status":"queued"}', "", 0):
            self.connection.dataReceived(bytes([byte]))
        self.assertEqual(self.successResultOf(waiting), Answer({"status": "queued"}))

    def test_an_answer_that_is_not_a_json_object_is_a_clear_error(self) -> None:
        """Malformed answers do not lead to a traceback."""
        waiting = self.connection.request({"action": "status"})
        self.connection.dataReceived(encode_head(b'{"status":}'))
        self.failureResultOf(waiting, ConnectFailed)

    def test_cancelling_a_request_closes_the_connection(self) -> None:
        """Otherwise the next request would get the answer to this one."""
        waiting = self.connection.request({"action": "watch"})
        waiting.addErrback(lambda failure: None)
        waiting.cancel()
        self.assertTrue(self.transport.aborted)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_break_says_whether_an_answer_had_begun(self) -> None:
        """This distinguishes an expired connection from a broken server."""
        waiting = self.connection.request({"action": "status"})
        self.connection.connectionLost(Failure(error.ConnectionDone()))
        self.assertFalse(self.failureResultOf(waiting, ConnectionBroken).value.answered)


class AnswerTests(TestCase):
    """Answers that are errors, and some that only look like errors."""

    def test_a_failed_tasks_status_is_not_a_refusal(self) -> None:
        """A status has its own error text."""
        self.assertIsNone(Answer({"status": "failed", "error": "Broken file."}).refusal())
        self.assertIsNone(Answer({"status": "queued", "error": None}).refusal())

    def test_errors_of_other_servers_are_understood(self) -> None:
        """Optional keys may be missing, and a text instead of an object is accepted."""
        cases: list[dict[str, Any]] = [
            {"error": {}},
            {"error": "no"},
            {"status": "error", "message": "no"},
        ]
        for fields in cases:
            self.assertIsInstance(Answer(fields).refusal(), Refused)
