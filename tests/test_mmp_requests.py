"""MMP requests over in-memory transports, with the real task service and store."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.logger import ILogObserver, LogEvent, LogLevel, globalLogPublisher
from zope.interface import implementer

from tests.mmp_case import UPLOAD, ProtocolTestCase, rig_turns
from tests.rig import message
from vidproc.frontends.mmp.reports import list_report
from vidproc.frontends.mmp.states import LINGER_TIME
from vidproc.frontends.tokens import Tokens
from vidproc.mmp import messages
from vidproc.mmp.codec import Decoder, MessageStarted
from vidproc.tasks.model import Failure as TaskFailure
from vidproc.tasks.model import State, Task
from vidproc.tasks.settings import Settings
from vidproc.tasks.views import TaskView


class RequestTests(ProtocolTestCase):
    def test_a_request_may_come_byte_by_byte(self) -> None:
        """The answer does not depend on how the bytes are split."""
        client = self.rig().connect()
        for byte in message({"action": "info"}):
            client.send(bytes([byte]))
        self.assertEqual(client.answer()["status"], "ok")

    def test_many_requests_in_one_piece_are_answered_in_order(self) -> None:
        """Each answer carries its request's id."""
        client = self.rig().connect()
        client.send(b"".join(message({"action": "info", "id": n}) for n in range(20)))
        rig_turns(client)
        self.assertEqual([a[0]["id"] for a in client.answers()], list(range(20)))

    def test_a_malformed_request_leaves_the_connection_usable(self) -> None:
        """Its sizes are known, so the next message can be found."""
        client = self.rig().connect()
        client.send(message({"action": "dance", "id": 7}, b"some payload"))
        answer = client.answer()
        self.assertEqual((self.code(answer), answer["id"]), (400, 7))
        client.send(message({"action": "info"}))
        self.assertEqual(client.answer()["status"], "ok")

    def test_http_and_tls_get_400_at_once_and_the_end(self) -> None:
        """Further bytes are read, so that a reset does not destroy the answer."""
        for foreign in (
            b"GET / HTTP/1.1\r\nHost: x\r\n",
            bytes.fromhex("160301020001000001fc0303"),
        ):
            client = self.rig().connect()
            client.send(foreign)
            self.assertEqual(self.code(client.answer()), 400)
            self.assertTrue(client.transport.ended)
            client.send(b"x" * 100000)
            self.assertEqual(client.answers(), [])

    def test_a_connection_that_is_done_for_ends_even_if_its_client_stays(self) -> None:
        """It lingers for a limited time."""
        rig = self.rig()
        client = rig.connect()
        client.send(b"GET / HTTP/1.1\r\n\r\n")
        rig.clock.advance(LINGER_TIME)
        self.assertTrue(client.transport.aborted)

    def test_unknown_tasks_are_404_for_every_action(self) -> None:
        """With a sentence that says where the id comes from."""
        client = self.rig().connect()
        for action in ("status", "watch", "download", "cancel", "delete"):
            client.send(message({"action": action, "task_id": "0" * 32}))
            self.assertEqual(self.code(client.answer()), 404)

    def test_info_is_short_and_its_long_form_has_the_parameters(self) -> None:
        """Under 1,200 bytes, unless detail is asked for."""
        client = self.rig().connect()
        client.send(message({"action": "info"}))
        self.assertLess(len(client.transport.value()), 1200)
        self.assertIn("quality", client.answer()["operations"]["compress"])
        client.send(message({"action": "info", "detail": True}))
        info = client.answer()
        self.assertEqual(info["operations"]["resolution"]["width"]["minimum"], 16)
        self.assertEqual(info["sandbox"], ["rlimits"])

    def test_tokens_are_asked_for_when_there_are_any(self) -> None:
        """No token or a wrong one gets 401; the right one gets an answer."""
        client = self.rig(tokens=Tokens({"ann": "s3cret"})).connect()
        for token in (None, "", "s3cre", "s3cret "):
            client.send(message({"action": "info", "token": token}))
            self.assertEqual(self.code(client.answer()), 401)
        client.send(message({"action": "info", "token": "s3cret"}))
        self.assertEqual(client.answer()["status"], "ok")

    def test_a_half_closed_connection_still_gets_its_answers(self) -> None:
        """It is closed after the last one."""
        client = self.rig().connect()
        client.send(message({"action": "info"}))
        client.half_close()
        self.assertEqual(client.answer()["status"], "ok")
        self.assertTrue(client.transport.disconnecting)

    def test_a_half_close_in_the_middle_of_a_message_is_400(self) -> None:
        """The upload's slot is freed."""
        rig = self.rig()
        client = rig.connect()
        client.send(message(UPLOAD, b"whole film", "mp4")[:-3])
        client.half_close()
        self.assertEqual(self.code(client.answer()), 400)
        self.assertEqual(rig.tasks.uploads.active, 0)
        self.upload(rig.connect())


