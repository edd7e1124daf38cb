"""Uploads over MMP: plain, resumable, refused, interrupted."""

from __future__ import annotations

import hashlib
import os
import sqlite3
from typing import Any
from uuid import uuid4

from tests.mmp_case import GIF, UPLOAD, ProtocolTestCase
from tests.rig import Client, message
from vidproc.files.file_writer import HIGH_WATER
from vidproc.frontends.mmp.states import DISCARD_TIME
from vidproc.tasks.settings import Settings


class UploadTests(ProtocolTestCase):
    def test_an_upload_is_on_disk_and_in_the_store_before_it_is_accepted(self) -> None:
        """The input has its final name, and the row has its key."""
        rig = self.rig()
        task_id = self.upload(rig.connect(), b"film bytes")
        task = rig.store.get(task_id)
        assert task is not None and task.input_key is not None
        self.assertEqual(rig.storage.path(task.input_key).read_bytes(), b"film bytes")
        self.assertEqual(task.media_type, "mp4")

    def test_what_the_json_shows_to_be_wrong_is_refused_before_the_payload(self) -> None:
        """The answer arrives when only the head has been sent."""
        cases: list[tuple[dict[str, Any], int]] = [
            ({**UPLOAD, "type": "dance"}, 400),
            ({**UPLOAD, "parameters": {"start_time": 0}}, 422),
            ({"action": "upload"}, 400),
            ({**UPLOAD, "offset": 5}, 400),
            ({**UPLOAD, "upload_id": "no-uuid"}, 400),
            ({**UPLOAD, "upload_id": str(uuid4())}, 400),
            ({**UPLOAD, "size": 5}, 422),
        ]
        for request, code in cases:
            client = self.rig().connect()
            client.send(message(request, bytes(1000), "mp4")[:-1000])
            answer = client.answer()
            self.assertEqual(self.code(answer), code, answer)
            # The payload is discarded, and the connection serves further requests.
            client.send(bytes(1000))
            client.send(message({"action": "info"}))
            self.assertEqual(client.answer()["status"], "ok")

    def test_a_refused_payload_is_discarded_for_a_bounded_time(self) -> None:
        """Then the connection ends."""
        rig = self.rig()
        client = rig.connect()
        client.send(message({**UPLOAD, "type": "dance"}, bytes(1000), "mp4")[:-500])
        rig.clock.advance(DISCARD_TIME)
        self.assertTrue(client.transport.aborted)

    def test_an_empty_file_is_415_and_a_too_large_one_413(self) -> None:
        """Both are found from the sizes alone."""
        client = self.rig(settings=Settings(max_upload=100)).connect()
        client.send(message(UPLOAD, b"", "mp4"))
        self.assertEqual(self.code(client.answer()), 415)
        client.send(message(UPLOAD, bytes(101), "mp4"))
        self.assertEqual(self.code(client.answer()), 413)

    def test_a_file_that_does_not_fit_the_storage_is_507(self) -> None:
        """It takes no slot."""
        rig = self.rig(limit=1000)
        client = rig.connect()
        client.send(message(UPLOAD, bytes(2000), "mp4"))
        self.assertEqual(self.code(client.answer()), 507)
        self.assertEqual(rig.storage.space.reserved, 0)

    def test_a_store_on_a_full_disk_is_507(self) -> None:
        """There is no space for the upload's row, which is not a fault of ours."""
        rig = self.rig()

        def full(*arguments: Any, **keywords: Any) -> None:
            raise sqlite3.OperationalError("database or disk is full")

        rig.store.uploads.admit = full  # type: ignore[method-assign]
        client = rig.connect()
        client.send(message(UPLOAD, b"film", "mp4"))
        self.assertEqual(self.code(client.answer()), 507)

    def test_a_second_upload_of_an_address_is_429_from_the_first_byte_on(self) -> None:
        """Other addresses are admitted; the slot is freed when the first connection is lost."""
        rig = self.rig()
        first = rig.connect()
        first.send(message(UPLOAD, bytes(100), "mp4")[:-50])
        second = rig.connect()
        second.send(message(UPLOAD, b"x", "mp4"))
        self.assertEqual(self.code(second.answer()), 429)
        self.upload(rig.connect("192.0.2.77"))
        first.lose()
        self.upload(rig.connect())

    def test_a_lost_connection_leaves_no_file_and_no_reservation(self) -> None:
        """The received bytes of a plain upload are removed."""
        rig = self.rig()
        client = rig.connect()
        client.send(message(UPLOAD, bytes(100), "mp4")[:-50])
        self.assertGreater(rig.storage.space.reserved, 0)
        client.lose()
        self.assertEqual(list((rig.storage.root / "uploads").iterdir()), [])
        self.assertEqual(rig.storage.space.reserved, 0)

    def test_a_lagging_disk_pauses_the_client(self) -> None:
        """Reading resumes when the disk has caught up; nothing is lost."""
        rig = self.rig()
        disk = rig.disk.hold()
        client = rig.connect()
        film = os.urandom(2 * HIGH_WATER)
        data = message(UPLOAD, film, "mp4")
        middle = len(data) - len(film) + HIGH_WATER
        client.send(data[:middle])
        self.assertEqual(client.transport.producerState, "paused")
        disk.run_all()
        self.assertEqual(client.transport.producerState, "producing")
        client.send(data[middle:])
        disk.run_all()
        task = rig.store.get(client.answer()["task_id"])
        assert task is not None and task.input_key is not None
        self.assertEqual(rig.storage.path(task.input_key).read_bytes(), film)

    def test_a_checksum_that_differs_is_422_and_leaves_nothing(self) -> None:
        """The right one is accepted, in upper or lower case."""
        rig = self.rig()
        client = rig.connect()
        client.send(message({**UPLOAD, "sha256": "0" * 64}, b"film", "mp4"))
        self.assertEqual(self.code(client.answer()), 422)
        self.assertEqual(list((rig.storage.root / "uploads").iterdir()), [])
        self.upload(client, b"film", sha256=hashlib.sha256(b"film").hexdigest().upper())

    def test_unknown_parameters_are_named_in_the_warnings(self) -> None:
        """The upload is not refused."""
        client = self.rig().connect()
        task_id = self.upload(client, parameters={**GIF, "loops": 3})
        client.send(message({"action": "status", "task_id": task_id, "detail": True}))
        self.assertIn("loops", client.answer()["warnings"][0])

    def test_a_stopping_server_answers_503(self) -> None:
        """To uploads; other requests are still answered."""
        rig = self.rig()
        rig.tasks.refuse_new()
        client = rig.connect()
        client.send(message(UPLOAD, b"film", "mp4"))
        self.assertEqual(self.code(client.answer()), 503)


