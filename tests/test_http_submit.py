"""Plain uploads over HTTP, in memory: POST, PUT and HTML forms."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred

from tests.http_rig import HTTPRig, Response, request
from tests.test_http_connection import HTTPTestCase
from vidproc.files.space import no_space
from vidproc.frontends.http.parameter_values import read_parameters
from vidproc.tasks.model import State, Task
from vidproc.tasks.settings import Settings

GIF = "/api/v1/tasks?type=gif&start_time=0&duration=1"
KEY = "6f2d4a9e-1111-4222-8333-123456789abc"


class SubmitTestCase(HTTPTestCase):
    def task(self, response: Response) -> Task:
        """Return the task named in an answer."""
        self.assertEqual(response.status, 201, response.body)
        task_id = response.json["task_id"]
        location = response.headers["Location"]
        self.assertEqual(location, f"../../api/v1/tasks/{task_id}")
        task = self.rig.store.get(task_id)
        assert task is not None
        return task

    def stored(self, response: Response) -> bytes:
        task = self.task(response)
        assert task.input_key is not None
        return self.rig.storage.path(task.input_key).read_bytes()

    def left(self) -> list[Task]:
        """Return the incomplete uploads."""
        return self.rig.store.in_states([State.UPLOADING, State.PARTIAL])


class PlainTests(SubmitTestCase):
    def test_a_body_becomes_a_task(self) -> None:
        """With POST and with PUT, as curl -T sends."""
        for number, method in enumerate(("POST", "PUT")):
            client = self.rig.http_client(f"192.0.2.{number}")
            response = client.request(method, f"{GIF}&filename=My+film.MP4", b"film")
            self.assertEqual(response.json["status"], "accepted")
            task = self.task(response)
            self.assertEqual(task.parameters, {"start_time": 0, "duration": 1})
            self.assertEqual((task.filename, task.media_type), ("My film.MP4", "mp4"))

    def test_a_chunked_body(self) -> None:
        """Its length is known at its end; an empty one gets 415."""
        head = request("PUT", GIF, Transfer_Encoding="chunked")
        self.client.send(head + b"2\r\nfi\r\n")
        self.client.send(b"2\r\nlm\r\n0\r\n\r\n")
        self.assertEqual(self.stored(self.client.response()), b"film")
        other = self.rig.http_client("192.0.2.2")
        other.send(head + b"0\r\n\r\n")
        self.assert_problem(other.response(), 415)
        self.assertEqual(self.left(), [])

    def test_what_can_be_refused_from_the_head_is_refused_before_the_body(self) -> None:
        """Each gets its status, without waiting for the body."""
        huge = str(1 << 40)
        cases: list[tuple[str, dict[str, Any], int]] = [
            ("/api/v1/tasks", {}, 400),
            ("/api/v1/tasks?type=dance", {}, 400),
            (f"{GIF}&type=webm", {}, 400),
            ("/api/v1/tasks?type=gif", {}, 422),
            ("/api/v1/tasks?type=gif&start_time=0&duration=601", {}, 422),
            (GIF, {"Content_Length": huge}, 413),
            (GIF, {"Idempotency_Key": "mine"}, 400),
            (f"{GIF}&" + "&".join(f"a{n}=1" for n in range(300)), {}, 400),
            (f"{GIF}&x=%ff", {}, 400),
        ]
        for path, headers, status in cases:
            client = self.rig.http_client()
            client.send(request("POST", path, **{"Content_Length": "1000000", **headers}))
            response = client.response()
            self.assert_problem(response, status)
            self.assertTrue(response.closes)
        self.assert_problem(self.client.request("POST", GIF, b""), 415)

    def test_a_body_needs_a_length(self) -> None:
        """Or chunks."""
        self.assert_problem(self.client.request("POST", GIF), 411)

    def test_one_task_an_address(self) -> None:
        """The second one is refused before its body, with Retry-After."""
        self.task(self.client.request("POST", GIF, b"film"))
        other = self.rig.http_client()
        other.send(request("POST", GIF, Content_Length="1000000"))
        response = other.response()
        self.assert_problem(response, 429)
        self.assertGreater(int(response.headers["Retry-After"]), 0)

    def test_a_broken_body_leaves_nothing(self) -> None:
        """Its slot is free at once."""
        broken = self.rig.http_client()
        broken.send(request("POST", GIF, b"film")[:-1])
        self.assertEqual(len(self.left()), 1)
        broken.lose()
        self.assertEqual(self.left(), [])
        self.task(self.client.request("POST", GIF, b"film"))

    def test_what_breaks_an_upload_is_told_even_if_its_body_ends_meanwhile(self) -> None:
        """Freeing the slot takes a moment, during which the rest may arrive."""
        self.client.send(request("POST", GIF, b"film")[:-1])
        (session,) = self.rig.tasks.uploads._sessions
        given_back: Deferred[None] = Deferred()
        abort = session.abort
        self.patch(session, "abort", lambda: given_back)
        session.on_broken(no_space(8))
        self.client.send(b"m")
        self.assertEqual(self.client.written(), b"")
        abort().chainDeferred(given_back)
        self.assert_problem(self.client.response(), 507)
        self.assertEqual(self.left(), [])

    def test_a_body_that_is_longer_than_an_upload_may_be(self) -> None:
        """If it is chunked, that is noticed when it arrives."""
        rig = HTTPRig(Path(self.mktemp()), settings=Settings(max_upload=8))
        self.addCleanup(rig.close)
        client = rig.http_client()
        client.send(request("PUT", GIF, Transfer_Encoding="chunked") + b"9\r\n123456789\r\n")
        response = client.response()
        self.assert_problem(response, 413)
        self.assertTrue(response.closes)


class ExpectTests(SubmitTestCase):
    def test_the_body_is_asked_for_when_the_upload_is_admitted(self) -> None:
        """Not before."""
        self.client.send(request("PUT", GIF, Content_Length="4", Expect="100-continue"))
        self.assertEqual(self.client.written(), b"HTTP/1.1 100 Continue\r\n\r\n")
        self.client.send(b"film")
        self.assertEqual(self.stored(self.client.response()), b"film")

    def test_a_body_that_would_be_refused_is_never_asked_for(self) -> None:
        """The client gets the refusal, and the connection ends, because what follows is unclear."""
        self.client.send(
            request("PUT", "/api/v1/tasks?type=gif", Content_Length="4", Expect="100-continue")
        )
        response = self.client.response()
        self.assert_problem(response, 422)
        self.assertTrue(response.closes)
        self.assertTrue(self.client.transport.ended)

    def test_another_expectation_is_417(self) -> None:
        """It can't be met."""
        response = self.client.request("GET", "/healthz", Expect="wonders")
        self.assert_problem(response, 417)


