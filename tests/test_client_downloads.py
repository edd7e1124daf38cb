"""Downloads that survive broken connections, and their files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from tests.client_harness import (
    TASK,
    ServerCase,
)
from vidproc.client.answer import Answer
from vidproc.client.errors import (
    ChecksumMismatch,
    ResultNotWritten,
)
from vidproc.client.files import PartFile
from vidproc.mmp.errors import RemoteProtocolError


class DownloadTests(ServerCase):
    """Fetching a result."""

    async def fetch(self, part: PartFile, target: Path) -> None:
        await self.client().download(TASK, part)
        part.finish(target)

    async def test_a_result_gets_its_name_only_when_it_is_checked(self) -> None:
        """If size and SHA-256 are right, the partial file becomes the result."""
        part = self.part()
        target = self.folder / "out.gif"
        await self.fetch(part, target)
        self.assertEqual(target.read_bytes(), self.server.result)
        self.assertEqual(part.media_type, "gif")
        self.assertEqual(list(self.folder.iterdir()), [target])

    async def test_a_cut_download_goes_on_where_it_stopped(self) -> None:
        """The second request has the offset that the file has reached."""
        self.server.cut_download_at = 2500
        target = self.folder / "out.gif"
        await self.fetch(self.part(), target)
        self.assertEqual(target.read_bytes(), self.server.result)
        self.assertEqual([fields.get("offset") for fields in self.server.requests], [None, 2500])

    async def test_what_an_earlier_run_left_is_not_fetched_again(self) -> None:
        """The partial file's name depends only on the task; its bytes are part of the checksum."""
        left = self.folder / f".vidproc-{TASK}.part"
        left.write_bytes(self.server.result[:3000])
        target = self.folder / "out.gif"
        await self.fetch(self.part(), target)
        self.assertEqual(target.read_bytes(), self.server.result)
        self.assertEqual(self.server.requests[0]["offset"], 3000)
        self.assertFalse(left.exists())

    async def test_a_server_without_offsets_sends_it_all_again(self) -> None:
        """An answer without offset, size and checksum starts at byte 0."""
        (self.folder / f".vidproc-{TASK}.part").write_bytes(b"x" * 3000)
        self.server.bare = True
        target = self.folder / "out.gif"
        await self.fetch(self.part(), target)
        self.assertEqual(target.read_bytes(), self.server.result)

    async def test_a_wrong_checksum_gives_no_file(self) -> None:
        """A damaged result never gets the target's name."""
        self.server.checksum = "0" * 64
        part = self.part()
        target = self.folder / "out.gif"
        await self.fails(ChecksumMismatch, self.fetch(part, target))
        self.assertFalse(target.exists())

    async def test_an_answer_from_another_offset_is_not_mixed_in(self) -> None:
        """Bytes that do not follow the ones received before are refused."""
        part = self.part()
        part.write(b"abc")
        with self.assertRaises(RemoteProtocolError):
            part.begin(Answer({"offset": 2, "size": 10}, "gif", 8))

    async def test_sizes_that_contradict_each_other_are_refused(self) -> None:
        """Header and JSON must agree."""
        with self.assertRaises(RemoteProtocolError):
            self.part().begin(Answer({"offset": 0, "size": 10}, "gif", 8))

    async def test_a_hostile_task_id_or_kind_does_not_leave_the_folder(self) -> None:
        """Text from the network never becomes a path."""
        part = self.part("../../etc/passwd")
        self.assertEqual(part.path.parent, self.folder)
        part.begin(Answer({}, "/../x", 0))
        self.assertEqual(part.media_type, "bin")

    async def test_a_part_that_is_a_link_is_not_followed(self) -> None:
        """In a shared folder, someone else may have created it."""
        victim = self.folder / "victim"
        victim.write_bytes(b"precious")
        (self.folder / f".vidproc-{TASK}.part").symlink_to(victim)
        with self.assertRaises(ResultNotWritten):
            PartFile(self.folder, TASK).open()
        self.assertEqual(victim.read_bytes(), b"precious")

    async def test_a_part_with_a_second_name_is_left_to_that_name(self) -> None:
        """If a run was killed while it renamed its result, that result must not change."""
        named = self.folder / "film_processed.gif"
        named.write_bytes(b"x" * 5000)
        os.link(named, self.folder / f".vidproc-{TASK}.part")
        target = self.folder / "out.gif"
        await self.fetch(self.part(), target)
        self.assertEqual(named.read_bytes(), b"x" * 5000)
        self.assertEqual(target.read_bytes(), self.server.result)
        self.assertNotIn("offset", self.server.requests[0])

    async def test_a_taken_name_is_kept_on_a_file_system_without_links(self) -> None:
        """Even if it is taken between the check and the move."""
        part = self.part()
        target = self.folder / "out.gif"

        def refuse(source: Path, name: Path) -> None:
            if name == target:
                target.write_bytes(b"mine")
            raise PermissionError(1, "Operation not permitted")

        self.patch(os, "link", refuse)
        await self.client().download(TASK, part)
        named = part.finish(target, replace=False)
        self.assertEqual(target.read_bytes(), b"mine")
        self.assertEqual(named, self.folder / "out_2.gif")
        self.assertEqual(named.read_bytes(), self.server.result)

    async def test_a_failed_move_leaves_no_empty_file(self) -> None:
        """The name that it took is free again."""
        part = self.part()

        def refuse(*names: Any) -> None:
            raise OSError(5, "Input/output error")

        self.patch(os, "link", refuse)
        self.patch(Path, "replace", refuse)
        await self.client().download(TASK, part)
        with self.assertRaises(ResultNotWritten):
            part.finish(self.folder / "out.gif", replace=False)
        self.assertEqual(list(self.folder.iterdir()), [part.path])

    async def test_a_full_disk_ends_the_download_with_a_sentence(self) -> None:
        """The system's message is shown; the partial file is kept."""

        class FullDisk:
            offset = 0

            def begin(self, answer: Answer) -> None:
                pass

            def write(self, data: Any) -> None:
                raise ResultNotWritten("The result can't be written: No space left on device.")

        await self.fails(ResultNotWritten, self.client().download(TASK, FullDisk()))
