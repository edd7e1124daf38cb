"""The MMP frontend over in-memory transports, with the real task service and store."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
from pathlib import Path
from typing import Any
from uuid import uuid4

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.task import Clock
from twisted.logger import ILogObserver, LogEvent, LogLevel, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from tests.rig import Client, Rig, complete_step, message
from vidproc.errors import ServiceError
from vidproc.files.file_writer import HIGH_WATER
from vidproc.frontends.mmp.reports import list_report
from vidproc.frontends.mmp.states import DISCARD_TIME, LINGER_TIME
from vidproc.frontends.peers import peer_key
from vidproc.frontends.throttle import LEAST_RATE
from vidproc.frontends.tokens import Tokens
from vidproc.mmp import messages
from vidproc.mmp.codec import Decoder, MessageStarted
from vidproc.tasks.model import Failure as TaskFailure
from vidproc.tasks.model import State, Task
from vidproc.tasks.settings import Settings
from vidproc.tasks.views import TaskView

GIF = {"start_time": 0, "duration": 1}
UPLOAD: dict[str, Any] = {"action": "upload", "type": "gif", "parameters": GIF}


class ProtocolTestCase(SynchronousTestCase):
    def rig(self, **options: Any) -> Rig:
        rig = Rig(Path(self.mktemp()), **options)
        self.addCleanup(rig.close)
        return rig

    def code(self, answer: dict[str, Any]) -> int:
        return int(answer["error"]["code"])

    def upload(self, client: Client, payload: bytes = b"film", **fields: Any) -> str:
        client.send(message({**UPLOAD, **fields}, payload, "mp4"))
        answer = client.answer()
        self.assertEqual(answer.get("status"), "accepted", answer)
        return str(answer["task_id"])

    def complete(self, rig: Rig, content: bytes = b"GIF of the film") -> None:
        """Let the one running task do well."""
        while rig.runner.running:
            complete_step(rig.runner.running[0], content)


def rig_turns(client: Client) -> None:
    """Let the connection have all the turns that it waits for."""
    clock = client.protocol.clock
    assert isinstance(clock, Clock)
    clock.pump([0.0] * 10)


class RequestTests(ProtocolTestCase):
    def test_a_request_may_come_byte_by_byte(self) -> None:
        """Any split of the bytes gives the same answer."""
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
        """Its sizes are known, so the next message is found."""
        client = self.rig().connect()
        client.send(message({"action": "dance", "id": 7}, b"some payload"))
        answer = client.answer()
        self.assertEqual((self.code(answer), answer["id"]), (400, 7))
        client.send(message({"action": "info"}))
        self.assertEqual(client.answer()["status"], "ok")

    def test_http_and_tls_get_400_at_once_and_the_end(self) -> None:
        """And what else they send is read, so that the answer is not reset away."""
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
        """It lingers for a bounded time."""
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
        """401 without, 401 with a wrong one, an answer with the right one."""
        client = self.rig(tokens=Tokens({"ann": "s3cret"})).connect()
        for token in (None, "", "s3cre", "s3cret "):
            client.send(message({"action": "info", "token": token}))
            self.assertEqual(self.code(client.answer()), 401)
        client.send(message({"action": "info", "token": "s3cret"}))
        self.assertEqual(client.answer()["status"], "ok")

    def test_a_half_closed_connection_still_gets_its_answers(self) -> None:
        """And is closed after the last one."""
        client = self.rig().connect()
        client.send(message({"action": "info"}))
        client.half_close()
        self.assertEqual(client.answer()["status"], "ok")
        self.assertTrue(client.transport.disconnecting)

    def test_a_half_close_in_the_middle_of_a_message_is_400(self) -> None:
        """The upload it belongs to gives its slot back."""
        rig = self.rig()
        client = rig.connect()
        client.send(message(UPLOAD, b"whole film", "mp4")[:-3])
        client.half_close()
        self.assertEqual(self.code(client.answer()), 400)
        self.assertEqual(rig.tasks.uploads.active, 0)
        self.upload(rig.connect())


class UploadTests(ProtocolTestCase):
    def test_an_upload_is_on_disk_and_in_the_store_before_it_is_accepted(self) -> None:
        """The input has its final name, the row its key."""
        rig = self.rig()
        task_id = self.upload(rig.connect(), b"film bytes")
        task = rig.store.get(task_id)
        assert task is not None and task.input_key is not None
        self.assertEqual(rig.storage.path(task.input_key).read_bytes(), b"film bytes")
        self.assertEqual(task.media_type, "mp4")

    def test_what_the_json_shows_to_be_wrong_is_refused_before_the_payload(self) -> None:
        """The answer is there when only the head has been sent."""
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
            # The payload is thrown away, and the connection serves on.
            client.send(bytes(1000))
            client.send(message({"action": "info"}))
            self.assertEqual(client.answer()["status"], "ok")

    def test_a_refused_payload_is_thrown_away_for_a_bounded_time(self) -> None:
        """Then the connection ends."""
        rig = self.rig()
        client = rig.connect()
        client.send(message({**UPLOAD, "type": "dance"}, bytes(1000), "mp4")[:-500])
        rig.clock.advance(DISCARD_TIME)
        self.assertTrue(client.transport.aborted)

    def test_an_empty_file_is_415_and_a_too_large_one_413(self) -> None:
        """Both from the sizes alone."""
        client = self.rig(settings=Settings(max_upload=100)).connect()
        client.send(message(UPLOAD, b"", "mp4"))
        self.assertEqual(self.code(client.answer()), 415)
        client.send(message(UPLOAD, bytes(101), "mp4"))
        self.assertEqual(self.code(client.answer()), 413)

    def test_a_file_that_does_not_fit_the_storage_is_507(self) -> None:
        """And takes no slot."""
        rig = self.rig(limit=1000)
        client = rig.connect()
        client.send(message(UPLOAD, bytes(2000), "mp4"))
        self.assertEqual(self.code(client.answer()), 507)
        self.assertEqual(rig.storage.space.reserved, 0)

    def test_a_store_on_a_full_disk_is_507(self) -> None:
        """Not a fault of ours: there is no room for the upload's row."""
        rig = self.rig()

        def full(*arguments: Any, **keywords: Any) -> None:
            raise sqlite3.OperationalError("database or disk is full")

        rig.store.uploads.admit = full  # type: ignore[method-assign]
        client = rig.connect()
        client.send(message(UPLOAD, b"film", "mp4"))
        self.assertEqual(self.code(client.answer()), 507)

    def test_a_second_upload_of_an_address_is_429_from_the_first_byte_on(self) -> None:
        """Another address is welcome; the slot comes back when the first connection is lost."""
        rig = self.rig()
        first = rig.connect()
        first.send(message(UPLOAD, bytes(100), "mp4")[:-50])
        second = rig.connect()
        second.send(message(UPLOAD, b"x", "mp4"))
        self.assertEqual(self.code(second.answer()), 429)
        self.upload(rig.connect("192.0.2.77"))
        first.lose()
        self.upload(rig.connect())

    def test_a_lost_connection_leaves_no_file_and_no_room_taken(self) -> None:
        """Whatever had arrived of a plain upload goes."""
        rig = self.rig()
        client = rig.connect()
        client.send(message(UPLOAD, bytes(100), "mp4")[:-50])
        self.assertGreater(rig.storage.space.reserved, 0)
        client.lose()
        self.assertEqual(list((rig.storage.root / "uploads").iterdir()), [])
        self.assertEqual(rig.storage.space.reserved, 0)

    def test_a_lagging_disk_pauses_the_client(self) -> None:
        """Reading goes on when the disk has caught up; nothing is lost."""
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
        """The right one is accepted, in any case of its letters."""
        rig = self.rig()
        client = rig.connect()
        client.send(message({**UPLOAD, "sha256": "0" * 64}, b"film", "mp4"))
        self.assertEqual(self.code(client.answer()), 422)
        self.assertEqual(list((rig.storage.root / "uploads").iterdir()), [])
        self.upload(client, b"film", sha256=hashlib.sha256(b"film").hexdigest().upper())

    def test_unknown_parameters_are_named_in_the_warnings(self) -> None:
        """And do not refuse the upload."""
        client = self.rig().connect()
        task_id = self.upload(client, parameters={**GIF, "loops": 3})
        client.send(message({"action": "status", "task_id": task_id, "detail": True}))
        self.assertIn("loops", client.answer()["warnings"][0])

    def test_a_stopping_server_answers_503(self) -> None:
        """To uploads; the rest is still answered."""
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
        """A payload shorter than the rest gets partial, the last one accepted."""
        client = self.server.connect()
        self.assertEqual(self.send_part(client, 0, 300), {"status": "partial", "offset": 300})
        answer = self.send_part(client, 300, 1000, sha256=hashlib.sha256(self.film).hexdigest())
        self.assertEqual(answer["status"], "accepted")
        task = self.server.store.get(answer["task_id"])
        assert task is not None and task.input_key is not None
        self.assertEqual(self.server.storage.path(task.input_key).read_bytes(), self.film)

    def test_a_broken_upload_goes_on_where_it_stands(self) -> None:
        """upload_status says where; the slot was free in between."""
        client = self.server.connect()
        client.send(message(self.request, self.film, "mp4")[:-400])
        client.lose()
        client = self.server.connect()
        client.send(message({"action": "upload_status", "upload_id": self.upload_id}))
        self.assertEqual(client.answer(), {"status": "partial", "offset": 600})
        self.assertEqual(self.send_part(client, 600, 1000)["status"], "accepted")

    def test_a_second_broken_upload_of_an_address_leaves_the_first(self) -> None:
        """Two people behind one router both go on where they were."""
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
        """Neither a new one, nor a broken one that is refused when it wants to go on."""
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
        """A client that was stopped knows it only after it has read its file again."""
        client = self.server.connect()
        self.send_part(client, 0, 300)
        answer = self.send_part(client, 300, 1000, sha256=hashlib.sha256(b"other").hexdigest())
        self.assertEqual(self.code(answer), 422)
        self.assertEqual(list((self.server.storage.root / "uploads").iterdir()), [])

    def test_another_checksum_than_before_is_422_and_costs_nothing(self) -> None:
        """The upload goes on with the right one."""
        right = hashlib.sha256(self.film).hexdigest()
        client = self.server.connect()
        self.send_part(client, 0, 300, sha256=right)
        other = hashlib.sha256(b"other").hexdigest()
        answer = self.send_part(client, 300, 1000, sha256=other)
        self.assertEqual(self.code(answer), 422)
        self.assertEqual(self.send_part(client, 300, 1000)["status"], "accepted")

    def test_a_wrong_offset_is_409_with_the_right_one(self) -> None:
        """So the client needs no further question."""
        client = self.server.connect()
        self.send_part(client, 0, 300)
        answer = self.send_part(client, 500, 1000)
        self.assertEqual((self.code(answer), answer["error"]["offset"]), (409, 300))

    def test_a_finished_upload_gets_the_same_answer_again(self) -> None:
        """By upload and by upload_status; no second task."""
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
        """The older one is told, and the slot goes with the upload."""
        older = self.server.connect()
        older.send(message(self.request, self.film, "mp4")[:-400])
        newer = self.server.connect()
        self.assertEqual(self.send_part(newer, 600, 1000)["status"], "accepted")
        self.assertEqual(self.code(older.answer()), 409)
        older.lose()

    def test_of_two_connections_that_begin_at_once_one_goes_on(self) -> None:
        """The other is told, and whatever it still sends goes nowhere."""
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

    def test_a_break_that_can_not_be_stored_loses_nothing(self) -> None:
        """A full disk: the upload can't go on until it is put away, then it goes on."""
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
        """With the advice to begin it."""
        client = self.server.connect()
        client.send(message({"action": "upload_status", "upload_id": str(uuid4())}))
        self.assertEqual(self.code(client.answer()), 404)

    def test_a_broken_upload_is_forgotten_after_its_retention(self) -> None:
        """File and row go."""
        client = self.server.connect()
        self.send_part(client, 0, 300)
        self.server.clock.advance(self.server.settings.upload_retention + 1)
        self.successResultOf(
            self.server.tasks.uploads.broken.prune(self.server.clock.seconds() - 1)
        )
        self.assertEqual(list((self.server.storage.root / "uploads").iterdir()), [])