class IdempotencyTests(SubmitTestCase):
    def send(self, body: bytes, path: str = GIF, **headers: Any) -> Response:
        client = self.rig.http_client()
        return client.request("POST", path, body, Idempotency_Key=KEY, **headers)

    def test_the_same_request_again_gets_the_same_answer(self) -> None:
        """Also with quotes around the key, as in the draft standard."""
        first = self.send(b"film")
        again = self.rig.http_client().request(
            "POST", GIF, b"film", Idempotency_Key=f'"{KEY.upper()}"'
        )
        self.assertEqual(again.status, 201)
        self.assertEqual(again.json, first.json)

    def test_a_broken_one_begins_again_and_replaces_what_had_arrived(self) -> None:
        """From byte 0."""
        broken = self.rig.http_client()
        broken.send(request("POST", GIF, b"0123", Idempotency_Key=KEY)[:-1])
        broken.lose()
        self.assertEqual(self.stored(self.send(b"film")), b"film")

    def test_a_newer_one_takes_over(self) -> None:
        """From one whose client is still sending."""
        older = self.rig.http_client()
        older.send(request("POST", GIF, b"0123", Idempotency_Key=KEY)[:-1])
        self.assertEqual(self.stored(self.send(b"film")), b"film")
        self.assert_problem(older.response(), 409)

    def test_something_else_under_the_same_key_is_422(self) -> None:
        """Another type, other parameters or another size."""
        self.send(b"film")
        for body, path in (
            (b"film", "/api/v1/tasks?type=compress"),
            (b"film", GIF.replace("duration=1", "duration=2")),
            (b"films", GIF),
        ):
            self.assert_problem(self.send(body, path), 422)

    def test_a_chunked_one_is_compared_at_its_end(self) -> None:
        """The same size is the same request."""
        first = self.send(b"film")
        head = request("POST", GIF, Idempotency_Key=KEY, Transfer_Encoding="chunked")
        for body, status in ((b"4\r\nfilm\r\n", 201), (b"3\r\nfil\r\n", 422)):
            client = self.rig.http_client()
            client.send(head)
            self.assertEqual(client.written(), b"")
            client.send(body + b"0\r\n\r\n")
            response = client.response()
            self.assertEqual(response.status, status)
            if status == 201:
                self.assertEqual(response.json, first.json)

    def test_a_chunked_one_of_another_size_than_the_broken_one(self) -> None:
        """It is not the same file."""
        broken = self.rig.http_client()
        broken.send(request("POST", GIF, b"0123", Idempotency_Key=KEY)[:-1])
        broken.lose()
        head = request("POST", GIF, Idempotency_Key=KEY, Transfer_Encoding="chunked")
        self.client.send(head + b"3\r\nfil\r\n0\r\n\r\n")
        self.assert_problem(self.client.response(), 422)

    def test_a_chunked_one_makes_a_task(self) -> None:
        """Its length is known at its end."""
        head = request("POST", GIF, Idempotency_Key=KEY, Transfer_Encoding="chunked")
        self.client.send(head + b"4\r\nfilm\r\n0\r\n\r\n")
        response = self.client.response()
        self.assertEqual(self.stored(response), b"film")
        self.assertEqual(self.send(b"film").json, response.json)

    def test_mmp_and_tus_see_the_same_upload(self) -> None:
        """They share the store."""
        broken = self.rig.http_client()
        broken.send(request("POST", GIF, b"film", Idempotency_Key=KEY)[:-1])
        broken.lose()
        head = self.client.request("HEAD", f"/api/v1/uploads/{KEY}", Tus_Resumable="1.0.0")
        self.assertEqual(head.headers["Upload-Offset"], "3")
        mmp = self.rig.connect()
        ask = {"action": "upload_status", "upload_id": KEY}
        self.assertEqual(mmp.request(ask)[0][0]["offset"], 3)
        upload = {
            "action": "upload",
            "type": "gif",
            "parameters": {"start_time": 0, "duration": 1},
            "upload_id": KEY,
            "size": 4,
            "offset": 3,
        }
        task_id = mmp.request(upload, b"m", "")[0][0]["task_id"]
        self.assertEqual(self.send(b"film").json["task_id"], task_id)


