"""Uploads by tus, in memory."""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from typing import Any

from twisted.internet.defer import ensureDeferred

from tests.http_rig import HTTPClient, Response, request
from tests.test_http_connection import HTTPTestCase
from vidproc.tasks.model import State
from vidproc.tasks.settings import Settings

TUS: dict[str, Any] = {"Tus_Resumable": "1.0.0"}
OFFSET_TYPE = "application/offset+octet-stream"
GIF = {"start_time": 0, "duration": 1}


def metadata(**values: str) -> str:
    pairs = {"type": "gif", "parameters": json.dumps(GIF)} | values
    return ",".join(f"{k} {base64.b64encode(v.encode()).decode()}" for k, v in pairs.items())


class TusTestCase(HTTPTestCase):
    def create(
        self, length: int | None = 8, client: HTTPClient | None = None, **headers: Any
    ) -> str:
        """Create an upload and return its path."""
        size = (
            {"Upload_Length": str(length)} if length is not None else {"Upload_Defer_Length": "1"}
        )
        response = (client or self.client).request(
            "POST",
            "/api/v1/uploads",
            **{**TUS, **size, "Upload_Metadata": metadata(), "Content_Length": "0", **headers},
        )
        self.assertEqual(response.status, 201, response.body)
        location = response.headers["Location"]
        self.assertFalse(location.startswith(("/", "http")), location)
        return "/" + location.removeprefix("../../")

    def patch_request(self, path: str, offset: int, body: bytes, **headers: Any) -> bytes:
        values: Any = {**TUS, "Content_Type": OFFSET_TYPE, "Upload_Offset": str(offset), **headers}
        return request("PATCH", path, body, **values)

    def append(
        self, path: str, offset: int, body: bytes, client: HTTPClient | None = None, **headers: Any
    ) -> Response:
        client = client or self.client
        client.send(self.patch_request(path, offset, body, **headers))
        return client.response()

    def head(self, path: str, client: HTTPClient | None = None) -> Response:
        return (client or self.client).request("HEAD", path, **TUS)

    def offset(self, path: str) -> int:
        return int(self.head(path).headers["Upload-Offset"])

    def stored(self, task_id: str) -> bytes:
        """Return the bytes of an accepted task's input."""
        task = self.rig.store.get(task_id)
        assert task is not None
        assert task.input_key is not None
        return self.rig.storage.path(task.input_key).read_bytes()


