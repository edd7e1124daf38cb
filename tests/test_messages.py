"""Typed requests and answers, and the JSON that carries them."""

import json
import re
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from vidproc.answers import Accepted, Answer, Cancelled, StatusDetail, StatusReport, TaskList
from vidproc.errors import ErrorCode, ServiceError
from vidproc.mmp.codec import HEADER_SIZE, Decoder, MessageStarted
from vidproc.mmp.messages import (
    MAX_SHORT_ANSWER,
    Cancel,
    Download,
    DownloadStarts,
    ErrorAnswer,
    Info,
    List,
    Partial,
    Request,
    Status,
    Upload,
    UploadStatus,
    Watch,
    clip,
    decode_object,
    encode_answer,
    error_answer,
    parse_request,
    request_id,
)
from vidproc.operations.parameters import parse_parameters

PROPERTY = settings(max_examples=150, deadline=None, derandomize=True, database=None)

UPLOAD_ID = "5f0c7c7e-9d0b-4f3e-8b0a-2f6f1d1c9a10"


def parse(**fields: Any) -> Request:
    return parse_request(json.dumps(fields).encode())


def decode_answer(data: bytes) -> tuple[dict[str, Any], str, int]:
    """Return JSON, media type and payload size of an answer's head."""
    decoder = Decoder()
    decoder.receive_data(data)
    event = decoder.next_event()
    assert isinstance(event, MessageStarted)
    assert decoder.buffered == 0
    fields = json.loads(event.json.decode())
    assert isinstance(fields, dict)
    return fields, event.media_type, event.payload_size


def make_report(**changes: Any) -> StatusReport:
    fields: dict[str, Any] = {
        "status": "processing",
        "task_id": "0" * 32,
        "type": "extract_audio",
        "created_at": "2026-01-01T00:00:00.000Z",
        "started_at": "2026-01-01T00:00:01.000Z",
        "completed_at": None,
        "stage": "encoding",
        "progress": 0.5,
        "eta": 3.2,
        "queue_position": None,
        "error": None,
        "error_code": None,
        "solution": None,
        "warning_count": 1,
    }
    return StatusReport(**{**fields, **changes})