class DownloadTests(ProtocolTestCase):
    def setUp(self) -> None:
        self.server = self.rig()
        self.client = self.server.connect()
        self.task_id = self.upload(self.client)

    def download(self, **fields: Any) -> tuple[dict[str, Any], str, bytes]:
        request = {"action": "download", "task_id": self.task_id, **fields}
        return self.client.request(request)[0]

    def test_a_result_comes_with_size_and_checksum(self) -> None:
        """The media type is the file's extension."""
        self.complete(self.server, b"GIF of the film")
        head, media_type, payload = self.download()
        self.assertEqual((media_type, payload), ("gif", b"GIF of the film"))
        self.assertEqual(head["size"], 15)
        self.assertEqual(head["sha256"], hashlib.sha256(payload).hexdigest())

    def test_a_download_goes_on_at_an_offset(self) -> None:
        """At the end it is empty, past it 409."""
        self.complete(self.server, b"0123456789")
        self.assertEqual(self.download(offset=4)[2], b"456789")
        self.assertEqual(self.download(offset=10)[2], b"")
        self.assertEqual(self.code(self.download(offset=11)[0]), 409)

    def test_a_task_that_is_not_completed_has_no_download_yet(self) -> None:
        """409 while it is queued or processing."""
        self.assertEqual(self.code(self.download()[0]), 409)

    def test_a_client_that_does_not_read_gets_no_more_than_a_chunk(self) -> None:
        """The rest follows when it reads again."""
        content = os.urandom(3_000_000)
        self.complete(self.server, content)
        self.client.protocol.pauseProducing()
        self.client.send(message({"action": "download", "task_id": self.task_id}))
        self.assertLess(len(self.client.transport.value()), 1000)
        self.client.protocol.resumeProducing()
        self.assertEqual(self.client.answers()[0][2], content)

    def test_a_client_that_takes_nothing_is_cut_off(self) -> None:
        """It costs one connection's buffers, for a bounded time."""
        self.complete(self.server, bytes(3_000_000))
        self.client.protocol.pauseProducing()
        self.client.send(message({"action": "download", "task_id": self.task_id}))
        for _ in range(4):
            self.server.clock.advance(60)
        self.assertTrue(self.client.transport.aborted)

    def test_a_download_cut_off_does_not_count_as_fetched(self) -> None:
        """And the file is closed and free to be pruned."""
        self.complete(self.server, bytes(3_000_000))
        self.client.protocol.pauseProducing()
        self.client.send(message({"action": "download", "task_id": self.task_id}))
        self.client.lose()
        task = self.server.store.get(self.task_id)
        assert task is not None
        self.assertIsNone(task.downloaded_at)
        self.assertEqual(self.server.tasks.results._downloads, {})