class CreationTests(TusTestCase):
    def test_options_tell_what_there_is(self) -> None:
        """Both for the collection and an upload, even without Tus-Resumable."""
        for path in ("/api/v1/uploads", "/api/v1/uploads/x", "/api/v1/uploads/"):
            response = self.client.request("OPTIONS", path)
            self.assertEqual(response.status, 204)
            self.assertEqual(response.headers["Tus-Resumable"], "1.0.0")
            self.assertEqual(response.headers["Tus-Version"], "1.0.0")
            self.assertEqual(response.headers["Tus-Max-Size"], str(64 << 30))
            self.assertEqual(
                response.headers["Tus-Extension"],
                "creation,creation-with-upload,creation-defer-length,checksum,termination,expiration",
            )
            self.assertEqual(response.headers["Tus-Checksum-Algorithm"], "sha1,sha256,crc32")

    def test_other_versions_of_tus_are_412(self) -> None:
        """The answer has the supported version. A request without a version gets 412, too."""
        versions: list[dict[str, Any]] = [{}, {"Tus_Resumable": "0.2.2"}]
        for headers in versions:
            for method in ("POST", "HEAD", "PATCH", "DELETE"):
                path = "/api/v1/uploads" + ("" if method == "POST" else "/x")
                response = self.client.request(method, path, **headers)
                self.assertEqual(response.status, 412, method)
                self.assertEqual(response.headers["Tus-Version"], "1.0.0")
                self.assertEqual(response.headers["Tus-Resumable"], "1.0.0")

    def test_a_new_upload_has_no_bytes_no_slot_and_an_end(self) -> None:
        """Its HEAD returns what was given at its creation."""
        path = self.create(8)
        response = self.head(path)
        self.assertEqual(response.status, 200)
        self.assertEqual(response.headers["Upload-Offset"], "0")
        self.assertEqual(response.headers["Upload-Length"], "8")
        self.assertEqual(response.headers["Upload-Metadata"], metadata())
        self.assertEqual(response.headers["Cache-Control"], "no-store")
        self.assertIn("GMT", response.headers["Upload-Expires"])
        self.assertIsNone(response.headers["Vidproc-Task"])
        other = self.rig.http_client()
        done = other.request("POST", "/api/v1/tasks?type=gif&start_time=0&duration=1", b"film")
        self.assertEqual(done.status, 201)

    def test_the_location_is_relative_whatever_the_path(self) -> None:
        """Even from a path with a slash at its end it leads to the same URL."""
        response = self.client.request(
            "POST", "/api/v1/uploads/", Upload_Length="8", Upload_Metadata=metadata(), **TUS
        )
        self.assertTrue(response.headers["Location"].startswith("../../../api/v1/uploads/"))

    def test_what_is_wrong_with_a_creation(self) -> None:
        """Each gets its status."""
        long = str((64 << 30) + 1)
        headers: dict[str, Any]
        for headers, status in (
            ({}, 400),
            ({"Upload_Length": "x"}, 400),
            ({"Upload_Length": "-1"}, 400),
            ({"Upload_Length": "8", "Upload_Defer_Length": "1"}, 400),
            ({"Upload_Defer_Length": "2"}, 400),
            ({"Upload_Length": "0"}, 415),
            ({"Upload_Length": long}, 413),
            ({"Upload_Length": "8", "Upload_Metadata": ""}, 400),
            ({"Upload_Length": "8", "Upload_Metadata": "type ???"}, 400),
            ({"Upload_Length": "8", "Upload_Metadata": metadata(type="dance")}, 400),
            ({"Upload_Length": "8", "Upload_Metadata": metadata(parameters="[]")}, 400),
            ({"Upload_Length": "8", "Upload_Metadata": metadata(parameters="{}")}, 422),
            ({"Upload_Length": "8", "Upload_Metadata": metadata(sha256="12")}, 400),
            ({"Upload_Length": "8", "Upload_Concat": "partial"}, 400),
        ):
            values: Any = {**TUS, "Upload_Metadata": metadata(), **headers}
            response = self.client.request("POST", "/api/v1/uploads", **values)
            self.assertEqual(response.status, status, headers)
            self.assert_problem(response, status)

    def test_the_body_can_come_with_the_creation(self) -> None:
        """All of it or a part."""
        values: Any = {**TUS, "Upload_Metadata": metadata(), "Content_Type": OFFSET_TYPE}
        response = self.client.request(
            "POST", "/api/v1/uploads", b"abc", Upload_Length="8", **values
        )
        self.assertEqual((response.status, response.headers["Upload-Offset"]), (201, "3"))
        path = "/" + response.headers["Location"].removeprefix("../../")
        self.assertEqual(self.append(path, 3, b"defgh").headers["Upload-Offset"], "8")
        other = self.rig.http_client("192.0.2.2")
        response = other.request("POST", "/api/v1/uploads", b"abc", Upload_Length="3", **values)
        self.assertEqual(response.status, 201)
        self.assertEqual(response.json["task_id"], response.headers["Vidproc-Task"])
        self.assertEqual(self.stored(response.headers["Vidproc-Task"]), b"abc")

    def test_a_creation_with_an_idempotency_key_is_the_same_upload_again(self) -> None:
        """So a client that did not get the answer finds its upload."""
        key = "6f2d4a9e-1111-4222-8333-123456789abc"
        first = self.create(8, Idempotency_Key=key)
        self.assertEqual(self.create(8, Idempotency_Key=key), first)
        self.assertTrue(first.endswith(key))