def form(*fields: tuple[str, str], file: bytes | None = b"film", after: bytes = b"") -> bytes:
    """Return the body of a form."""
    parts = [
        f'--X\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in fields
    ]
    if file is not None:
        parts.append(
            b'--X\r\nContent-Disposition: form-data; name="file"; filename="a film.mkv"\r\n'
            b"Content-Type: video/x-matroska\r\n\r\n" + file + b"\r\n"
        )
    return b"".join([*parts, after, b"--X--\r\n"])


FIELDS = (("type", "gif"), ("start_time", "0"), ("duration", "1"))


class FormTests(SubmitTestCase):
    def send(self, body: bytes, content_type: str = "multipart/form-data; boundary=X") -> Response:
        client = self.rig.http_client()
        return client.request("POST", "/api/v1/tasks", body, Content_Type=content_type)

    def test_a_form_becomes_a_task(self) -> None:
        """Its fields are the parameters, its file the video."""
        response = self.send(form(*FIELDS))
        self.assertEqual(self.stored(response), b"film")
        task = self.task(response)
        self.assertEqual(task.parameters, {"start_time": 0, "duration": 1})
        self.assertEqual((task.filename, task.media_type), ("a film.mkv", "mkv"))

    def test_a_form_can_be_repeated(self) -> None:
        """With an Idempotency-Key; its file's size is compared at the end."""
        answers = []
        for file in (b"film", b"film", b"films", b"fil"):
            client = self.rig.http_client()
            data = request(
                "POST",
                "/api/v1/tasks",
                form(*FIELDS, file=file),
                Content_Type="multipart/form-data; boundary=X",
                Idempotency_Key=KEY,
            )
            for piece in (data[:-60], data[-60:], request("GET", "/healthz")):
                client.send(piece)
            answer, following = client.responses()
            self.assertEqual(following.status, 200)
            answers.append(answer)
        self.assertEqual([answer.status for answer in answers], [201, 201, 422, 422])
        self.assertEqual(answers[0].json, answers[1].json)

    def test_byte_by_byte(self) -> None:
        """However it is split; a line that resembles the boundary belongs to the film."""
        film = b"fi\r\n--Xlm\r\n-"
        film = film.replace(b"--X", b"--Y")
        data = request(
            "POST",
            "/api/v1/tasks",
            form(*FIELDS, file=film),
            Content_Type='multipart/form-data; boundary="X"',
        )
        for byte in data:
            self.client.send(bytes([byte]))
        self.assertEqual(self.stored(self.client.response()), film)

    def test_what_is_wrong_with_a_form(self) -> None:
        """Each gets its status, and nothing is left."""
        field = b'--X\r\nContent-Disposition: form-data; name="fps"\r\n\r\n5\r\n'
        for body, status in (
            (form(), 400),
            (form(("type", "gif")), 422),
            (form(*FIELDS, file=None), 400),
            (form(*FIELDS, file=b""), 415),
            (form(*FIELDS, after=field), 400),
            (form(*FIELDS)[:-8], 400),
            (b"no form at all", 400),
            (form(*FIELDS, ("long", "x" * 70000)), 413),
            (form(*(("x", "1") for _ in range(200))), 400),
        ):
            self.assert_problem(self.send(body), status)
            self.assertEqual(self.left(), [])
        self.assert_problem(self.send(form(*FIELDS), "multipart/form-data"), 400)

    def test_the_next_request_is_found_behind_a_refused_form(self) -> None:
        """Whether or not its file has arrived by then."""
        data = request(
            "POST",
            "/api/v1/tasks",
            form(("type", "gif"), file=b"x" * 5000),
            Content_Type="multipart/form-data; boundary=X",
        )
        for cut in (len(data), len(data) - 10, len(data) - 3000):
            client = self.rig.http_client()
            client.send(data[:cut])
            self.assert_problem(client.response(), 422)
            self.assertEqual(client.transport.producerState, "producing")
            client.send(data[cut:] + request("GET", "/healthz"))
            self.assertEqual(client.response().status, 200)

    def test_a_form_that_is_more_than_its_file(self) -> None:
        """Otherwise bytes before the first field or after the last could be endless."""
        head = request(
            "POST",
            "/api/v1/tasks",
            Transfer_Encoding="chunked",
            Content_Type="multipart/form-data; boundary=X",
        )
        junk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
        for begin in (b"", b"%x\r\n%b\r\n" % (len(form(*FIELDS)), form(*FIELDS))):
            client = self.rig.http_client()
            client.send(head + begin)
            for _ in range(20):
                client.send(junk)
            self.assert_problem(client.response(), 413)
            self.assertEqual(self.left(), [])

    def test_a_form_that_breaks_leaves_nothing(self) -> None:
        """Within the fields, and within the file."""
        data = request(
            "POST", "/api/v1/tasks", form(*FIELDS), Content_Type="multipart/form-data; boundary=X"
        )
        for cut in (20, 60):
            client = self.rig.http_client()
            client.send(data[:-cut])
            client.lose()
            self.assertEqual(self.left(), [])