class ResumableUploadTests(ProtocolTestCase):
    def setUp(self) -> None:
        self.server = self.rig()
        self.upload_id = str(uuid4())
        self.film = os.urandom(1000)
        self.request = {**UPLOAD, "upload_id": self.upload_id, "size": 1000}

    def send_part(self, client: Client, start: int, end: int, **fields: Any) -> dict[str, Any]:
        request = {**self.request, "offset": start, **fields}
        client.send(message(request, self.film[start:end], "mp4"))
        return client.answer()

    def test_an_upload_in_parts_is_one_file(self) -> None:
        """A payload shorter than the rest gets `partial`, the last one `accepted`."""
        client = self.server.connect()
        self.assertEqual(self.send_part(client, 0, 300), {"status": "partial", "offset": 300})
        answer = self.send_part(client, 300, 1000, sha256=hashlib.sha256(self.film).hexdigest())
        self.assertEqual(answer["status"], "accepted")
        task = self.server.store.get(answer["task_id"])
        assert task is not None and task.input_key is not None
        self.assertEqual(self.server.storage.path(task.input_key).read_bytes(), self.film)

    def test_a_broken_upload_goes_on_where_it_stands(self) -> None:
        """upload_status returns the offset; the slot was free in between."""
        client = self.server.connect()
        client.send(message(self.request, self.film, "mp4")[:-400])
        client.lose()
        client = self.server.connect()
        client.send(message({"action": "upload_status", "upload_id": self.upload_id}))
        self.assertEqual(client.answer(), {"status": "partial", "offset": 600})
        self.assertEqual(self.send_part(client, 600, 1000)["status"], "accepted")

    def test_a_second_broken_upload_of_an_address_leaves_the_first(self) -> None:
        """Two people behind one router can both resume."""
        other = {**self.request, "upload_id": str(uuid4())}
        for request, size in ((self.request, 600), (other, 700)):
            client = self.server.connect()
            client.send(message(request, self.film, "mp4")[: size - 1000])
            client.lose()
        client = self.server.connect()
        for request, size in ((self.request, 600), (other, 700)):
            client.send(message({"action": "upload_status", "upload_id": request["upload_id"]}))
            self.assertEqual(client.answer(), {"status": "partial", "offset": size})

    def test_a_refused_upload_leaves_no_trace(self) -> None:
        """Neither a new one nor one that is refused when it is resumed."""
        client = self.server.connect()
        self.send_part(client, 0, 300)
        self.server.storage.space.limit = self.server.storage.space.measure()
        new = {**UPLOAD, "upload_id": str(uuid4()), "size": 1000}
        client.send(message(new, self.film, "mp4"))
        self.assertEqual(self.code(client.answer()), 507)
        self.assertEqual(self.code(self.send_part(client, 300, 1000)), 507)
        client.send(message({"action": "upload_status", "upload_id": new["upload_id"]}))
        self.assertEqual(self.code(client.answer()), 404)
        self.server.storage.space.limit = 1 << 40
        self.assertEqual(self.send_part(client, 300, 1000)["status"], "accepted")
        self.assertEqual(self.server.tasks.uploads.active, 0)

    def test_a_checksum_that_comes_with_a_later_part_is_checked(self) -> None:
        """A client that was stopped knows it only after reading its file again."""
        client = self.server.connect()
        self.send_part(client, 0, 300)
        answer = self.send_part(client, 300, 1000, sha256=hashlib.sha256(b"other").hexdigest())
        self.assertEqual(self.code(answer), 422)
        self.assertEqual(list((self.server.storage.root / "uploads").iterdir()), [])

    def test_another_checksum_than_before_is_422_and_costs_nothing(self) -> None:
        """The upload can be resumed with the right one."""
        right = hashlib.sha256(self.film).hexdigest()
        client = self.server.connect()
        self.send_part(client, 0, 300, sha256=right)
        other = hashlib.sha256(b"other").hexdigest()
        answer = self.send_part(client, 300, 1000, sha256=other)
        self.assertEqual(self.code(answer), 422)
        self.assertEqual(self.send_part(client, 300, 1000)["status"], "accepted")

    def test_a_wrong_offset_is_409_with_the_right_one(self) -> None:
        """So the client need not ask."""
        client = self.server.connect()
        self.send_part(client, 0, 300)
        answer = self.send_part(client, 500, 1000)
        self.assertEqual((self.code(answer), answer["error"]["offset"]), (409, 300))

    def test_a_finished_upload_gets_the_same_answer_again(self) -> None:
        """From upload and upload_status; there is no second task."""
        client = self.server.connect()
        first = self.send_part(client, 0, 1000)
        self.assertEqual(self.send_part(client, 0, 1000)["task_id"], first["task_id"])
        client.send(message({"action": "upload_status", "upload_id": self.upload_id}))
        self.assertEqual(client.answer()["task_id"], first["task_id"])

    def test_another_request_under_the_same_id_is_422(self) -> None:
        """Other parameters, type or size are another upload."""
        client = self.server.connect()
        self.send_part(client, 0, 300)
        for change in ({"type": "compress"}, {"size": 1001}, {"parameters": {**GIF, "fps": 5}}):
            self.assertEqual(self.code(self.send_part(client, 300, 400, **change)), 422)

    def test_a_newer_connection_takes_over(self) -> None:
        """The older one gets an error, and the slot moves with the upload."""
        older = self.server.connect()
        older.send(message(self.request, self.film, "mp4")[:-400])
        newer = self.server.connect()
        self.assertEqual(self.send_part(newer, 600, 1000)["status"], "accepted")
        self.assertEqual(self.code(older.answer()), 409)
        older.lose()

    def test_of_two_connections_that_begin_at_once_one_goes_on(self) -> None:
        """The other one gets an error, and its further bytes are discarded."""
        thread = self.server.store_thread.hold()
        first, second = self.server.connect(), self.server.connect()
        head = message(self.request, self.film, "mp4")[:-1000]
        for client in (first, second):
            client.send(head)
        thread.run_all()
        refusals = [client for client in (first, second) if client.answers()]
        self.assertEqual(len(refusals), 1)
        loser, winner = refusals[0], second if refusals[0] is first else first
        winner.send(self.film[:400])
        loser.send(bytes(1000))
        winner.send(self.film[400:])
        thread.run_all()
        task = self.server.store.get(winner.answer()["task_id"])
        assert task is not None and task.input_key is not None
        self.assertEqual(self.server.storage.path(task.input_key).read_bytes(), self.film)

    def test_a_break_that_cannot_be_stored_loses_nothing(self) -> None:
        """With a full disk, the upload can be resumed only once the break is stored."""
        client = self.server.connect()
        client.send(message(self.request, self.film, "mp4")[:-400])
        park = self.server.store.uploads.park

        def full(*arguments: Any, **keywords: Any) -> Any:
            raise sqlite3.OperationalError("database or disk is full")

        self.server.store.uploads.park = full  # type: ignore[method-assign]
        client.lose()
        self.assertEqual(len(self.flushLoggedErrors(sqlite3.OperationalError)), 1)
        client = self.server.connect()
        self.assertEqual(self.code(self.send_part(client, 600, 1000)), 503)
        self.server.store.uploads.park = park  # type: ignore[method-assign]
        self.server.clock.advance(5)
        self.assertEqual(self.send_part(client, 600, 1000)["status"], "accepted")

    def test_an_upload_that_nobody_began_is_404(self) -> None:
        """The solution says to start it."""
        client = self.server.connect()
        client.send(message({"action": "upload_status", "upload_id": str(uuid4())}))
        self.assertEqual(self.code(client.answer()), 404)

    def test_a_broken_upload_is_forgotten_after_its_retention(self) -> None:
        """File and row are removed."""
        client = self.server.connect()
        self.send_part(client, 0, 300)
        self.server.clock.advance(self.server.settings.upload_retention + 1)
        self.successResultOf(
            self.server.tasks.uploads.broken.prune(self.server.clock.seconds() - 1)
        )
        self.assertEqual(list((self.server.storage.root / "uploads").iterdir()), [])