class AppendTests(TusTestCase):
    def test_parts_make_a_task(self) -> None:
        """The answer to the last one names the task, and so does HEAD from then on."""
        path = self.create(8)
        first = self.append(path, 0, b"abc")
        self.assertEqual((first.status, first.headers["Upload-Offset"]), (204, "3"))
        self.assertIn("GMT", first.headers["Upload-Expires"])
        last = self.append(path, 3, b"defgh")
        self.assertEqual((last.status, last.headers["Upload-Offset"]), (204, "8"))
        task_id = last.headers["Vidproc-Task"]
        self.assertEqual(self.stored(task_id), b"abcdefgh")
        head = self.head(path)
        self.assertEqual(head.headers["Vidproc-Task"], task_id)
        self.assertEqual(head.headers["Upload-Offset"], "8")

    def test_a_part_in_chunks(self) -> None:
        """Its length is known at its end."""
        path = self.create(8)
        head = self.patch_request(path, 0, b"", Content_Length="").replace(
            b"Content-Length: \r\n", b"Transfer-Encoding: chunked\r\n"
        )
        self.client.send(head + b"3\r\nabc\r\n2;name=value\r\nde\r\n0\r\n\r\n")
        response = self.client.response()
        self.assertEqual(response.headers["Upload-Offset"], "5", response.body)

    def test_a_wrong_offset_is_409_and_keeps_what_there_is(self) -> None:
        """The answer names the right one."""
        path = self.create(8)
        self.append(path, 0, b"abc")
        for offset in (0, 2, 4, 8, 9, 9999):
            response = self.append(path, offset, b"de")
            self.assert_problem(response, 409)
            self.assertEqual(response.json["offset"], 3)
        self.assertEqual(self.offset(path), 3)

    def test_what_is_wrong_with_a_patch(self) -> None:
        """Each gets its status."""
        path = self.create(8)
        cases: list[tuple[dict[str, Any], int]] = [
            ({"Content_Type": "application/octet-stream"}, 415),
            ({"Upload_Offset": "x"}, 400),
            ({"Upload_Checksum": "md5 AAAA"}, 400),
            ({"Upload_Checksum": "sha1"}, 400),
            ({"Upload_Length": "9"}, 422),
        ]
        for headers, status in cases:
            response = self.append(path, 0, b"ab", **headers)
            self.assert_problem(response, status)
        self.assert_problem(self.append(path, 0, b"123456789"), 413)
        missing = "/api/v1/uploads/6f2d4a9e-1111-4222-8333-123456789abc"
        self.assert_problem(self.append(missing, 0, b"ab"), 404)
        values: Any = {**TUS, "Content_Type": OFFSET_TYPE}
        self.assert_problem(self.client.request("PATCH", path, b"ab", **values), 400)
        self.assertEqual(self.offset(path), 0)

    def test_a_broken_part_keeps_what_has_arrived(self) -> None:
        """It occupies no slot."""
        path = self.create(8)
        broken = self.rig.http_client()
        broken.send(self.patch_request(path, 0, b"abcdef")[:-2])
        broken.lose()
        self.assertEqual(self.offset(path), 4)
        self.assertEqual(self.append(path, 4, b"efgh").status, 204)

    def test_the_slot_is_taken_by_bytes(self) -> None:
        """While one upload arrives, another from the same address must wait."""
        path, other = self.create(8), self.create(9)
        first = self.rig.http_client()
        first.send(self.patch_request(path, 0, b"abcdefgh")[:-2])
        response = self.append(other, 0, b"ab")
        self.assert_problem(response, 429)
        self.assertGreater(int(response.headers["Retry-After"]), 0)
        first.send(b"gh")
        self.assertEqual(first.response().status, 204)

    def test_no_bytes_ask_whether_bytes_would_be_taken(self) -> None:
        """An empty part is refused as the file would be, and otherwise changes nothing; the page
        asks so before it sends a large file."""
        path, other = self.create(8), self.create(9)
        self.assertEqual(self.append(path, 0, b"").headers["Upload-Offset"], "0")
        first = self.rig.http_client()
        first.send(self.patch_request(path, 0, b"abcdefgh")[:-2])
        self.assert_problem(self.append(other, 0, b""), 429)
        first.send(b"gh")
        self.assertEqual(first.response().status, 204)

    def test_a_newer_connection_takes_over(self) -> None:
        """The older one gets an error, and nobody gets 423."""
        path = self.create(8)
        older = self.rig.http_client()
        older.send(self.patch_request(path, 0, b"abcdefgh")[:-4])
        response = self.append(path, 4, b"efgh")
        self.assertEqual((response.status, response.headers["Upload-Offset"]), (204, "8"))
        self.assert_problem(older.response(), 409)
        self.assertEqual(self.stored(response.headers["Vidproc-Task"]), b"abcdefgh")

    def test_a_head_waits_for_a_connection_that_has_just_gone(self) -> None:
        """It returns the final offset, or the current one after half a second."""
        path = self.create(8)
        sender = self.rig.http_client()
        sender.send(self.patch_request(path, 0, b"abcdefgh")[:-4])
        self.client.send(request("HEAD", path, **TUS))
        self.assertEqual(self.client.written(), b"")
        sender.send(b"e")
        sender.lose()
        self.rig.clock.advance(0.05)
        self.assertEqual(self.client.response(head_only=True).headers["Upload-Offset"], "5")

    def test_a_head_during_an_upload_is_answered(self) -> None:
        """It does not take over."""
        path = self.create(8)
        sender = self.rig.http_client()
        sender.send(self.patch_request(path, 0, b"abcdefgh")[:-4])
        self.client.send(request("HEAD", path, **TUS))
        self.rig.clock.pump([0.05] * 10)
        self.assertEqual(self.client.response(head_only=True).headers["Upload-Offset"], "4")
        sender.send(b"efgh")
        self.assertEqual(sender.response().status, 204)

    def test_a_length_can_come_later(self) -> None:
        """With or without a part."""
        path = self.create(None)
        head = self.head(path)
        self.assertEqual(head.headers["Upload-Defer-Length"], "1")
        self.assertIsNone(head.headers["Upload-Length"])
        self.assertEqual(self.append(path, 0, b"abc").headers["Upload-Offset"], "3")
        last = self.append(path, 3, b"de", Upload_Length="5")
        self.assertEqual(self.stored(last.headers["Vidproc-Task"]), b"abcde")

    def test_a_part_without_an_end_in_sight_is_bounded(self) -> None:
        """It is refused before its body is requested."""
        path = self.create(None)
        values: Any = {**TUS, "Content_Type": OFFSET_TYPE, "Upload_Offset": "0"}
        size = str((64 << 30) + 1)
        self.client.send(
            request("PATCH", path, Content_Length=size, Expect="100-continue", **values)
        )
        self.assert_problem(self.client.response(), 413)

    def test_a_length_that_comes_after_all_bytes(self) -> None:
        """An empty part completes the upload."""
        path = self.create(None)
        self.append(path, 0, b"abc")
        last = self.append(path, 3, b"", Upload_Length="3")
        self.assertEqual(self.stored(last.headers["Vidproc-Task"]), b"abc")

    def test_a_whole_upload_takes_no_more(self) -> None:
        """An empty part at its end is accepted; anything else gets 409."""
        path = self.create(3)
        task_id = self.append(path, 0, b"abc").headers["Vidproc-Task"]
        again = self.append(path, 3, b"")
        self.assertEqual((again.status, again.headers["Vidproc-Task"]), (204, task_id))
        self.assert_problem(self.append(path, 0, b"abc"), 409)

    def test_a_method_can_be_overridden(self) -> None:
        """As tus defines for clients without PATCH and DELETE."""
        path = self.create(3)
        values: Any = {**TUS, "Content_Type": OFFSET_TYPE, "Upload_Offset": "0"}
        response = self.client.request(
            "POST", path, b"ab", X_HTTP_Method_Override="PATCH", **values
        )
        self.assertEqual(response.status, 204)
        response = self.client.request("POST", path, X_HTTP_Method_Override="DELETE", **TUS)
        self.assertEqual(response.status, 204)
        self.assertEqual(self.head(path).status, 404)

    def test_a_film_whose_sha256_is_another_is_refused_at_the_end(self) -> None:
        """Nothing of it is left."""
        digest = hashlib.sha256(b"abd").hexdigest()
        path = self.create(3, Upload_Metadata=metadata(sha256=digest))
        self.assert_problem(self.append(path, 0, b"abc"), 422)
        self.assertEqual(self.head(path).status, 404)


