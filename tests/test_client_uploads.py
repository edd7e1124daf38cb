"""Uploads that survive broken connections."""

from __future__ import annotations

import os

from tests.client_harness import (
    TASK,
    ServerCase,
    refusal,
)
from vidproc.client.errors import (
    InputChanged,
    Refused,
)


class UploadTests(ServerCase):
    """Sending a file."""

    async def test_a_file_arrives_whole_with_its_kind_and_parameters(self) -> None:
        """The payload is the file, the media type its extension; the task ID is returned."""
        path = self.film()
        sent: list[int] = []
        task_id = await self.send(self.client(), path, sent.append)
        self.assertEqual(task_id, TASK)
        [request] = self.server.requests
        self.assertEqual(request["action"], "upload")
        self.assertEqual(request["type"], "gif")
        self.assertEqual(request["parameters"], {"start_time": 0, "duration": 5})
        self.assertEqual(request["size"], 3_000_000)
        self.assertEqual(self.server.uploads[request["upload_id"]], path.read_bytes())
        self.assertEqual((sent[0], sent[-1]), (0, 3_000_000))

    async def test_a_token_goes_with_every_request_and_never_into_the_log(self) -> None:
        """The JSON has the token, but the log does not."""
        client = self.client(token="s3cret")
        await self.send(client, self.film(1000))
        await client.request("status", task_id=TASK)
        self.assertEqual([fields.get("token") for fields in self.server.requests], ["s3cret"] * 2)
        self.assertNotIn("s3cret", self.logged.getvalue())

    async def test_an_early_refusal_ends_a_big_upload_at_once(self) -> None:
        """An error that arrives during the payload is reported; the rest is not sent."""
        self.server.refuse_head = refusal(413)
        path = self.folder / "big.mp4"
        path.touch()
        os.truncate(path, 1 << 30)  # sparse
        sent: list[int] = []
        refused = await self.fails(Refused, self.send(self.client(), path, sent.append))
        self.assertEqual((refused.code, refused.solution), (413, "Solution of 413."))
        self.assertLess(sent[-1], 1 << 28)

    async def test_a_broken_upload_goes_on_at_the_servers_offset(self) -> None:
        """After a break the client asks the server what it has, and sends only the rest."""
        self.server.cut_upload_at = 1_000_000
        path = self.film()
        self.assertEqual(await self.send(self.client(), path), TASK)
        self.assertEqual(self.server.actions(), ["upload", "upload_status", "upload"])
        first, _, second = self.server.requests
        self.assertEqual(second["offset"], 1_000_000)
        self.assertEqual(second["upload_id"], first["upload_id"])
        self.assertEqual(self.server.uploads[first["upload_id"]], path.read_bytes())
        self.assertEqual(len(self.notices), 1)

    async def test_a_server_that_cannot_resume_gets_a_plain_upload_again(self) -> None:
        """After a 400 to upload_status, the client starts over instead of giving up."""
        self.server.cut_upload_at = 1_000_000
        self.server.unknown = {"upload_status"}
        path = self.film()
        self.assertEqual(await self.send(self.client(), path), TASK)
        last = self.server.requests[-1]
        self.assertNotIn("offset", last)
        self.assertEqual(self.server.uploads[last["upload_id"]], path.read_bytes())

    async def test_an_upload_that_was_complete_is_not_sent_again(self) -> None:
        """If upload_status returns `accepted`, the upload is done."""
        self.server.cut_upload_at = 3_000_000
        self.server.do_upload_status = self.server.do_upload  # type: ignore[method-assign]
        self.assertEqual(await self.send(self.client(), self.film()), TASK)
        self.assertEqual(self.server.actions(), ["upload", "upload_status"])

    async def test_a_wrong_offset_is_corrected_by_the_servers(self) -> None:
        """The client uses the right offset from the 409, and the file arrives intact."""
        answers = [refusal(409, offset=1_000_000), {"status": "accepted", "task_id": TASK}]
        self.server.do_upload = lambda peer: peer.answer(answers.pop(0))  # type: ignore
        self.assertEqual(await self.send(self.client(), self.film()), TASK)
        self.assertEqual(self.server.requests[-1]["offset"], 1_000_000)

    async def test_a_file_that_changes_is_not_resumed(self) -> None:
        """Otherwise the server would get a mixture of the two files."""
        self.server.cut_upload_at = 1_000_000
        path = self.film()

        def change(sent: int) -> None:
            os.utime(path, ns=(1, 1))

        await self.fails(InputChanged, self.send(self.client(), path, change))

    async def test_a_file_that_shrinks_while_it_is_sent_is_reported(self) -> None:
        """A read that ends early ends the upload with a sentence."""
        path = self.film()

        def shrink(sent: int) -> None:
            os.truncate(path, 1000)

        await self.fails(InputChanged, self.send(self.client(), path, shrink))