class WatchTests(ProtocolTestCase):
    def setUp(self) -> None:
        self.server = self.rig()
        self.client = self.server.connect()
        self.task_id = self.upload(self.client)
        self.watch = {"action": "watch", "task_id": self.task_id, "interval": 2, "id": "w"}

    def statuses(self) -> list[str]:
        return [answer[0]["status"] for answer in self.client.answers()]

    def test_a_watch_tells_at_once_on_change_and_at_the_end(self) -> None:
        """The last message is terminal, and the connection serves on."""
        self.client.send(message(self.watch))
        self.assertEqual(self.statuses(), ["processing"])
        self.complete(self.server)
        stages = [a[0] for a in self.client.answers()]
        self.assertIn("encoding", [answer["stage"] for answer in stages])
        self.assertEqual(stages[-1]["status"], "completed")
        self.assertEqual({answer["id"] for answer in stages}, {"w"})
        self.server.clock.advance(10)
        self.assertEqual(self.client.answers(), [])
        self.client.send(message({"action": "info"}))
        self.assertEqual(self.client.answer()["status"], "ok")

    def test_a_status_that_can_not_be_sent_ends_the_connection_alone(self) -> None:
        """The client is told; the task service notices nothing."""
        complete_step(self.server.runner.running[0])  # the probe
        self.client.send(message({**self.watch, "detail": True}))
        self.client.answers()
        attempt = self.server.tasks.queue._entries[self.task_id].attempt
        assert attempt is not None
        attempt.input["codec"] = object()  # what JSON can't hold
        self.complete(self.server)
        answer = self.client.answers()[-1][0]
        self.assertEqual((answer["error"]["code"], answer["id"]), (500, "w"))
        self.assertTrue(self.client.transport.ended)
        self.assertEqual(len(self.server.tasks.queue.watches), 0)
        self.assertEqual(len(self.flushLoggedErrors(TypeError)), 2)
        # The store can't hold it either: that fails the task, and holds nobody up.
        status = {"action": "status", "task_id": self.task_id}
        answers = self.server.connect().request(status)
        self.assertEqual((answers[0][0]["status"], answers[0][0]["error_code"]), ("failed", 500))
        self.assertEqual(self.server.tasks.queue.running, 0)

    def test_a_watch_tells_once_per_interval(self) -> None:
        """Even when nothing changes."""
        self.client.send(message(self.watch))
        self.client.answers()
        self.server.clock.pump([1.0] * 6)
        self.assertEqual(self.statuses(), ["processing"] * 3)

    def test_any_further_request_ends_the_watch(self) -> None:
        """No status comes after its answer."""
        self.client.send(message(self.watch))
        self.client.answers()
        self.client.send(message({"action": "info"}))
        self.assertEqual(self.client.answer()["status"], "ok")
        self.server.clock.advance(10)
        self.complete(self.server)
        self.assertEqual(self.client.answers(), [])
        self.assertEqual(len(self.server.tasks.queue.watches), 0)

    def test_the_slot_is_free_before_the_end_can_be_seen(self) -> None:
        """Whoever is told that a task has ended may send the next."""
        self.client.send(message(self.watch))
        self.client.answers()
        other = self.server.connect()
        seen: list[str] = []
        write = self.client.transport.write

        def spy(data: bytes) -> None:
            write(data)
            if b'"completed"' in data:
                seen.append(self.upload(other))

        self.patch(self.client.transport, "write", spy)
        while not seen:
            complete_step(self.server.runner.running[0])
        self.assertEqual(len(seen), 1)

    def test_a_watch_of_a_finished_task_is_one_message(self) -> None:
        """The terminal status, at once."""
        self.complete(self.server)
        self.client.send(message(self.watch))
        self.assertEqual(self.statuses(), ["completed"])

    def test_a_client_that_does_not_read_its_watch_misses_only_what_is_old(self) -> None:
        """When it reads again it gets the newest status."""
        self.client.send(message(self.watch))
        self.client.answers()
        self.client.protocol.pauseProducing()
        self.server.clock.pump([2.0] * 5)
        self.complete(self.server)
        self.assertEqual(self.client.answers(), [])
        self.client.protocol.resumeProducing()
        self.assertEqual(self.statuses(), ["completed"])

    def test_a_half_closed_watch_goes_on_to_the_end(self) -> None:
        """Then the connection is closed."""
        self.client.send(message(self.watch))
        self.client.half_close()
        self.assertFalse(self.client.transport.ended)
        self.complete(self.server)
        self.assertEqual(self.statuses()[-1], "completed")
        self.assertTrue(self.client.transport.disconnecting)

    def test_a_lost_connection_ends_its_watch(self) -> None:
        """Nothing is left to tell."""
        self.client.send(message(self.watch))
        self.client.lose()
        self.assertEqual(len(self.server.tasks.queue.watches), 0)