class ChecksumTests(TusTestCase):
    def checksums(self, data: bytes) -> list[str]:
        digests = {
            "sha1": hashlib.sha1(data).digest(),
            "sha256": hashlib.sha256(data).digest(),
            "crc32": zlib.crc32(data).to_bytes(4, "big"),
        }
        return [f"{name} {base64.b64encode(value).decode()}" for name, value in digests.items()]

    def test_a_part_with_its_checksum_is_kept(self) -> None:
        """With each algorithm."""
        path = self.create(9)
        for number, checksum in enumerate(self.checksums(b"abc")):
            response = self.append(path, 3 * number, b"abc", Upload_Checksum=checksum)
            self.assertEqual(response.status, 204)

    def test_a_part_with_another_checksum_is_460_and_not_kept(self) -> None:
        """Earlier bytes are kept."""
        path = self.create(9)
        self.append(path, 0, b"abc")
        for checksum in self.checksums(b"xyz"):
            response = self.append(path, 3, b"defghi", Upload_Checksum=checksum)
            self.assert_problem(response, 460)
            self.assertEqual(self.offset(path), 3)
        last = self.append(path, 3, b"defghi", Upload_Checksum=self.checksums(b"defghi")[0])
        self.assertEqual(self.stored(last.headers["Vidproc-Task"]), b"abcdefghi")

    def test_a_part_that_breaks_before_its_checksum_is_known_is_not_kept(self) -> None:
        """Nobody knows whether its bytes are right."""
        path = self.create(9)
        self.append(path, 0, b"abc")
        broken = self.rig.http_client()
        checksum = self.checksums(b"defghi")[1]
        broken.send(self.patch_request(path, 3, b"defghi", Upload_Checksum=checksum)[:-1])
        broken.lose()
        self.assertEqual(self.offset(path), 3)

    def test_a_part_that_a_shutdown_breaks_is_not_kept(self) -> None:
        """Its client sends it again to the next server."""
        path = self.create(9)
        self.append(path, 0, b"abc")
        sender = self.rig.http_client()
        checksum = self.checksums(b"defghi")[1]
        sender.send(self.patch_request(path, 3, b"defghi", Upload_Checksum=checksum)[:-1])
        self.successResultOf(ensureDeferred(self.rig.tasks.uploads.abort_all()))
        self.assertEqual(self.offset(path), 3)

    def test_bytes_are_not_acknowledged_before_their_checksum_is(self) -> None:
        """Otherwise an offset that a client has seen could go back."""
        path = self.create(9)
        self.append(path, 0, b"abc")
        sender = self.rig.http_client()
        checksum = self.checksums(b"defghi")[1]
        sender.send(self.patch_request(path, 3, b"defghi", Upload_Checksum=checksum)[:-1])
        self.client.send(request("HEAD", path, **TUS))
        self.rig.clock.pump([0.05] * 10)
        self.assertEqual(self.client.response(head_only=True).headers["Upload-Offset"], "3")
        sender.send(b"i")
        self.assertEqual(sender.response().status, 204)

    def test_a_creation_with_a_wrong_body_leaves_nothing(self) -> None:
        """Its client does not know its Location."""
        values: Any = {**TUS, "Upload_Metadata": metadata(), "Content_Type": OFFSET_TYPE}
        response = self.client.request(
            "POST",
            "/api/v1/uploads",
            b"abc",
            Upload_Length="8",
            Upload_Checksum=self.checksums(b"abd")[0],
            **values,
        )
        self.assert_problem(response, 460)
        self.assertEqual(self.rig.store.in_states([State.PARTIAL, State.UPLOADING]), [])