class ParseRequestTests(SynchronousTestCase):
    def test_upload(self) -> None:
        self.assertEqual(
            parse(action="upload", type="gif", parameters={"start_time": 0, "duration": 5}),
            Upload(type="gif", parameters={"start_time": 0, "duration": 5}),
        )
        self.assertEqual(parse(action="upload", type="compress"), Upload(type="compress"))

    def test_resumable_upload(self) -> None:
        request = parse(
            action="upload",
            type="compress",
            parameters={},
            filename="holiday.mp4",
            upload_id=UPLOAD_ID,
            size=1000,
            offset=400,
            sha256="Ab" * 32,
            id=7,
            token="secret",
            detail=True,
        )
        self.assertEqual(
            request,
            Upload(
                type="compress",
                filename="holiday.mp4",
                upload_id=UUID(UPLOAD_ID),
                size=1000,
                offset=400,
                sha256="Ab" * 32,
                id=7,
                token="secret",
                detail=True,
            ),
        )

    def test_the_others(self) -> None:
        cases: list[tuple[dict[str, Any], Request]] = [
            ({"action": "status", "task_id": "t"}, Status(task_id="t")),
            ({"action": "download", "task_id": "t"}, Download(task_id="t")),
            ({"action": "download", "task_id": "t", "offset": 9}, Download(task_id="t", offset=9)),
            ({"action": "watch", "task_id": "t"}, Watch(task_id="t", interval=1.0)),
            ({"action": "watch", "task_id": "t", "interval": 60}, Watch(task_id="t", interval=60)),
            ({"action": "cancel", "task_id": "t"}, Cancel(task_id="t")),
            ({"action": "delete", "task_id": "t"}, Cancel(task_id="t")),
            (
                {"action": "upload_status", "upload_id": UPLOAD_ID},
                UploadStatus(upload_id=UUID(UPLOAD_ID)),
            ),
            ({"action": "info"}, Info()),
        ]
        for fields, request in cases:
            self.assertEqual(parse(**fields), request)

    def test_unknown_keys_are_ignored(self) -> None:
        self.assertEqual(
            parse(action="status", task_id="t", colour="red", nested={"a": [1]}),
            Status(task_id="t"),
        )

    def test_unknown_or_missing_action(self) -> None:
        cases: list[dict[str, Any]] = [
            {},
            {"action": None},
            {"action": "dance"},
            {"action": "Upload"},
            {"action": 1},
            {"action": ["info"]},
            {"action": {}},
        ]
        for fields in cases:
            error = self.assertRaises(ServiceError, parse, **fields)
            self.assertEqual(error.code, 400)
            self.assertIn("action", error.description)
            self.assertIn("upload_status", error.solution)

    def test_a_malformed_field_is_named(self) -> None:
        task = {"task_id": "t"}
        upload = {"type": "compress"}
        cases: list[tuple[str, dict[str, Any], str]] = [
            ("status", {}, "task_id"),
            ("status", {"task_id": None}, "task_id"),
            ("status", {"task_id": 7}, "task_id"),
            ("status", {**task, "detail": "yes"}, "detail"),
            ("status", {**task, "id": 1.5}, "id"),
            ("status", {**task, "id": "x" * 65}, "id"),
            ("status", {**task, "id": [1]}, "id"),
            ("status", {**task, "id": True}, "id"),
            ("status", {**task, "id": 1 << 63}, "id"),
            ("status", {**task, "id": 10**40}, "id"),
            ("status", {**task, "token": 7}, "token"),
            ("download", {}, "task_id"),
            ("download", {**task, "offset": -1}, "offset"),
            ("download", {**task, "offset": 1 << 40}, "offset"),
            ("download", {**task, "offset": 1.5}, "offset"),
            ("download", {**task, "offset": "0"}, "offset"),
            ("watch", {}, "task_id"),
            ("watch", {**task, "interval": 0}, "interval"),
            ("watch", {**task, "interval": 0.09}, "interval"),
            ("watch", {**task, "interval": 3601}, "interval"),
            ("watch", {**task, "interval": "1"}, "interval"),
            ("cancel", {}, "task_id"),
            ("delete", {}, "task_id"),
            ("upload", {}, "type"),
            ("upload", {"type": 7}, "type"),
            ("upload", {**upload, "parameters": []}, "parameters"),
            ("upload", {**upload, "parameters": None}, "parameters"),
            ("upload", {**upload, "parameters": "{}"}, "parameters"),
            ("upload", {**upload, "filename": 7}, "filename"),
            ("upload", {**upload, "filename": "x" * 1025}, "filename"),
            ("upload", {**upload, "upload_id": "not-a-uuid"}, "upload_id"),
            ("upload", {**upload, "upload_id": 7}, "upload_id"),
            ("upload", {**upload, "size": -1}, "size"),
            ("upload", {**upload, "size": 1 << 40}, "size"),
            ("upload", {**upload, "offset": -1}, "offset"),
            ("upload", {**upload, "sha256": "abc"}, "sha256"),
            ("upload", {**upload, "sha256": "g" * 64}, "sha256"),
            ("upload", {**upload, "sha256": "a" * 64 + "\n"}, "sha256"),
            ("upload_status", {}, "upload_id"),
            ("upload_status", {"upload_id": ""}, "upload_id"),
        ]
        for action, fields, name in cases:
            error = self.assertRaises(ServiceError, parse, action=action, **fields)
            self.assertEqual(error.code, ErrorCode.BAD_REQUEST, fields)
            self.assertIn(action, error.description)
            self.assertRegex(error.description, rf"`\$?\.?{name}`", str(fields)[:100])
            self.assertIn("Example: {", error.solution)

    def test_bad_json(self) -> None:
        for data in [
            b"",
            b" ",
            b"{",
            b"[]",
            b"null",
            b'"info"',
            b"{'action':'info'}",
            b'{"action":"info"}}',
            b'{"action":"info","x":1e999}',
            b'{"action":"info","x":NaN}',
            b'{"action":"info","x":' + b"9" * 5000 + b"}",
            b'{"action":"\\ud800"}',
            b'{"action":"\xff"}',
            b'{"\xff":1}',
            b"\xff\xfe{}",
            b"\x00",
        ]:
            error = self.assertRaises(ServiceError, parse_request, data)
            self.assertEqual(error.code, ErrorCode.BAD_REQUEST, data[:40])
            self.assertIn("JSON", error.description)
            self.assertIn('{"action":"info"}', error.solution)

    def test_depth_bombs(self) -> None:
        for bomb in [
            b"[" * 60_000,
            b'{"a":' * 13_000,
            b'{"action":"info","x":' + b"[" * 60_000,
            b'{"action":"info","x":' + b"[" * 30_000 + b"]" * 30_000 + b"}",
            b'{"id":' + b"[" * 60_000,
        ]:
            error = self.assertRaises(ServiceError, parse_request, bomb)
            self.assertEqual(error.code, ErrorCode.BAD_REQUEST)
            self.assertIsNone(request_id(bomb))

    @PROPERTY
    @given(st.binary(max_size=200))
    def test_any_bytes_are_a_request_or_a_400(self, data: bytes) -> None:
        try:
            parse_request(data)
        except ServiceError as error:
            self.assertEqual(error.code, ErrorCode.BAD_REQUEST)
        request_id(data)

    @PROPERTY
    @given(
        st.fixed_dictionaries(
            {"action": st.sampled_from(["upload", "status", "watch", "download", "info"])},
            optional={
                name: st.recursive(
                    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
                    lambda inner: (
                        st.lists(inner, max_size=3)
                        | st.dictionaries(st.text(max_size=5), inner, max_size=3)
                    ),
                    max_leaves=5,
                )
                for name in ("type", "task_id", "parameters", "id", "token", "detail", "interval")
            },
        )
    )
    def test_any_fields_are_a_request_or_a_400_that_can_be_sent(
        self, fields: dict[str, Any]
    ) -> None:
        data = json.dumps(fields).encode()
        try:
            request = parse_request(data)
        except ServiceError as error:
            self.assertEqual(error.code, ErrorCode.BAD_REQUEST)
            answer = encode_answer(error_answer(error, request_id(data)))
        else:
            answer = encode_answer(Accepted(status="accepted", task_id="t", id=request.id))
        self.assertLess(len(answer), MAX_SHORT_ANSWER)
        decode_answer(answer)