class ConnectionTests(ProtocolTestCase):
    def test_a_finish_that_takes_long_is_not_the_clients_fault(self) -> None:
        """It is not cut off for being slow while the disk is."""
        rig = self.rig(idle_timeout=60.0)
        client = rig.connect()
        disk = rig.disk.hold()
        client.send(message(UPLOAD, b"film", "mp4"))
        rig.clock.pump([60.0] * 5)
        disk.run_all()
        self.assertEqual(client.answer()["status"], "accepted")

    def test_others_are_served_between_one_connections_requests(self) -> None:
        """A thousand in one piece do not hold everybody up."""
        rig = self.rig()
        client = rig.connect()
        client.send(message({"action": "info"}) * 1000)
        self.assertLess(len(client.answers()), 100)
        rig.clock.pump([0.0] * 100)
        self.assertGreater(len(client.answers()), 800)

    def test_an_idle_connection_is_closed(self) -> None:
        """One that says nothing for the idle timeout."""
        rig = self.rig(idle_timeout=60.0)
        client = rig.connect()
        rig.clock.pump([30.0] * 4)
        self.assertTrue(client.transport.aborted)

    def test_the_idle_timeout_counts_from_the_last_word(self) -> None:
        """Not from when the service looked."""
        rig = self.rig(idle_timeout=60.0)
        client = rig.connect()
        rig.clock.advance(50.0)
        client.send(message({"action": "info"}))
        rig.clock.pump([1.0] * 59)
        self.assertFalse(client.transport.aborted)
        rig.clock.advance(1.0)
        self.assertTrue(client.transport.aborted)

    def test_a_pause_of_our_own_is_nobodys_silence(self) -> None:
        """An upload waits for its share as long as it takes."""
        rig = self.rig(idle_timeout=60.0)
        client = rig.connect()
        rig.gate.throttle.limit(LEAST_RATE)
        rig.gate.throttle.take(int(200 * LEAST_RATE))
        data = message(UPLOAD, bytes(100), "mp4")
        client.send(data[:-60])
        client.send(data[-60:-50])
        rig.clock.pump([4.0] * 48)
        self.assertFalse(client.transport.ended)
        client.send(data[-50:])
        self.assertEqual(client.answer()["status"], "accepted")

    def test_a_clock_that_jumps_cuts_nobody_off(self) -> None:
        """The silence counts from then on."""
        rig = self.rig(idle_timeout=60.0)
        client = rig.connect()
        rig.clock.advance(3600.0)
        self.assertFalse(client.transport.aborted)
        rig.clock.advance(60.0)
        self.assertTrue(client.transport.aborted)

    def test_a_stalled_upload_is_told_and_closed(self) -> None:
        """Its slot comes back."""
        rig = self.rig(idle_timeout=60.0)
        client = rig.connect()
        client.send(message(UPLOAD, bytes(100), "mp4")[:-50])
        rig.clock.pump([60.0] * 2)
        self.assertEqual(self.code(client.answer()), 400)
        self.assertEqual(rig.tasks.uploads.active, 0)
        self.assertTrue(client.transport.ended)

    def test_a_watching_connection_is_not_idle(self) -> None:
        """It says nothing because it has nothing to say."""
        rig = self.rig(idle_timeout=60.0)
        client = rig.connect()
        task_id = self.upload(client)
        client.send(message({"action": "watch", "task_id": task_id, "interval": 3600}))
        rig.clock.pump([30.0] * 10)
        self.assertFalse(client.transport.ended)

    def test_a_head_that_comes_byte_by_byte_is_cut_off(self) -> None:
        """Each byte keeps it from being idle, and still it must end in time."""
        rig = self.rig()
        client = rig.connect()
        for byte in message({"action": "info", "id": "x" * 60})[:41]:
            client.send(bytes([byte]))
            rig.clock.advance(0.5)
        self.assertEqual(self.code(client.answer()), 400)
        self.assertTrue(client.transport.ended)

    def test_an_upload_that_trickles_is_cut_off(self) -> None:
        """A few bytes in each idle timeout are not enough to hold a slot."""
        rig = self.rig(idle_timeout=60.0)
        client = rig.connect()
        client.send(message(UPLOAD, bytes(10_000_000), "mp4")[:-9_000_000])
        for _ in range(20):
            client.send(bytes(1000))
            rig.clock.advance(9)
        self.assertEqual(self.code(client.answer()), 400)
        self.assertEqual(rig.tasks.uploads.active, 0)

    def test_a_slow_but_steady_upload_is_taken(self) -> None:
        """Two kilobytes a second are somebody's uplink."""
        rig = self.rig(idle_timeout=60.0)
        client = rig.connect()
        data = message(UPLOAD, bytes(1_000_000), "mp4")
        for start in range(0, len(data), 20_000):
            client.send(data[start : start + 20_000])
            rig.clock.advance(9)
        self.assertEqual(client.answer()["status"], "accepted")

    def test_too_many_connections_of_an_address_are_429(self) -> None:
        """Others are welcome."""
        rig = self.rig(max_connections_per_ip=2)
        clients = [rig.connect() for _ in range(3)]
        self.assertEqual(self.code(clients[2].answer()), 429)
        self.assertTrue(clients[2].transport.ended)
        self.assertFalse(rig.connect("192.0.2.9").transport.ended)
        clients[0].lose()
        clients[2].lose()
        self.assertFalse(rig.connect().transport.ended)

    def test_too_many_connections_in_all_are_503(self) -> None:
        """Said before the end."""
        rig = self.rig(max_connections=1)
        rig.connect()
        self.assertEqual(self.code(rig.connect("192.0.2.9").answer()), 503)

    def test_a_client_that_sends_ahead_is_paused_while_it_waits(self) -> None:
        """Requests pile up in its own buffers, not in ours."""
        rig = self.rig()
        thread = rig.lookup_thread.hold()
        client = rig.connect()
        client.send(message({"action": "status", "task_id": "0" * 32}))
        client.send(message({"action": "info"}) * 5000)
        self.assertEqual(client.transport.producerState, "paused")
        thread.run_all()
        rig.clock.pump([0.0] * 400)
        self.assertEqual(client.transport.producerState, "producing")
        self.assertEqual(len(client.answers()), 5001)

    def test_draining_waits_for_a_transfer_and_no_longer_than_its_grace(self) -> None:
        """Idle connections end at once."""
        rig = self.rig()
        idle, busy = rig.connect(), rig.connect()
        busy.send(message(UPLOAD, bytes(100), "mp4")[:-50])
        drained = rig.gate.drain(30.0)
        self.assertTrue(idle.transport.ended)
        self.assertFalse(busy.transport.ended)
        idle.lose()
        self.assertNoResult(drained)
        rig.clock.advance(30.0)
        self.successResultOf(drained)

    def test_a_fault_that_can_not_be_told_ends_the_connection(self) -> None:
        """It is logged, with the fault that it should have told of."""
        client = self.rig().connect()

        def fail(*arguments: Any, **keywords: Any) -> None:
            raise RuntimeError("no answer")

        self.patch(client.protocol, "_send", fail)
        client.send(message({"action": "info"}))
        self.assertTrue(client.transport.aborted)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 2)

    def test_owner_only_hides_a_task_from_other_addresses(self) -> None:
        """They get 404, as for a task that does not exist."""
        rig = self.rig(settings=Settings(owner_only=True))
        client = rig.connect()
        task_id = self.upload(client)
        client.send(message({"action": "status", "task_id": task_id}))
        self.assertEqual(client.answer()["status"], "processing")
        other = rig.connect("192.0.2.9")
        other.send(message({"action": "cancel", "task_id": task_id}))
        self.assertEqual(self.code(other.answer()), 404)


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
        """Never an exception, never a fault of ours (500), and nothing is left behind."""
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


