"""Films cut for a cluster: the frames, times and sound that they have when they are not cut."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase, TestCase

from support.job import RealJob
from support.travel import TravellingRunner
from tests import media_harness as media
from tests.test_segments import film, packets, worst_psnr
from vidproc.ffmpeg.command import Command, OnProgress, Part, Workspace
from vidproc.ffmpeg.media import VideoStream
from vidproc.ffmpeg.survey import Stretch
from vidproc.operations import segments, spread
from vidproc.runners.ffmpeg_process import MediaProcess
from vidproc.runners.interface import RunningCommand

_X264 = ("-c:v", "libx264", "-preset", "ultrafast")


class DivideTests(SynchronousTestCase):
    """Into which segments a film is cut."""

    def divide(self, length: float | None, cores: int) -> list[float]:
        video = VideoStream(
            index=0, codec="h264", width=64, height=64, duration=length, frame_rate=25.0
        )
        return spread.divide(film(video={"duration": length}), video.duration, cores)

    def test_the_last_ones_are_the_shortest(self) -> None:
        """So that all cores are done at about the same time, whatever each segment takes."""
        self.assertEqual(self.divide(30.0, 2), [7.5] * 4)
        self.assertEqual(self.divide(60.0, 2), [15.0, 15.0, *[7.5] * 4])
        self.assertEqual(self.divide(640.0, 2), [160, 160, 80, 80, 40, 40, *[20] * 4])
        for length, cores in ((60.0, 3), (7200.0, 100), (7200.0, 300), (36_000.0, 900)):
            lengths = self.divide(length, cores)
            self.assertAlmostEqual(sum(lengths), length, places=6)
            self.assertEqual(lengths, sorted(lengths, reverse=True))
            self.assertLessEqual(len(lengths), spread.MOST)
            self.assertLessEqual(max(lengths), length / cores)

    def test_none_is_shorter_than_four_seconds(self) -> None:
        self.assertEqual(self.divide(60.0, 12), [5.0] * 12)
        self.assertEqual(self.divide(60.0, 100), [4.0] * 15)
        self.assertEqual(len(self.divide(60_000.0, 5000)), spread.MOST)

    def test_what_stays_whole(self) -> None:
        """A short film, one of unknown length, one core, no cluster."""
        self.assertEqual(self.divide(29.9, 8), [])
        self.assertEqual(self.divide(None, 8), [])
        self.assertEqual(self.divide(60.0, 1), [])
        self.assertEqual(self.divide(60.0, 0), [])


class TickTests(SynchronousTestCase):
    def test_a_constant_rate_has_its_own_grid(self) -> None:
        """A low rate and a variable one have 90,000 ticks a second."""

        def tick(rate: float, constant: bool = True) -> Fraction:
            return spread.tick_for(film(video={"frame_rate": rate, "constant_rate": constant}))

        self.assertEqual(tick(25.0), Fraction(1, 25))
        self.assertEqual(tick(24000 / 1001), Fraction(1001, 24000))
        self.assertEqual(tick(60000 / 1001), Fraction(1001, 60000))
        for other in (tick(25.0, False), tick(10.0), tick(26.317)):
            self.assertEqual(other, Fraction(1, 90000))

    def test_lengths_of_segments_do_not_drift(self) -> None:
        """Their sum is off by less than a microsecond, however many there are."""
        tick = Fraction(1001, 24000)
        made = []
        for number in range(500):
            stretch = Stretch(
                start=0, end=None, at=None, frames=97, first=97 * number, last=97 * number + 96,
                ranges=None,
            )  # fmt: skip
            made.append(spread.Segment(number, stretch, 97 * number, number > 0))
        cut = spread.Film(film(), tuple(made), tick, 2000.0)
        lines = cut.listing.decode().split()
        lengths = [int(word[:-2]) for word in lines if word.endswith("us")]
        self.assertEqual(len(lengths), 499)
        self.assertEqual(sum(lengths), round(97 * 499 * tick * 1_000_000))


class CutFilmTests(TestCase):
    """Real films, cut although they are short."""

    timeout = 240

    def setUp(self) -> None:
        self.patch(spread, "LEAST_FILM", 1.0)
        self.patch(spread, "LEAST", 0.5)
        self.patch(spread, "FINEST", 1)  # one for each core
        self.folder = media.scratch(self)

    def process(
        self, clip: Path, name: str, runner: Any, operation: str = "resolution", **fields: Any
    ) -> media.Result:
        fields = fields or {"width": 128, "height": 72}
        return media.process(clip, operation, fields, self.folder / name, runner=runner)

    def assert_same(
        self,
        clip: Path,
        operation: str = "resolution",
        *,
        encodes: int = 3,
        tolerance: float = 0.00002,
        **fields: Any,
    ) -> tuple[media.Result, media.Result]:
        """Check the film that is cut into three segments against the one that is not cut."""
        name = f"{operation}-{len(list(self.folder.iterdir()))}"
        cut = self.process(clip, f"{name}-cut", TravellingRunner(cores=3), operation, **fields)
        whole = self.process(clip, f"{name}-whole", TravellingRunner(), operation, **fields)
        stages = [command.stage for command in cut.commands]
        self.assertEqual(stages.count("encoding"), encodes)
        self.assertEqual(cut.product.details, {"chunks": 3})
        self.assertEqual(stages[-1], "joining")
        one, other = media.times(cut.path), media.times(whole.path)
        self.assertEqual(len(one), len(other))
        self.assertLess(max(abs(a - b) for a, b in zip(one, other, strict=True)), tolerance)
        self.assertGreater(worst_psnr(cut.path, whole.path), 30.0)
        self.assertAlmostEqual(cut.media.duration or 0, whole.media.duration or 1, places=3)
        self.assertEqual(len(cut.media.audio), len(whole.media.audio))
        if cut.media.audio:
            self.assertEqual(packets(cut.path, "audio"), packets(whole.path, "audio"))
        assert cut.media.video is not None and whole.media.video is not None
        self.assertEqual(cut.media.video.constant_rate, whole.media.video.constant_rate)
        self.assertEqual(cut.warnings, whole.warnings)
        return cut, whole

    def test_a_constant_rate_in_milliseconds_and_a_late_start(self) -> None:
        """Matroska rounds times; the file starts at 5 s, its video 0.7 s after its audio."""
        clip = media.synthesise(
            self.folder / "late.mkv",
            *("-itsoffset", "-0.7", "-f", "lavfi", "-t", "4", "-i", "sine=r=44100"),
            *(*_X264, "-bf", "3", "-g", "20", "-c:a", "aac", "-output_ts_offset", "5.7"),
            lavfi="testsrc2=s=192x108:r=24000/1001",
            seconds=3,
        )
        cut, _ = self.assert_same(clip)
        self.assertLess(abs(media.times(cut.path)[0] - 0.7), 0.05)

    def test_variable_rate_and_rotation(self) -> None:
        """A phone's film, whose time stamps follow no grid."""
        self.assert_same(media.FIRE)

    def test_interlaced_with_open_gops(self) -> None:
        """The deinterlacer sees the frames before a segment."""
        clip = media.synthesise(
            self.folder / "tff.mp4",
            *("-vf", "interlace,setfield=tff", "-flags", "+ildct+ilme", *_X264, "-bf", "3"),
            *("-x264opts", "tff=1:keyint=20:open-gop=1:scenecut=0"),
            lavfi="testsrc2=s=192x144:r=50",
            seconds=3,
        )
        self.assert_same(clip)

    def test_gaps_and_audio_longer_than_the_video(self) -> None:
        clip = media.synthesise(
            self.folder / "gaps.mp4",
            *("-f", "lavfi", "-t", "5", "-i", "sine=r=44100", *_X264, "-g", "20"),
            *("-vf", "setpts=PTS+gte(N\\,40)*0.6/TB", "-fps_mode", "vfr", "-c:a", "aac"),
            lavfi="testsrc2=s=192x108:r=25",
            seconds=3,
        )
        self.assert_same(clip)

    def test_an_edit_list_and_another_shape(self) -> None:
        """The file begins within a GOP, as editors cut without encoding."""
        full = media.synthesise(
            self.folder / "full.mp4",
            *("-f", "lavfi", "-t", "4", "-i", "sine=r=44100", *_X264, "-bf", "2", "-g", "30"),
            lavfi="testsrc2=s=192x108:r=25",
            seconds=4,
        )
        edited = self.folder / "edited.mp4"
        media.ffmpeg("-ss", "0.7", "-i", full, "-c", "copy", edited)
        self.assert_same(edited, "aspect_ratio", aspect_ratio="1:1", fit="crop")

    def test_periodic_intra_refresh(self) -> None:
        """Only the first of its keyframes is whole; no segment begins at another."""
        clip = media.synthesise(
            self.folder / "refresh.mp4",
            *(*_X264, "-x264-params", "intra-refresh=1:keyint=50"),
            lavfi="testsrc2=s=192x108:r=25",
            seconds=5,
        )
        self.assert_same(clip)

    def test_webm_from_the_middle(self) -> None:
        """Neither the clip nor the file begins at 0, and no frame is at a round number."""
        clip = media.synthesise(
            self.folder / "ntsc.mkv",
            *("-f", "lavfi", "-t", "4", "-i", "sine=r=44100", *_X264, "-bf", "3", "-g", "40"),
            *("-c:a", "aac", "-output_ts_offset", "5"),
            lavfi="testsrc2=s=192x108:r=30000/1001",
            seconds=4,
        )
        self.patch(segments, "MOST", 1)
        for codec in ("vp9", "av1"):
            fields: dict[str, Any] = {"start_time": 0.517, "duration": 2.2, "width": 128}
            self.assert_same(clip, "webm", tolerance=0.00101, codec=codec, **fields)

    def test_cuts_move_further_to_keyframes_where_shorter_segments_follow(self) -> None:
        """Those even out what the moved cuts do."""
        clip = media.synthesise(
            self.folder / "clip.mp4", *_X264, "-g", "100", lavfi="testsrc2=s=96x64:r=25", seconds=12
        )
        for lengths, frames in (([3, 3, 3, 2, 1], [100, 50, 75]), ([3, 3, 3, 3], [75, 75, 75])):
            job: Any = RealJob(clip, self.folder, None)
            cutting = spread.cut(job, lengths, tick=spread.FINE)
            done = self.assertRaises(StopIteration, cutting.send, None)
            cut: spread.Film = done.value
            self.assertEqual([each.stretch.frames for each in cut.segments[:3]], frames)

    def test_a_lost_worker_costs_its_segment_alone(self) -> None:
        """A killed process is started again while the others go on."""
        runner = Killer(cores=3)
        cut = self.process(media.FLOWER, "cut", runner)
        self.assertEqual(cut.product.details, {"chunks": 3})
        self.assertEqual(runner.started, 4)
        self.assertEqual(len(media.times(cut.path)), 150)

    def test_bytes_that_are_missing(self) -> None:
        """A segment that was given too few bytes is encoded from the whole file."""
        runner = Miser(cores=3)
        cut = self.process(media.COCKATOO, "cut", runner)
        self.assertEqual(cut.product.details, {"chunks": 3})
        self.assertEqual(len(media.times(cut.path)), 280)
        self.assertEqual([part is None for part in runner.parts], [False, False, False, True])

    def test_a_short_film_stays_whole(self) -> None:
        self.patch(spread, "LEAST_FILM", 6.0)
        whole = self.process(media.FLOWER, "whole", TravellingRunner(cores=3))
        self.assertEqual(len(whole.commands), 1)


class Killer(TravellingRunner):
    """Kills the process of the second segment, once. `started` counts segments."""

    started = 0

    def start(
        self, command: Command, workspace: Workspace, threads: int, on_progress: OnProgress
    ) -> RunningCommand:
        """Start a command."""
        running = super().start(command, workspace, threads, on_progress)
        if command.part is not None:
            self.started += 1
            if self.started == 2:
                assert isinstance(running, MediaProcess) and running.pid is not None
                os.kill(running.pid, signal.SIGKILL)
        return running


class Miser(TravellingRunner):
    """Takes nothing but the first bytes of a source to the second segment's machine."""

    def __init__(self, **rest: Any) -> None:
        super().__init__(**rest)
        self.parts: list[Part | None] = []

    def start(
        self, command: Command, workspace: Workspace, threads: int, on_progress: OnProgress
    ) -> RunningCommand:
        """Start a command."""
        if command.stage == "encoding":
            self.parts.append(command.part)
            if len(self.parts) == 2:
                assert command.part is not None
                command = replace(command, part=replace(command.part, ranges=((0, 4096),)))
        return super().start(command, workspace, threads, on_progress)
