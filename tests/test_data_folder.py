"""The data folder: recognising it, and what a start does with the files in it."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from vidproc.files import ownership
from vidproc.files.data_folder import DataFolder
from vidproc.files.ownership import FOLDERS, MARKER, NotADataFolder


class OwnershipTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.root = Path(self.mktemp())
        self.root.mkdir()

    def open(self) -> None:
        folder = DataFolder(self.root, 1 << 30)
        folder.open()
        folder.close()

    def assertRefused(self, *words: str) -> None:
        before = sorted(path for path in self.root.rglob("*"))
        error = self.assertRaises(NotADataFolder, self.open)
        for word in (str(self.root), *words):
            self.assertIn(word, str(error))
        self.assertEqual(sorted(path for path in self.root.rglob("*")), before)

    def test_a_new_folder_is_marked_with_its_format(self) -> None:
        """It can be opened again."""
        self.open()
        self.assertIn("format 1", (self.root / MARKER).read_text())
        self.open()

    def test_a_folder_that_is_not_there_is_made(self) -> None:
        """So are its parents."""
        self.root = self.root / "a" / "b"
        self.open()
        self.assertTrue((self.root / MARKER).is_file())

    def test_a_file_systems_own_folder_counts_as_nothing(self) -> None:
        """The root of a new volume contains one."""
        (self.root / "lost+found").mkdir()
        self.open()
        self.assertTrue((self.root / "lost+found").is_dir())

    def test_a_folder_with_anything_else_in_it_is_refused_and_left_alone(self) -> None:
        """Even if names in it are like ours."""
        for name in ("holiday.mp4", "inputs", "results", "tasks.sqlite", "orphans"):
            self.root = Path(self.mktemp())
            (self.root / name).mkdir(parents=True)
            (self.root / name / "film.mp4").write_bytes(b"precious")
            self.assertRefused(name, "--data-dir")

    def test_a_folder_of_an_earlier_version_is_recognised_and_marked(self) -> None:
        """Even without its store."""
        for name in FOLDERS:
            (self.root / name).mkdir()
        (self.root / "lock").touch()
        self.open()
        self.assertTrue((self.root / MARKER).is_file())

    def test_a_folder_of_an_earlier_version_with_a_strangers_file_is_refused(self) -> None:
        """It may not be a data folder after all."""
        for name in FOLDERS:
            (self.root / name).mkdir()
        (self.root / "lock").touch()
        (self.root / "thesis.tex").touch()
        self.assertRefused("thesis.tex")

    def test_a_strangers_file_in_a_data_folder_is_refused(self) -> None:
        """Once the file is moved away, the folder can be used again."""
        self.open()
        for name in ("holiday.mp4", "inputs.old", "tasks.sqlite.bak"):
            stranger = self.root / name
            stranger.write_bytes(b"precious")
            self.assertRefused(name, "Move it")
            self.assertEqual(stranger.read_bytes(), b"precious")
            stranger.unlink()
        self.open()

    def test_what_a_file_system_makes_by_itself_is_allowed(self) -> None:
        """For example, NFS keeps removed files that are still open under another name."""
        self.open()
        (self.root / ".nfs000000000001").touch()
        (self.root / "lost+found").mkdir()
        self.open()

    def test_a_start_that_was_cut_short_does_not_lock_the_folder_out(self) -> None:
        """The next start continues, whatever the first one had created."""

        class Cut(BaseException):
            pass

        made: list[object] = []

        def cut_at(number: int, name: str) -> None:
            inner = getattr(os, name)

            def call(*arguments: object, **keywords: object) -> object:
                made.append(name)
                if len(made) >= number:
                    raise Cut
                return inner(*arguments, **keywords)

            self.patch(os, name, call)

        for number in range(1, 12):
            self.root = Path(self.mktemp())
            made.clear()
            for name in ("open", "mkdir", "replace", "fsync"):
                cut_at(number, name)
            folder = DataFolder(self.root, 1 << 30)
            try:
                folder.open()
            except Cut:
                pass
            finally:
                self.doCleanups()
                folder.close()
            self.open()

    def test_a_newer_format_is_refused(self) -> None:
        """This version would misread the folder."""
        self.open()
        text = (self.root / MARKER).read_text()
        (self.root / MARKER).write_text(text.replace("format 1", "format 2"))
        self.assertRefused("format 2")

    def test_a_marker_that_says_nothing_is_refused(self) -> None:
        """Whatever the folder contains."""
        for content in (b"", b"\xff\xfe", b"format 1\n", os.urandom(100)):
            (self.root / MARKER).write_bytes(content)
            self.assertRefused(MARKER)

    def test_a_file_is_refused_as_a_folder(self) -> None:
        """It says so in one sentence."""
        self.root = self.root / "film.mp4"
        self.root.touch()
        error = self.assertRaises(NotADataFolder, ownership.check, self.root)
        self.assertIn("not a folder", str(error))


class SortOutTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = DataFolder(Path(self.mktemp()), 1 << 30)
        self.folder.open()
        self.addCleanup(self.folder.close)

    def put(self, key: str, content: bytes = b"film") -> Path:
        path = self.folder.path(key)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        return path

    def test_what_a_known_task_left_is_removed(self) -> None:
        """The input of an ended task, or a result that the store does not know."""
        for key in ("inputs/a", "uploads/a", "results/a.mp4", "work/a/1", "work/b/1"):
            self.put(key)
        kept = self.put("inputs/b")
        removed, moved = self.folder.sort_out({"inputs/b"}, {"a", "b"})
        self.assertEqual(removed, ["inputs/a", "uploads/a", "work/a", "work/b", "results/a.mp4"])
        self.assertEqual(moved, [])
        self.assertTrue(kept.exists())

    def test_what_no_task_has_left_is_moved_to_orphans(self) -> None:
        """If the store is lost, no film is lost."""
        self.put("inputs/a", b"one")
        self.put("uploads/a", b"two")
        self.put("results/a.mp4", b"three")
        removed, moved = self.folder.sort_out(set(), set())
        self.assertEqual((removed, moved), ([], ["inputs/a", "uploads/a", "results/a.mp4"]))
        found = {key: self.folder.path(key).read_bytes() for key, _ in self.folder.orphans()}
        self.assertEqual(
            found,
            {
                "orphans/inputs-a": b"one",
                "orphans/uploads-a": b"two",
                "orphans/results-a.mp4": b"three",
            },
        )
        self.assertEqual(
            self.folder.space.measure(), 11 + (self.folder.root / MARKER).stat().st_size
        )

    def test_an_orphan_takes_no_other_ones_place(self) -> None:
        """Even if the store is lost twice, no film is lost."""
        for content in (b"one", b"two"):
            self.put("inputs/a", content)
            self.folder.sort_out(set(), set())
        found = sorted(self.folder.path(key).read_bytes() for key, _ in self.folder.orphans())
        self.assertEqual(found, [b"one", b"two"])

    def test_orphans_are_listed_oldest_first(self) -> None:
        """With their bytes."""
        for age, name in ((10, "b"), (30, "a"), (20, "c")):
            path = self.put(f"orphans/{name}", b"x" * age)
            os.utime(path, (1e9 - age, 1e9 - age))
        self.assertEqual(
            self.folder.orphans(), [("orphans/a", 30), ("orphans/c", 20), ("orphans/b", 10)]
        )

    def test_a_second_name_outlives_the_first(self) -> None:
        """If links are not supported, it is a copy."""
        for refuse in (False, True):
            source = self.put("inputs/s", b"content")
            if refuse:

                def link(*arguments: object) -> None:
                    raise PermissionError(1, "Operation not permitted")

                self.patch(os, "link", link)
            target = f"work/second-{refuse}"
            self.folder.duplicate("inputs/s", target)
            source.unlink()
            self.assertEqual(self.folder.path(target).read_bytes(), b"content")


class RemovalTests(SynchronousTestCase):
    """A transfer that was told to stop may still be at work in the folder of an attempt."""

    def remove_while(self, call: str, after: int, change: Callable[[Path], None]) -> None:
        """Remove a folder that `change` changes before one of the calls of `os.unlink` and such."""
        root = Path(self.mktemp())
        folder = root / "work" / "task"
        (folder / "1").mkdir(parents=True)
        for name in ("a", "b", "c"):
            (folder / "1" / name).touch()
        real, calls = getattr(os, call), itertools.count()

        def change_first(*arguments: Any, **keywords: Any) -> Any:
            if next(calls) == after:
                patch.restore()  # for the change itself
                change(folder)
            return real(*arguments, **keywords)

        patch = self.patch(os, call, change_first)
        try:
            DataFolder(root, 1 << 30).remove("work/task")
        finally:
            patch.restore()
        self.assertFalse(folder.exists(), (call, after))

    def test_what_is_removed_meanwhile_is_no_error(self) -> None:
        """One file, or all of the folder."""

        def remove(folder: Path) -> None:
            (folder / "1" / "b").unlink(missing_ok=True)

        def remove_all(folder: Path) -> None:
            shutil.rmtree(folder, ignore_errors=True)

        for change in (remove, remove_all):
            for call in ("unlink", "scandir"):
                for after in range(4):
                    self.remove_while(call, after, change)

    def test_of_those_that_remove_a_file_at_once_one_gets_its_size(self) -> None:
        """Else its bytes would be free twice."""
        folder = DataFolder(Path(self.mktemp()), 1 << 30)
        (folder.root / "results").mkdir(parents=True)
        (folder.root / "results" / "a").write_bytes(bytes(7))
        real, sizes = os.unlink, []

        def unlink(*arguments: Any, **keywords: Any) -> None:
            patch.restore()
            sizes.append(folder.discard("results/a"))
            real(*arguments, **keywords)

        patch = self.patch(os, "unlink", unlink)
        sizes.append(folder.discard("results/a"))
        self.assertEqual(sizes, [7, 0])
        self.assertEqual(folder.discard("results/a"), 0)

    def test_what_is_added_meanwhile_goes_too(self) -> None:
        """The folder is not left behind for it."""

        def add(folder: Path) -> None:
            if (folder / "1").exists():
                (folder / "1" / "late").touch()

        for call in ("unlink", "scandir"):
            for after in range(4):
                self.remove_while(call, after, add)