class RequestIdTests(SynchronousTestCase):
    def test_found_in_a_malformed_request(self) -> None:
        for data, found in [
            (b'{"id":"a1","action":"dance"}', "a1"),
            (b'{"action":"status","id":-7}', -7),
            (b'{"action":"status"}', None),
            (b'{"id":null}', None),
            (b'{"id":1.5}', None),
            (b'{"id":true}', None),
            (b'{"id":"' + b"x" * 65 + b'"}', None),
            (b'{"id":' + b"9" * 30 + b"}", None),
            (b'{"id":"\xff"}', None),
            (b'{"id":"a1"', None),
            (b"[]", None),
            (b"", None),
        ]:
            self.assertEqual(request_id(data), found, data)

    def test_answers_repeat_it(self) -> None:
        for id in ["a1", "", "é" * 64, 0, -(1 << 63), (1 << 63) - 1]:
            request = parse(action="info", id=id)
            self.assertEqual(request.id, id)
            for answer in [
                Accepted(status="accepted", task_id="t", id=request.id),
                Partial(status="partial", offset=0, id=request.id),
                Cancelled(status="cancelled", id=request.id),
                DownloadStarts(
                    status="completed", size=1, offset=0, sha256="0" * 64, id=request.id
                ),
                make_report(id=request.id),
                error_answer(ServiceError(ErrorCode.NOT_FOUND, "a", "b"), request.id),
            ]:
                fields, _, _ = decode_answer(encode_answer(answer))
                self.assertEqual(fields["id"], id)

    def test_none_was_given_none_comes_back(self) -> None:
        fields, _, _ = decode_answer(encode_answer(Accepted(status="accepted", task_id="t")))
        self.assertNotIn("id", fields)


any_text = st.one_of(
    st.text(max_size=3000),
    st.text(alphabet='\x00\x1f"\\', min_size=100, max_size=2000),
    st.text(alphabet="é漢😀", min_size=100, max_size=2000),
    st.integers(0, 70_000).map(lambda size: "x" * size),
)
any_id = st.one_of(
    st.none(), st.integers(-(1 << 63), (1 << 63) - 1), st.text(max_size=64), st.just("\x00" * 64)
)
media_types = st.sampled_from(["", "mp4", "x" * 16])


