"""HTTP connections: which requests they accept, in which order, and how they end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from tests.http_rig import HTTPClient, HTTPRig, request
from tests.rig import ByHand
from vidproc.errors import ErrorCode, ServiceError
from vidproc.frontends.http.connection import LINGER_TIME
from vidproc.frontends.throttle import LEAST_RATE
from vidproc.frontends.tokens import Tokens
from vidproc.tasks.model import State


class HTTPTestCase(SynchronousTestCase):
    http: dict[str, Any] = {}
    options: dict[str, Any] = {}

    def setUp(self) -> None:
        self.rig = HTTPRig(Path(self.mktemp()), http=self.http, **self.options)
        self.addCleanup(self.rig.close)
        self.client: HTTPClient = self.rig.http_client()

    def assert_problem(self, response: Any, status: int) -> None:
        self.assertEqual(response.status, status)
        self.assertEqual(response.headers["Content-Type"], "application/problem+json")
        self.assertRegex(response.headers["X-Request-Id"], r"\A[0-9a-f]{16}\Z")
        problem = response.json
        self.assertEqual(problem["status"], status)
        self.assertEqual(problem["type"], "about:blank")
        for key in ("title", "detail", "solution"):
            self.assertTrue(problem[key], key)


class RequestTests(HTTPTestCase):
    def test_health(self) -> None:
        """A server that answers is alive."""
        response = self.client.request("GET", "/healthz")
        self.assertEqual((response.status, response.json), (200, {"status": "ok"}))

    def test_info_is_the_long_form(self) -> None:
        """It has the schema of each parameter."""
        info = self.client.request("GET", "/api/v1/info").json
        self.assertEqual(info["operations"]["gif"]["fps"]["maximum"], 50)

    def test_head_is_served_wherever_get_is(self) -> None:
        """The same head, without the body."""
        got = self.client.request("GET", "/healthz")
        head = self.client.request("HEAD", "/healthz")
        self.assertEqual(head.status, 200)
        self.assertEqual(head.headers["Content-Length"], str(len(got.body)))
        self.assertEqual(head.rest, b"")

    def test_an_unknown_path_is_404(self) -> None:
        """The answer is a problem document with a solution."""
        self.assert_problem(self.client.request("GET", "/nothing"), 404)

    def test_a_method_that_a_path_lacks_is_405(self) -> None:
        """The answer lists the methods of the path."""
        response = self.client.request("DELETE", "/healthz")
        self.assert_problem(response, 405)
        self.assertEqual(response.headers["Allow"], "GET, HEAD, OPTIONS")

    def test_options_tell_the_methods(self) -> None:
        """Without a token or a body."""
        response = self.client.request("OPTIONS", "/healthz")
        self.assertEqual((response.status, response.headers["Allow"]), (204, "GET, HEAD, OPTIONS"))

    def test_pipelined_requests_are_answered_in_order(self) -> None:
        """One at a time, even if a hundred arrive together."""
        paths = ["/healthz", "/nothing"] * 50
        self.client.send(b"".join(request("GET", path) for path in paths))
        while self.rig.clock.getDelayedCalls() and len(self.client.transport.value()) < 1 << 20:
            before = self.client.transport.value().count(b"HTTP/1.1 ")
            self.rig.clock.advance(0)
            if self.client.transport.value().count(b"HTTP/1.1 ") == before:
                break
        statuses = [response.status for response in self.client.responses()]
        self.assertEqual(statuses, [200, 404] * 50)


class HeadTests(HTTPTestCase):
    def test_byte_by_byte(self) -> None:
        """However the bytes are split."""
        for byte in request("GET", "/healthz"):
            self.client.send(bytes([byte]))
        self.assertEqual(self.client.response().status, 200)

    def test_the_whole_url_as_the_target(self) -> None:
        """As sent to proxies. The host in it counts."""
        self.assertEqual(self.client.request("GET", "http://localhost/healthz").status, 200)
        response = self.client.request("GET", "http://evil.example/healthz")
        self.assert_problem(response, 421)

    def test_http_1_0(self) -> None:
        """It is answered, and the connection ends."""
        self.client.send(b"GET /healthz HTTP/1.0\r\n\r\n")
        response = self.client.response()
        self.assertEqual((response.status, response.closes), (200, True))
        self.assertTrue(self.client.transport.ended)

    def test_connection_close(self) -> None:
        """In upper or lower case, and among other values."""
        self.client.send(request("GET", "/healthz", Connection="Foo, CLOSE"))
        self.assertTrue(self.client.response().closes)
        self.assertTrue(self.client.transport.ended)

    def test_what_is_not_http_is_400_at_once(self) -> None:
        """MMP, TLS and noise get a problem document, and the connection ends."""
        for data in (
            b"\x00\x17\x00\x00\x00\x00\x00\x00" + b'{"action":"info"}\r\n',
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n",
            b"GET /healthz\r\n",
            b"GET  /healthz HTTP/1.1\r\n",
            b"G\x00T /healthz HTTP/1.1\r\n",
            b"GET /healthz HTTP/1.1\r\nno colon\r\n\r\n",
            b"GET /healthz HTTP/1.1\r\n Folded: first\r\n\r\n",
            b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: folded\r\n Content-Length: 5\r\n\r\n",
            b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length:\r\n\t5\r\n\r\nhello",
            b"GET /healthz HTTP/1.1\r\nHost : localhost\r\n\r\n",
            b"GET /healthz HTTP/1.1\r\nHost: local\x00host\r\n\r\n",
            b"GET /healthz HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
            b"GET /healthz HTTP/1.1\r\n\r\n",
            b"GET healthz HTTP/1.1\r\nHost: localhost\r\n\r\n",
        ):
            client = self.rig.http_client()
            client.send(data)
            self.assert_problem(client.response(), 400)
        client.send(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")

    def test_what_cannot_become_a_request_is_400_before_a_line_ends(self) -> None:
        """TLS, noise and lines that end with LF alone need not wait for the idle timeout."""
        healthz = request("GET", "/healthz")
        for data in (
            b"\x16\x03\x01",
            b"\x80\x2e\x01\x00\x02",
            b"\x00\x17\x00\x00\x00\x00\x00\x00" + b'{"action":"info"}',
            b"hello\n",
            b"GET /healthz HTTP/1.1\nHost: localhost\n\n",
            b"GET /healthz HTTP/1.1\rHost: localhost\r\r",
            b"GET /healthz HTTP/1.1\r\nHost: localhost\n\n",
            b"GET /healthz HTTP/1.1\r\nHost: local\0host",
            healthz + b"\n\n",
            healthz + healthz.replace(b"\r", b""),
        ):
            for parts in ([data], [data[i : i + 1] for i in range(len(data))]):
                client = self.rig.http_client()
                for part in parts:
                    client.send(part)
                *before, last = client.responses()
                self.assert_problem(last, 400)
                self.assertEqual(len(before), data.startswith(healthz), data)
                self.assertTrue(client.transport.ended)

    def test_headers_that_are_not_utf8_are_no_fault_of_ours(self) -> None:
        """In any header."""
        for header in (b"Host", b"Connection", b"Expect", b"Origin", b"X-Forwarded-For", b"Cookie"):
            client = self.rig.http_client()
            data = request("GET", "/healthz")
            if header == b"Host":
                data = data.replace(b"localhost", b"\xff\xfe")
            else:
                data = data[:-2] + header + b": \xff\xfe\r\n\r\n"
            client.send(data)
            self.assertIn(client.response().status, (200, 400, 403, 417, 421), header)
        for header in (b"Upload-Metadata", b"Upload-Length", b"Idempotency-Key", b"Content-Type"):
            client = self.rig.http_client()
            data = request("POST", "/api/v1/uploads", Tus_Resumable="1.0.0", Upload_Length="5")
            client.send(data[:-2] + header + b": \xff\xfe\r\n\r\n")
            self.assert_problem(client.response(), 400)

    def test_another_version_is_505(self) -> None:
        """HTTP/2 without TLS, too."""
        for line in (b"GET / HTTP/3.0\r\n", b"PRI * HTTP/2.0\r\n"):
            client = self.rig.http_client()
            client.send(line)
            self.assert_problem(client.response(), 505)
            self.assertTrue(client.transport.ended)

    def test_a_long_url_is_414(self) -> None:
        """Even if its end has not arrived."""
        for data in (
            request("GET", "/" + "x" * 9000),
            b"GET /" + b"x" * 17000,
            b"GET /" + b"x" * 8200,
        ):
            client = self.rig.http_client()
            client.send(data)
            self.assert_problem(client.response(), 414)
            self.assertTrue(client.transport.ended)

    def test_a_long_head_is_431(self) -> None:
        """One long header, too many headers, too many bytes, or a line without an end."""
        cases: list[dict[str, Any]] = [
            {"X": "x" * 17000},
            {f"X{number}": "x" for number in range(101)},
            {f"X{number}": "x" * 4000 for number in range(10)},
        ]
        for headers in cases:
            client = self.rig.http_client()
            client.send(request("GET", "/healthz", **headers))
            self.assert_problem(client.response(), 431)
            self.assertTrue(client.transport.ended)
        client = self.rig.http_client()
        client.send(b"GET /healthz HTTP/1.1\r\nX: " + b"x" * 17000)
        self.assert_problem(client.response(), 431)

    def test_many_headers_are_fine(self) -> None:
        """As many as browsers and proxies send are accepted."""
        headers: Any = {f"X{number}": "x" * 200 for number in range(90)}
        self.assertEqual(self.client.request("GET", "/healthz", **headers).status, 200)

    def test_a_slow_head_is_408(self) -> None:
        """Sent byte by byte, it has 20 s from its first byte."""
        self.rig.clock.advance(30)
        data = request("GET", "/healthz")
        for number in range(19):
            self.client.send(data[number : number + 1])
            self.rig.clock.advance(1)
        self.assertEqual(self.client.written(), b"")
        self.rig.clock.advance(2)
        response = self.client.response()
        self.assert_problem(response, 408)
        self.assertTrue(self.client.transport.ended)

    def test_a_connection_that_says_nothing_is_closed(self) -> None:
        """Before the first request and between requests, without an answer."""
        self.client.request("GET", "/healthz")
        self.rig.clock.pump([10] * 7)
        self.assertEqual(self.client.written(), b"")
        self.assertTrue(self.client.transport.aborted)


GIF = "/api/v1/tasks?type=gif&start_time=0&duration=1"


class BodyTests(HTTPTestCase):
    def test_unclear_lengths_are_400(self) -> None:
        """Two lengths, a length and chunks, or malformed lengths; the connection ends."""
        for lines in (
            b"Content-Length: 4\r\nContent-Length: 5\r\n",
            b"Content-Length: 4\r\nContent-Length: 4\r\n",
            b"Content-Length: 4, 5\r\n",
            b"Content-Length: -4\r\n",
            b"Content-Length: +4\r\n",
            b"Content-Length: 0x4\r\n",
            b"Content-Length: " + b"9" * 5000 + b"\r\n",
            b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
            b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n",
            b"Transfer-Encoding: gzip, chunked\r\n",
            b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            b"Transfer-Encoding: identity\r\nContent-Length: 4\r\n",
            b"Transfer-Encoding: \x0bchunked\r\n",
        ):
            client = self.rig.http_client()
            client.send(request("POST", GIF)[:-2] + lines + b"\r\nfilm")
            self.assert_problem(client.response(), 400)
            self.assertTrue(client.transport.ended, lines)
        client = self.rig.http_client()
        client.send(f"POST {GIF} HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        self.assert_problem(client.response(), 400)

    def test_bad_chunks_are_400_and_leave_nothing(self) -> None:
        """Whatever is wrong with them."""
        head = request("POST", GIF, Transfer_Encoding="chunked")
        for chunks in (
            b"x\r\n",
            b"-1\r\n",
            b"0x4\r\nfilm\r\n",
            b"4\r\nfilms\r\n",
            b"4;" + b"a=b;" * 10_000,
            b"4;\x00\r\nfilm\r\n",
            b"0\r\n" + b"X: y\r\n" * 20_000,
        ):
            client = self.rig.http_client()
            client.send(head + chunks)
            self.assert_problem(client.response(), 400)
            self.assertTrue(client.transport.ended)
            self.assertEqual(self.rig.store.in_states([State.UPLOADING]), [])

    def test_ten_thousand_chunks_that_are_nothing_but_extensions(self) -> None:
        """Their overhead is larger than their data."""
        self.client.send(request("POST", GIF, Transfer_Encoding="chunked"))
        chunk = b"1;" + b"a" * 900 + b"\r\nx\r\n"
        for _ in range(1000):
            self.client.send(chunk * 10)
            if self.client.transport.ended:
                break
        self.assert_problem(self.client.response(), 400)

    def test_small_chunks_are_fine(self) -> None:
        """A client may send each line of a file as a chunk."""
        self.client.send(request("POST", GIF, Transfer_Encoding="chunked"))
        self.client.send(b"8\r\n12345678\r\n" * 20_000 + b"0\r\n\r\n")
        self.assertEqual(self.client.response().status, 201)

    def test_a_compressed_body_is_415(self) -> None:
        """It would be taken for a film."""
        response = self.client.request("POST", GIF, b"film", Content_Encoding="gzip")
        self.assert_problem(response, 415)
        self.assertEqual(response.headers["Accept-Encoding"], "identity")

    def test_http_1_0_is_not_told_to_continue(self) -> None:
        """It would mistake that for the answer."""
        data = request("POST", GIF, b"film", Expect="100-continue")
        self.client.send(data.replace(b"HTTP/1.1", b"HTTP/1.0"))
        self.assertEqual(self.client.response().status, 201)

    def test_an_unwanted_body_is_discarded(self) -> None:
        """The next request follows it; a long body ends the connection."""
        self.client.send(request("GET", "/healthz", b"x" * 60_000) + request("GET", "/nothing"))
        self.assertEqual([r.status for r in self.client.responses()], [200, 404])
        self.client.send(request("GET", "/healthz", Content_Length="1000000"))
        response = self.client.response()
        self.assert_problem(response, 413)
        self.assertTrue(response.closes)

    def test_a_small_body_of_a_refused_request_keeps_the_connection(self) -> None:
        """The answer does not wait for it."""
        data = request("POST", "/api/v1/tasks?type=gif", b"x" * 1000)
        self.client.send(data[:-500])
        self.assert_problem(self.client.response(), 422)
        self.client.send(data[-500:] + request("GET", "/healthz"))
        self.assertEqual(self.client.response().status, 200)

    def test_a_refusal_stays_readable_while_the_client_sends(self) -> None:
        """The rest is read and discarded, for a limited time."""
        self.client.send(request("POST", "/api/v1/tasks?type=gif", Content_Length=str(1 << 30)))
        response = self.client.response()
        self.assert_problem(response, 422)
        self.assertTrue(response.closes)
        self.assertTrue(self.client.transport.write_closed)
        for _ in range(20):
            self.client.send(bytes(1 << 20))
            self.rig.clock.advance(1)
            self.assertFalse(self.client.transport.aborted)
        self.rig.clock.advance(11)
        self.assertTrue(self.client.transport.aborted)

    def test_a_client_that_ends_after_a_refusal_is_let_go(self) -> None:
        """At once."""
        self.client.send(request("POST", "/api/v1/tasks?type=gif", Content_Length=str(1 << 30)))
        self.client.half_close()
        self.assertTrue(self.client.transport.disconnecting)

    def test_a_body_that_came_before_the_refusal_does_not_hold_the_next_request_up(self) -> None:
        """Head and body arrive as one, and the answer waits for the store."""
        asked: Deferred[None] = Deferred()

        async def admit(*_: Any) -> None:
            await asked
            raise ServiceError(ErrorCode.TOO_MANY, "No.", "Wait.")

        self.patch(self.rig.tasks, "admit", admit)
        self.client.send(request("POST", "/api/v1/tasks?type=compress", b"film"))
        asked.callback(None)
        self.assert_problem(self.client.response(), 429)
        self.assertEqual(self.client.transport.producerState, "producing")
        self.assertEqual(self.client.request("GET", "/healthz").status, 200)

    def test_an_idle_connection_is_closed_in_good_order(self) -> None:
        """After the idle timeout: to a client, a reset looks like a fault."""
        self.client.request("GET", "/healthz")
        self.rig.clock.pump([10] * 6)
        self.assertTrue(self.client.transport.ended)
        self.assertFalse(self.client.transport.aborted)
        self.rig.clock.advance(LINGER_TIME)
        self.assertTrue(self.client.transport.aborted)

    def test_a_silent_body_is_408(self) -> None:
        """After the idle timeout."""
        self.client.send(request("POST", GIF, Content_Length="1000") + b"film")
        self.rig.clock.pump([10] * 5)
        self.assertEqual(self.client.written(), b"")
        self.rig.clock.pump([10] * 2)
        self.assert_problem(self.client.response(), 408)
        self.assertEqual(self.rig.store.in_states([State.UPLOADING]), [])

    def test_a_slow_body_is_408(self) -> None:
        """Less than 1,024 bytes a second over the idle timeout."""
        self.client.send(request("POST", GIF, Content_Length="1000000"))
        for _ in range(130):
            self.client.send(b"x" * 500)
            self.rig.clock.advance(1)
            if self.client.transport.ended:
                break
        self.assert_problem(self.client.response(), 408)

    def test_a_body_gives_way_to_video(self) -> None:
        """It pauses when it is ahead of its share of the limit on uploads."""
        self.rig.gate.throttle.limit(LEAST_RATE)
        self.client.send(request("POST", GIF, Content_Length=str(1 << 30)))
        self.client.send(bytes(int(2 * LEAST_RATE)))
        self.assertEqual(self.client.transport.producerState, "paused")
        self.rig.clock.advance(2.1)
        self.assertEqual(self.client.transport.producerState, "producing")

    def test_a_body_pauses_while_the_disk_lags(self) -> None:
        """It continues when the disk has caught up."""
        disk = ByHand()
        self.rig.tasks.uploads._writers = disk
        self.client.send(request("POST", GIF, Content_Length=str(8 << 20)))
        self.client.send(bytes(6 << 20))
        self.assertEqual(self.client.transport.producerState, "paused")
        self.rig.clock.advance(200)  # this is not the client's fault
        disk.run_all()
        self.assertEqual(self.client.transport.producerState, "producing")
        self.client.send(bytes(2 << 20))
        disk.run_all()
        self.assertEqual(self.client.response().status, 201)


class OrderTests(HTTPTestCase):
    def test_requests_behind_an_upload_wait_for_its_answer(self) -> None:
        """One at a time, in order."""
        self.client.send(
            request("POST", GIF, b"film") + request("GET", "/healthz") + request("GET", "/nothing")
        )
        self.assertEqual([r.status for r in self.client.responses()], [201, 200, 404])

    def test_a_client_that_sends_ahead_is_paused(self) -> None:
        """While its request is answered, nothing accumulates."""
        self.hold_answers()
        self.client.send(self.ask())
        for _ in range(40):
            self.client.send(request("GET", "/healthz") * 20)
            if self.client.transport.producerState == "paused":
                break
        self.assertEqual(self.client.transport.producerState, "paused")
        self.thread.run_all()
        for _ in range(100):
            self.rig.clock.advance(0)
        self.assertEqual(self.client.transport.producerState, "producing")
        self.assertEqual({r.status for r in self.client.responses()[1:]}, {200})

    def hold_answers(self) -> None:
        """Let the store answer when the test says so."""
        self.thread = ByHand()
        self.rig.tasks.uploads.known._in_store = self.thread.call

    def ask(self) -> bytes:
        return request("DELETE", "/api/v1/uploads/x", Tus_Resumable="1.0.0")

    def test_many_pipelined_requests_leave_others_their_turn(self) -> None:
        """Sixteen at a time."""
        self.client.send(request("GET", "/healthz") * 100)
        self.assertEqual(len(self.client.responses()), 16)
        self.rig.clock.advance(0)
        self.assertEqual(len(self.client.responses()), 84)

    def test_a_client_that_has_closed_its_sending_side_gets_its_answers(self) -> None:
        """All of them, then the end."""
        self.client.send(request("POST", GIF, b"film") + request("GET", "/healthz") * 20)
        self.client.half_close()
        for _ in range(3):
            self.rig.clock.advance(0)
        statuses = [r.status for r in self.client.responses()]
        self.assertEqual(statuses, [201] + [200] * 20)
        self.assertTrue(self.client.transport.disconnecting)

    def test_a_client_that_closes_within_a_request(self) -> None:
        """Within a head there is no answer; within a body there is an error."""
        self.client.send(request("GET", "/healthz")[:-2])
        self.client.half_close()
        self.assertTrue(self.client.transport.ended)
        other = self.rig.http_client()
        other.send(request("POST", GIF, b"film")[:-1])
        other.half_close()
        self.assert_problem(other.response(), 400)
        self.assertEqual(self.rig.store.in_states([State.UPLOADING]), [])

    def test_a_client_that_goes_while_it_is_answered(self) -> None:
        """Its answer is dropped, and no fault is logged."""
        self.hold_answers()
        self.client.send(self.ask())
        self.client.lose()
        self.thread.run_all()
        self.assertEqual(self.client.written(), b"")
        self.assertEqual(self.rig.gate.connections, 0)

    def test_a_client_that_does_not_read_is_cut_off(self) -> None:
        """After twice the idle timeout."""
        self.client.send(request("GET", "/healthz"))
        self.client.connection.pauseProducing()
        self.rig.clock.pump([30] * 3)
        self.assertFalse(self.client.transport.aborted)
        self.rig.clock.pump([30] * 3)
        self.assertTrue(self.client.transport.aborted)


class GateTests(HTTPTestCase):
    options: dict[str, Any] = {"max_connections": 3, "max_connections_per_ip": 2}

    def test_too_many_connections_of_an_address_are_429(self) -> None:
        """MMP connections count, too."""
        self.rig.connect("192.0.2.1")
        third = self.rig.http_client()
        response = third.response()
        self.assert_problem(response, 429)
        self.assertTrue(third.transport.ended)
        self.assertIsNotNone(response.headers["Retry-After"])

    def test_too_many_connections_in_all_are_503(self) -> None:
        """With Retry-After."""
        for number in (2, 3):
            self.rig.http_client(f"192.0.2.{number}")
        response = self.rig.http_client("192.0.2.4").response()
        self.assert_problem(response, 503)

    def test_bytes_are_counted(self) -> None:
        """In both directions, each byte once."""
        data = request("POST", GIF, b"film") + request("GET", "/healthz")
        self.client.send(data)
        self.assertEqual(self.rig.gate.traffic.received, len(data))
        self.assertEqual(self.rig.gate.traffic.sent, len(self.client.written()))

    def test_a_stop_closes_idle_connections_and_waits_for_uploads(self) -> None:
        """The upload is finished and answered, then its connection is closed."""
        busy = self.rig.http_client()
        busy.send(request("POST", GIF, b"film")[:-1])
        self.assertEqual(self.rig.gate.transferring, 1)
        drained = self.rig.gate.drain(30)
        self.assertTrue(self.client.transport.ended)
        self.assertFalse(busy.transport.ended)
        busy.send(b"m")
        response = busy.response()
        self.assertEqual((response.status, response.closes), (201, True))
        self.assertTrue(busy.transport.ended)
        for client in (self.client, busy):
            client.lose()
        self.successResultOf(drained)

    def test_a_stop_lets_an_answer_leave(self) -> None:
        """A request that is being answered gets its answer."""
        thread = ByHand()
        self.rig.tasks.uploads.known._in_store = thread.call
        self.client.send(request("HEAD", "/api/v1/uploads/x", Tus_Resumable="1.0.0"))
        self.rig.gate.drain(30)
        self.assertFalse(self.client.transport.ended)
        thread.run_all()
        response = self.client.response(head_only=True)
        self.assertEqual((response.status, response.closes), (404, True))
        self.assertTrue(self.client.transport.ended)

    def test_a_fault_of_ours_is_500_with_a_reference(self) -> None:
        """The log has the same reference."""

        def fail(*_: Any) -> Any:
            raise RuntimeError("a bug")

        self.rig.tasks.uploads.known._in_store = fail
        response = self.client.request("DELETE", "/api/v1/uploads/x", Tus_Resumable="1.0.0")
        self.assert_problem(response, 500)
        self.assertNotIn("a bug", response.body.decode())
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
        self.assertEqual(self.client.request("GET", "/healthz").status, 200)


class TokenTests(HTTPTestCase):
    options: dict[str, Any] = {"tokens": Tokens({"ann": "secret"})}

    def test_a_token_is_needed(self) -> None:
        """In its header; otherwise 401 names the header."""
        for header in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic secret"}):
            for method, path in (("GET", "/api/v1/info"), ("POST", GIF)):
                response = self.client.request(method, path, b"", **header)
                self.assert_problem(response, 401)
                self.assertEqual(response.headers["WWW-Authenticate"], "Bearer")
                self.assertIn("Authorization: Bearer", response.json["solution"])
        self.rig.gate.tokens = Tokens({"ann": "secret", "zoé": "schlüssel"})
        for value in ("Bearer secret", "bearer  secret", "Bearer schlüssel"):
            response = self.client.request("GET", "/api/v1/info", Authorization=value)
            self.assertEqual(response.status, 200)

    def test_what_needs_none(self) -> None:
        """Health checks and preflights."""
        for method, path in (
            ("GET", "/healthz"),
            ("GET", "/readyz"),
            ("OPTIONS", "/api/v1/tasks"),
            ("OPTIONS", "/api/v1/uploads"),
            ("OPTIONS", "*"),
        ):
            self.assertLess(self.client.request(method, path).status, 300, path)
