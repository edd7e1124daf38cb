"""Every operation on a runner that knows only what its commands declare."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from twisted.trial.unittest import TestCase

from support.travel import TravellingRunner
from tests import media_harness as media
from vidproc.ffmpeg.command import Command
from vidproc.operations import segments
from vidproc.operations.gif import commands
from vidproc.operations.registry import get_operation


class TravellingTests(TestCase):
    timeout = 300

    def setUp(self) -> None:
        self.runner = TravellingRunner()
        self.folder = media.scratch(self)

    def process(self, clip: Path, operation: str, **fields: Any) -> media.Result:
        result = media.process(clip, operation, fields, self.folder, runner=self.runner)
        self.assertGreaterEqual(self.runner.journeys, len(result.commands))
        return result

    def short(self, seconds: float = 2.0, size: str = "192x108") -> Path:
        return media.synthesise(
            self.folder / "short.mp4", lavfi=f"testsrc2=s={size}:r=25", seconds=seconds
        )

    def test_resolution(self) -> None:
        self.process(media.FLOWER, "resolution", width=160, height=90)

    def test_aspect_ratio(self) -> None:
        self.process(self.short(), "aspect_ratio", aspect_ratio="4:3", fit="crop")

    def test_extract_audio(self) -> None:
        self.process(media.FLAC, "extract_audio")

    def test_gif_that_tries_its_recipes(self) -> None:
        result = self.process(self.short(), "gif", start_time=0, duration=1, width=96)
        self.assertIn("attempt-1-plain.gif", result.commands[0].outputs)

    def test_gif_that_must_fit_a_size(self) -> None:
        fields = {"start_time": 0, "duration": 2, "width": 192, "max_size": 60_000}
        self.assertGreater(len(self.process(self.short(), "gif", **fields).commands), 1)

    def test_gif_with_a_palette_file(self) -> None:
        self.patch(commands, "BUFFER", 100_000)
        result = self.process(self.short(), "gif", start_time=0, duration=2, width=192)
        self.assertEqual([c.stage for c in result.commands], ["palette", "encoding"])

    def test_webm_in_segments(self) -> None:
        self.patch(segments, "LEAST", 0.4)
        result = self.process(self.short(), "webm", start_time=0, duration=2)
        self.assertEqual([c.stage for c in result.commands], ["encoding", "encoding", "joining"])

    def test_webm_as_a_whole(self) -> None:
        result = self.process(media.FRIDAY, "webm", start_time=1, duration=1, width=128)
        self.assertEqual(len(result.commands), 1)

    def test_compress_with_a_search(self) -> None:
        clip = self.short(4.0)
        result = self.process(clip, "compress", preset="fast", quality=80)
        self.assertLess(result.path.stat().st_size, clip.stat().st_size)

    def test_compress_to_a_size_in_two_passes(self) -> None:
        """The pass log is copied as well."""
        clip = self.short(4.0)
        target = clip.stat().st_size // 2
        for codec in ("h264", "hevc"):
            fields = {"codec": codec, "target_size": target, "preset": "fast"}
            result = self.process(clip, "compress", **fields)
            self.assertIn("analysing", [c.stage for c in result.commands])
            self.assertLess(result.path.stat().st_size, target)

    def test_compress_that_leaves_the_film_as_it_is(self) -> None:
        self.process(media.SCREENCAST, "compress", quality=99, preset="fast")


class DeclaredNeedTests(TestCase):
    """The runner in all tests of operations notices if a command declares too little."""

    def run_with(self, **changes: Any) -> None:
        folder = media.scratch(self)
        clip = media.synthesise(folder / "clip.mp4", lavfi="testsrc2=s=640x360:r=25", seconds=4)
        resolution = get_operation("resolution")
        plan = type(resolution).plan

        def lie(*arguments: Any) -> Any:
            made = plan(*arguments)
            (command,) = made.commands
            assert isinstance(command, Command)
            return replace(made, commands=(replace(command, **changes),))

        self.patch(type(resolution), "plan", lie)
        media.process(clip, "resolution", {"width": 320, "height": 180}, folder)

    def test_too_little_memory(self) -> None:
        self.assertRaises(AssertionError, self.run_with, memory=1 << 20)

    def test_what_is_true_passes(self) -> None:
        self.run_with()


class DeclaredThreadsTests(TestCase):
    def test_no_thread_count_is_said_before_the_runner_says_it(self) -> None:
        """Plans do not depend on the number of threads."""
        self.patch(segments, "LEAST", 0.4)
        folder = media.scratch(self)
        clip = media.synthesise(folder / "clip.mp4", lavfi="testsrc2=s=192x108:r=25", seconds=2)
        fields = {"start_time": 0, "duration": 2}
        result = media.process(clip, "webm", fields, folder, runner=TravellingRunner())
        for command in result.commands:
            one, seven = (command.resolve(str, threads) for threads in (1, 7))
            differing = [(a, b) for a, b in zip(one, seven, strict=True) if a != b]
            self.assertTrue(set(differing) <= {("1", "7"), ("2", "8")}, differing)
            self.assertIn(("1", "7"), differing)