class AnswerTests(SynchronousTestCase):
    def check_short(self, answer: Answer, media_type: str = "", size: int = 0) -> dict[str, Any]:
        data = encode_answer(answer, media_type, size)
        self.assertLess(len(data), MAX_SHORT_ANSWER)
        fields, kind, payload_size = decode_answer(data)
        self.assertEqual((kind, payload_size), (media_type, size))
        self.assertEqual(fields.get("id", msgspec.UNSET), answer.id)
        return fields

    def test_an_answer_is_one_piece(self) -> None:
        answer = DownloadStarts(status="completed", size=10, offset=4, sha256="0" * 64)
        data = encode_answer(answer, "mp4", 6)
        self.assertEqual(data[2:HEADER_SIZE], bytes([3]) + (6).to_bytes(5, "big"))
        fields, media_type, payload_size = decode_answer(data)
        self.assertEqual((media_type, payload_size), ("mp4", 6))
        self.assertEqual(
            fields, {"status": "completed", "size": 10, "offset": 4, "sha256": "0" * 64}
        )

    def test_an_offset_outside_the_file_is_never_sent(self) -> None:
        for offset in (-1, 11):
            self.assertRaises(
                ValueError, DownloadStarts, status="", size=10, offset=offset, sha256=""
            )

    @PROPERTY
    @given(any_text, any_text, any_id, st.sampled_from(list(ErrorCode)))
    def test_errors_stay_short(
        self, description: str, solution: str, id: Any, code: ErrorCode
    ) -> None:
        error = ServiceError(code, description, solution, offset=1 << 40, task_id="0" * 32)
        fields = self.check_short(error_answer(error, id))
        self.assertEqual(fields["error"]["code"], int(code))
        self.assertEqual(fields["error"]["offset"], 1 << 40)
        self.assertEqual(fields["error"]["task_id"], "0" * 32)
        self.assertIsInstance(fields["error"]["description"], str)
        self.assertIsInstance(fields["error"]["solution"], str)

    @PROPERTY
    @given(any_text, any_text, any_id, media_types)
    def test_statuses_stay_short(self, error: str, solution: str, id: Any, media_type: str) -> None:
        report = make_report(error=error, solution=solution, id=id)
        fields = self.check_short(report, media_type)
        for name in ("status", "type", "task_id", "created_at", "stage", "warning_count"):
            self.assertEqual(fields[name], getattr(report, name))

    @PROPERTY
    @given(any_text, any_id)
    def test_messages_stay_short(self, message: str, id: Any) -> None:
        for answer in [
            Accepted(status="accepted", task_id="0" * 32, message=message, id=id),
            Cancelled(status="cancelled", message=message, id=id),
        ]:
            self.check_short(answer)

    def test_texts_that_fit_are_left_alone(self) -> None:
        error = ServiceError(ErrorCode.NOT_FOUND, "d" * 400, "s" * 400)
        fields = self.check_short(error_answer(error))
        self.assertEqual(
            fields, {"error": {"code": 404, "description": "d" * 400, "solution": "s" * 400}}
        )

    def test_a_cut_text_keeps_its_beginning(self) -> None:
        error = ServiceError(ErrorCode.NOT_FOUND, "d" * 4000, "Do this.")
        body = self.check_short(error_answer(error))["error"]
        self.assertRegex(body["description"], r"\Ad{200,}…\Z")
        self.assertEqual(body["solution"], "Do this.")

    def test_detail_is_whole(self) -> None:
        fields = msgspec.structs.asdict(make_report(error="e" * 5000))
        detail = StatusDetail(
            **fields,
            parameters={"quality": 95},
            input={"width": 1280},
            output={},
            warnings=["w" * 300] * 10,
        )
        answer, _, _ = decode_answer(encode_answer(detail, detail=True))
        self.assertEqual(answer["error"], "e" * 5000)
        self.assertEqual(answer["warnings"], ["w" * 300] * 10)
        self.assertEqual(answer["parameters"], {"quality": 95})

    def test_detail_stays_within_what_mmp_carries(self) -> None:
        fields = msgspec.structs.asdict(make_report(error="e" * 60_000))
        detail = StatusDetail(
            **fields,
            parameters={"unknown": "x" * 65_000},
            input={"width": 1280},
            output={"note": "y" * 20_000},
            warnings=["w" * 300] * 10,
        )
        answer, _, _ = decode_answer(encode_answer(detail, detail=True))
        self.assertEqual((answer["parameters"], answer["output"]), ({}, {}))
        self.assertEqual(answer["input"], {"width": 1280})
        self.assertEqual(answer["warnings"], ["w" * 300] * 10)

    def test_a_status_always_has_all_its_keys(self) -> None:
        fields, _, _ = decode_answer(encode_answer(make_report()))
        self.assertEqual(
            set(fields),
            {
                "status",
                "task_id",
                "type",
                "created_at",
                "started_at",
                "completed_at",
                "stage",
                "progress",
                "eta",
                "speed",
                "queue_position",
                "error",
                "error_code",
                "solution",
                "warning_count",
            },
        )
        self.assertIsNone(fields["error"])

    def test_only_known_extras_go_out(self) -> None:
        error = ServiceError(ErrorCode.CONFLICT, "a", "b", offset=5, path="/secret")
        answer = error_answer(error)
        assert isinstance(answer, ErrorAnswer)
        fields, _, _ = decode_answer(encode_answer(answer))
        self.assertEqual(
            fields["error"], {"code": 409, "description": "a", "solution": "b", "offset": 5}
        )


