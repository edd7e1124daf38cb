"""The videos of a batch, and the names of their results."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from vidproc.client.command_line import parse_command_line
from vidproc.client.films import existing_result
from vidproc.client.options import Options, UsageError


class FilmsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir(parents=True)

    def film(self, name: str, content: bytes = b"film") -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    def parse(self, line: str) -> Options:
        words = [word.replace("DIR", str(self.folder)) for word in shlex.split(line)]
        return parse_command_line([*words, "--type", "compress"])

    def stems(self, line: str) -> list[str]:
        return [film.stem for film in self.parse(line).films]

    def names(self, line: str) -> list[str]:
        return [film.path.relative_to(self.folder).as_posix() for film in self.parse(line).films]

    def usage(self, line: str) -> str:
        return "\n".join(self.assertRaises(UsageError, self.parse, line).lines)

    def test_one_file_is_no_batch(self) -> None:
        self.film("a.mp4")
        options = self.parse("DIR/a.mp4")
        self.assertEqual((options.action, options.films), ("process", ()))

    def test_a_folder_is_the_videos_in_it(self) -> None:
        """Without hidden files, other kinds, folders, and results next to their video."""
        for name in ("b.MKV", "a.mp4", ".c.mp4", "d.txt", "deeper/e.mp4"):
            self.film(name)
        for name in ("a_processed.mp4", "a_processed_2.mp4", "x_processed.mp4"):
            self.film(name)
        (self.folder / "f.mp4").mkdir()
        self.assertEqual(self.names("DIR"), ["a.mp4", "b.MKV", "x_processed.mp4"])

    def test_each_video_comes_once(self) -> None:
        """Even if it is named several times: itself, its folder, a link."""
        self.film("a.mp4")
        (self.folder / "b.mp4").symlink_to(self.folder / "a.mp4")
        self.assertEqual(self.names("DIR/a.mp4 DIR DIR/a.mp4"), ["a.mp4"])

    def test_a_folder_without_videos_is_a_usage_error(self) -> None:
        self.film("deeper/a.mp4")
        self.assertIn("folders inside it are not searched", self.usage("DIR"))

    def test_a_named_file_that_cannot_be_sent_is_a_usage_error(self) -> None:
        """Before anything is sent."""
        self.film("a.mp4")
        self.assertIn("does not exist", self.usage("DIR/a.mp4 DIR/absent.mp4"))

    def test_a_found_file_that_cannot_be_sent_does_not_hold_up_the_others(self) -> None:
        self.film("a.mp4")
        self.film("b.mp4", b"")
        self.assertEqual([bool(film.problem) for film in self.parse("DIR").films], [False, True])

    def test_the_output_folder_is_created(self) -> None:
        self.film("a.mp4")
        [film] = self.parse("DIR --output DIR/x/y/").films
        self.assertEqual(film.folder, self.folder / "x" / "y")
        self.assertTrue(film.folder.is_dir())
        self.film("file")
        self.assertIn("must be a folder", self.usage("DIR --output DIR/file"))

    def test_results_go_beside_their_inputs(self) -> None:
        self.film("a/x.mp4")
        self.film("b/x.mp4")
        folders = [film.folder for film in self.parse("DIR/a DIR/b").films]
        self.assertEqual(folders, [self.folder / "a", self.folder / "b"])
        self.assertEqual(self.stems("DIR/a DIR/b"), ["x_processed"] * 2)

    def test_names_never_collide(self) -> None:
        """The folder, the extension or a number distinguishes them; upper case alone does not."""
        for name in ("a/x.mp4", "b/X.mp4", "c/x.mp4", "c/x.mkv", "c/y.mp4", "c/y.mkv"):
            self.film(name)
        self.film("d/a_x_mp4.avi")
        line = "DIR/a DIR/b DIR/c DIR/d --output DIR/out"
        stems = self.stems(line)
        self.assertEqual(len({stem.casefold() for stem in stems}), len(stems))
        self.assertIn("y_mkv_processed", stems)
        self.assertIn("b_X_mp4_processed", stems)
        self.assertEqual(stems, self.stems(line))

    def test_a_result_never_has_the_name_of_an_input(self) -> None:
        """With `--force` the result would replace the input."""
        for name in ("x.mp4", "x_processed.mp4"):
            self.film(name)
        stems = self.stems("DIR/x.mp4 DIR/x_processed.mp4 --force")
        self.assertEqual(stems, ["x-2_processed", "x_processed_processed"])

    def test_a_long_name_stays_one_that_a_disk_takes(self) -> None:
        for folder in ("a" * 100, "b" * 100):
            self.film(f"{folder}/{'x' * 150}.mp4")
        stems = self.stems(f"DIR/{'a' * 100} DIR/{'b' * 100} --output DIR/out")
        self.assertEqual(len(set(stems)), 2)
        self.assertLess(max(map(len, stems)), 250)

    def test_existing_results_are_found_by_type(self) -> None:
        """A GIF is not the result of `compress`."""
        self.film("a.mkv")
        self.film("out/a_processed.gif")
        options = self.parse("DIR --output DIR/out --skip-existing")
        [film] = options.films
        self.assertIsNone(existing_result(options, film))
        path = self.film("out/a_processed.mkv")
        self.assertEqual(existing_result(options, film), path)

    def test_options_that_contradict_each_other(self) -> None:
        self.film("a.mp4")
        self.assertIn("cannot be combined", self.usage("DIR --force --skip-existing"))
        self.assertIn("cannot be combined", self.usage("DIR --output DIR --detach"))

    def test_a_name_that_is_no_text_is_fine(self) -> None:
        (self.folder / os.fsdecode(b"\xff.mp4")).write_bytes(b"film")
        self.assertEqual(len(self.parse("DIR").films), 1)