class TokenTests(ProtocolTestCase):
    """The effects of tokens for MMP clients."""

    tokens = {"ann": "s3cret", "bob": "t0ken"}

    def test_a_token_lists_its_own_tasks_newest_first(self) -> None:
        """In short form, without those of others."""
        rig = self.rig(tokens=Tokens(self.tokens), settings=Settings(tasks_per_ip=3))
        client = rig.connect()
        first = self.upload(client, token="s3cret")
        self.upload(client, token="t0ken")
        last = self.upload(client, token="s3cret")
        client.send(message({"action": "list", "token": "s3cret", "id": 7}))
        answer = client.answer()
        self.assertEqual((answer["status"], answer["id"]), ("ok", 7))
        self.assertEqual([task["task_id"] for task in answer["tasks"]], [last, first])
        client.send(message({"action": "status", "task_id": first, "token": "s3cret"}))
        self.assertEqual(answer["tasks"][1].keys(), client.answer().keys())

    def test_there_is_no_list_without_tokens(self) -> None:
        """It gets 401, because there are no owners."""
        client = self.rig().connect()
        client.send(message({"action": "list"}))
        self.assertEqual(self.code(client.answer()), 401)

    def test_a_hundred_long_failures_fit_one_list(self) -> None:
        """With all texts at their maximum length."""
        task = Task(
            task_id="f" * 32,
            type="extract_audio",
            parameters={},
            peer="192.0.2.1",
            state=State.FAILED,
            created_at=1e9 + 0.123,
            started_at=1e9 + 0.123,
            completed_at=1e9 + 0.123,
            failure=TaskFailure(code=415, description="ä" * 1000, solution="ö" * 1000),
        )
        view = TaskView(task, "x" * 20, 0.1234, 12345.6, 0.12, 100, warnings=("w",) * 50)
        data = messages.encode_answer(
            list_report([view] * 100, messages.List(id="i" * 64)), detail=True
        )
        decoder = Decoder()
        decoder.receive_data(data)
        head = decoder.next_event()
        assert isinstance(head, MessageStarted)
        self.assertEqual(len(json.loads(head.json)["tasks"]), 100)

    def test_a_tokens_slots_are_its_own(self) -> None:
        """From any address; another token at the same address has other slots."""
        rig = self.rig(tokens=Tokens(self.tokens), settings=Settings(tasks_per_token=2))
        client = rig.connect()
        self.upload(client, token="s3cret")
        self.upload(rig.connect("192.0.2.7"), token="s3cret")
        other = rig.connect("192.0.2.8")
        other.send(message({**UPLOAD, "token": "s3cret"}, b"film", "mp4"))
        self.assertEqual(self.code(other.answer()), 429)
        self.upload(client, token="t0ken")
        self.upload(client, token="t0ken")


class AnyBytesTests(ProtocolTestCase):
    @settings(max_examples=150, deadline=None, derandomize=True, database=None)
    @given(
        st.lists(
            st.one_of(
                st.binary(max_size=300),
                st.builds(
                    lambda fields, payload: message(fields, payload, "mp4"),
                    st.dictionaries(
                        st.sampled_from(["action", "type", "task_id", "upload_id", "offset", "id"]),
                        st.one_of(
                            st.sampled_from(["upload", "info", "watch", "gif", "0" * 32]),
                            st.integers(),
                            st.none(),
                            st.text(max_size=20),
                        ),
                    ),
                    st.binary(max_size=50),
                ),
            ),
            max_size=8,
        )
    )
    def test_any_bytes_get_answers_or_a_clean_end(self, pieces: list[bytes]) -> None:
        """There is no exception, no fault (500), and nothing is left behind."""
        faults: list[Any] = []

        @implementer(ILogObserver)
        def observe(event: LogEvent) -> None:
            if event["log_level"] >= LogLevel.error:
                faults.append(event)

        globalLogPublisher.addObserver(observe)
        rig = self.rig()
        try:
            client = rig.connect()
            for piece in pieces:
                client.send(piece)
            rig_turns(client)
            for answer, _, _ in client.answers():
                self.assertNotEqual(answer.get("error", {}).get("code"), 500)
            client.lose()
            self.assertEqual(rig.gate.connections, 0)
            self.assertEqual(rig.tasks.uploads.active, 0)
        finally:
            globalLogPublisher.removeObserver(observe)
            rig.close()
        self.assertEqual(faults, [])