class ParameterTests(SubmitTestCase):
    def test_values_have_the_types_of_their_parameters(self) -> None:
        """As in JSON, so the same upload by MMP counts as the same."""
        for operation, pairs, values in (
            ("gif", [("start_time", "1.5"), ("fps", "12")], {"start_time": 1.5, "fps": 12}),
            ("gif", [("start_time", "00:01:00.5")], {"start_time": "00:01:00.5"}),
            ("aspect_ratio", [("aspect_ratio", "16:9")], {"aspect_ratio": "16:9"}),
            ("extract_audio", [("track", "2")], {"track": 2}),
            ("extract_audio", [("track", "en")], {"track": "en"}),
            ("resolution", [("width", "640"), ("width", "320")], {"width": [640, 320]}),
            ("resolution", [("width", "wide")], {"width": "wide"}),
            ("compress", [("plays", "h264"), ("plays", "")], {"plays": ["h264"]}),
            ("compress", [("unknown", "5")], {"unknown": "5"}),
            ("gif", [("start_time", "0"), ("fps", ""), ("width", " ")], {"start_time": 0}),
            ("dance", [("steps", "5")], {"steps": "5"}),
        ):
            self.assertEqual(read_parameters(operation, pairs), values)

    def test_an_unknown_one_is_warned_of(self) -> None:
        """As for MMP."""
        task = self.task(self.client.request("POST", f"{GIF}&speed=2", b"film"))
        self.assertIn("speed", task.warnings[0])
