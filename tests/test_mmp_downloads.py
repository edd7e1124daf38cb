"""Downloads and watches over MMP."""

from __future__ import annotations

import hashlib
import os
from typing import Any

from tests.mmp_case import ProtocolTestCase
from tests.rig import complete_step, message


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
        """At the end it is empty; past the end it gets 409."""
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
        """It uses one connection's buffers, for a limited time."""
        self.complete(self.server, bytes(3_000_000))
        self.client.protocol.pauseProducing()
        self.client.send(message({"action": "download", "task_id": self.task_id}))
        for _ in range(4):
            self.server.clock.advance(60)
        self.assertTrue(self.client.transport.aborted)

    def test_a_download_cut_off_does_not_count_as_fetched(self) -> None:
        """The file is closed and may be pruned."""
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

    def test_a_watch_sends_at_once_on_change_and_at_the_end(self) -> None:
        """The last message is terminal, and the connection serves further requests."""
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

    def test_a_status_that_cannot_be_sent_ends_the_connection_alone(self) -> None:
        """The client gets an error; the task service is not affected."""
        complete_step(self.server.runner.running[0])  # the probe
        self.client.send(message({**self.watch, "detail": True}))
        self.client.answers()
        attempt = self.server.tasks.queue._entries[self.task_id].attempt
        assert attempt is not None
        attempt.input["codec"] = object()  # a value that JSON can't represent
        self.complete(self.server)
        answer = self.client.answers()[-1][0]
        self.assertEqual((answer["error"]["code"], answer["id"]), (500, "w"))
        self.assertTrue(self.client.transport.ended)
        self.assertEqual(len(self.server.tasks.queue.watches), 0)
        self.assertEqual(len(self.flushLoggedErrors(TypeError)), 2)
        # The store can't hold it either: the task fails, but others continue.
        status = {"action": "status", "task_id": self.task_id}
        answers = self.server.connect().request(status)
        self.assertEqual((answers[0][0]["status"], answers[0][0]["error_code"]), ("failed", 500))
        self.assertEqual(self.server.tasks.queue.running, 0)

    def test_a_watch_sends_once_per_interval(self) -> None:
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
        """A client that sees the end of its task may send the next one."""
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
        """There is nobody left to notify."""
        self.client.send(message(self.watch))
        self.client.lose()
        self.assertEqual(len(self.server.tasks.queue.watches), 0)