class ClipTests(SynchronousTestCase):
    @PROPERTY
    @given(st.text(max_size=100), st.integers(0, 120))
    def test_never_longer_and_never_half_a_character(self, text: str, length: int) -> None:
        cut = clip(text, length)
        self.assertLessEqual(len(cut.encode()), length)
        if len(text.encode()) <= length:
            self.assertEqual(cut, text)
        else:
            self.assertTrue(text.startswith(cut.removesuffix("…")))


class DecodeObjectTests(SynchronousTestCase):
    def test_nesting_is_bounded(self) -> None:
        """Up to 32 nested objects and lists; brackets in texts do not count."""
        for opening, closing in ((b"[", b"]"), (b'{"a":', b"}")):
            for depth in (1, 30, 31):
                decode_object(b'{"p":' + opening * depth + b"1" + closing * depth + b"}")
            for depth in (32, 33, 981, 20_000):
                if len(opening) * depth > 60_000:
                    continue
                with self.assertRaises(ServiceError) as caught:
                    decode_object(b'{"p":' + opening * depth + b"1" + closing * depth + b"}")
                self.assertEqual(caught.exception.code, ErrorCode.BAD_REQUEST)
        decode_object(b'{"filename":"' + b"[{" * 500 + b'"}')
        decode_object(b'{"a":[' + b"[]," * 500 + b"[]]}")

    def test_an_object(self) -> None:
        self.assertEqual(decode_object(b' {"a": [1, {"b": null}]} '), {"a": [1, {"b": None}]})


class DocumentedJsonTests(SynchronousTestCase):
    """The service accepts and returns the JSON in docs/mmp.md."""

    def blocks(self, kind: str) -> list[bytes]:
        text = (Path(__file__).parents[1] / "docs" / "mmp.md").read_text(encoding="utf-8")
        found = re.findall(rf"^```json {kind}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
        return [line.encode() for block in found for line in block.split("\n\n")]

    def test_requests(self) -> None:
        seen = set()
        for block in self.blocks("request"):
            request = parse_request(block)
            seen.add(type(request))
            if isinstance(request, Upload):
                _, warnings = parse_parameters(request.type, request.parameters)
                self.assertEqual(warnings, [])
        self.assertEqual(seen, {Upload, Status, Download, Watch, Cancel, UploadStatus, List, Info})

    def test_answers(self) -> None:
        # Most specific first: an answer is of the first of these that knows all its keys.
        kinds: list[type[msgspec.Struct]] = [
            StatusDetail,
            StatusReport,
            DownloadStarts,
            ErrorAnswer,
            Accepted,
            Partial,
            Cancelled,
            TaskList,
        ]
        seen = set()
        for block in self.blocks("answer"):
            fields = decode_object(block)
            if "operations" in fields:
                continue
            for kind in kinds:
                known = {field.encode_name for field in msgspec.structs.fields(kind)}
                if set(fields) <= known:
                    try:
                        seen.add(type(msgspec.convert(fields, kind)))
                    except msgspec.ValidationError:
                        continue
                    break
            else:
                self.fail(f"no answer looks like {block.decode()}")
        self.assertEqual(seen, set(kinds))