class EndTests(TusTestCase):
    options = {"settings": Settings(upload_retention=100)}

    def test_a_terminated_upload_is_gone(self) -> None:
        """Its bytes are gone, too."""
        path = self.create(8)
        self.append(path, 0, b"abc")
        response = self.client.request("DELETE", path, **TUS)
        self.assertEqual(response.status, 204)
        self.assertEqual(self.head(path).status, 404)
        self.assert_problem(self.append(path, 3, b"de"), 404)

    def test_an_upload_under_way_can_be_terminated(self) -> None:
        """Its sender gets an error."""
        path = self.create(8)
        sender = self.rig.http_client()
        sender.send(self.patch_request(path, 0, b"abcdefgh")[:-4])
        self.assertEqual(self.client.request("DELETE", path, **TUS).status, 204)
        self.assert_problem(sender.response(), 409)

    def test_an_abandoned_upload_expires(self) -> None:
        """At the time in Upload-Expires."""
        path = self.create(8)
        self.append(path, 0, b"abc")
        expires: Any = self.head(path).headers["Upload-Expires"]
        self.rig.clock.advance(101)
        self.successResultOf(ensureDeferred(self.rig.tasks.upkeep()))
        self.assertEqual(self.head(path).status, 404)
        self.assertIn("GMT", expires)