class AccessTests(SynchronousTestCase):
    def test_ipv6_addresses_count_by_their_network(self) -> None:
        """A client has a whole /64 to choose from; IPv4 in IPv6 is IPv4."""
        cases = {
            "192.0.2.1": "192.0.2.1",
            "2001:db8:1:2:3:4:5:6": "2001:db8:1:2::/64",
            "::ffff:192.0.2.1": "192.0.2.1",
            "fe80::1%eth0": "fe80::/64",
        }
        for host, key in cases.items():
            family = IPv6Address if ":" in host else IPv4Address
            self.assertEqual(peer_key(family("TCP", host, 1)), key)
        self.assertEqual(peer_key(UNIXAddress("/run/x")), "local")

    def test_a_token_file_names_its_bad_line_but_never_its_text(self) -> None:
        """Comments and blank lines are fine."""
        path = Path(self.mktemp())
        path.write_text("# who may\n\nann s3cret\nbob  t0ken\n")
        self.assertEqual(Tokens.read(path).check("t0ken"), "bob")
        path.write_text("ann s3cret\njust-one-word\n")
        error = self.assertRaises(ValueError, Tokens.read, path)
        self.assertIn("line 2", str(error))
        self.assertNotIn("just-one-word", str(error))
        path.write_text("# nobody\n")
        self.assertRaises(ValueError, Tokens.read, path)
        self.assertRaises(ServiceError, Tokens({"a": "b"}).check, None)


class TokenTests(ProtocolTestCase):
    """What tokens change for an MMP client."""

    tokens = {"ann": "s3cret", "bob": "t0ken"}

    def test_a_token_lists_its_own_tasks_newest_first(self) -> None:
        """In short form, and nobody else's."""
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
        """401, for whose tasks would it have?"""
        client = self.rig().connect()
        client.send(message({"action": "list"}))
        self.assertEqual(self.code(client.answer()), 401)

    def test_a_hundred_long_failures_fit_one_list(self) -> None:
        """With every text as long as it may get."""
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
        """Wherever its requests come from; another token at the same address has its own."""
        rig = self.rig(tokens=Tokens(self.tokens), settings=Settings(tasks_per_token=2))
        client = rig.connect()
        self.upload(client, token="s3cret")
        self.upload(rig.connect("192.0.2.7"), token="s3cret")
        other = rig.connect("192.0.2.8")
        other.send(message({**UPLOAD, "token": "s3cret"}, b"film", "mp4"))
        self.assertEqual(self.code(other.answer()), 429)
        self.upload(client, token="t0ken")
        self.upload(client, token="t0ken")
