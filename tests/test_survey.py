"""Where videos are cut, and that the bytes named for a segment are enough to decode it."""

from __future__ import annotations

import subprocess
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase, TestCase

from support.blocking import wait_for
from support.job import key_of_path, local_runner
from support.travel import copy_ranges
from tests import media_harness as media
from vidproc.ffmpeg.command import Workspace
from vidproc.ffmpeg.survey import (
    Stretch,
    SurveyFailed,
    check_command,
    parse_check,
    parse_survey,
    survey_command,
)

_TICK = Fraction(1, 90_000)
_NOISE = ("-vf", "noise=alls=40:allf=t", "-c:v", "libx264", "-preset", "ultrafast", "-bf", "2")


def survey(clip: Path, *cuts: float, **rest: Any) -> list[Stretch]:
    """Return the stretches into which a clip is cut."""
    cut, _ = windows(clip, *cuts, **rest)
    return cut


def windows(clip: Path, *cuts: float, **rest: Any) -> tuple[list[Stretch], list[Stretch | None]]:
    """Return the stretches, and those of other `windows`."""
    command = survey_command(media.probe(clip), cuts, tick=_TICK, **rest)
    workspace = Workspace(key_of_path(clip), key_of_path(clip.absolute().parent))
    running = local_runner().start(command, workspace, 1, lambda _: None)
    return parse_survey(wait_for(running.result).stdout, len(rest.get("windows", ())))


def frames_of(clip: Path, stretch: Stretch) -> list[str]:
    """Return the checksums of a stretch's frames, decoded as an operation does."""
    place = [] if stretch.at is None else ["-noaccurate_seek", "-ss", f"{stretch.at:.6f}"]
    place += [] if stretch.at is None else ["-itsoffset", f"{stretch.at:.6f}"]
    end = "" if stretch.end is None else f":end={stretch.end:.6f}"
    argv = [media.tools().path, "-nostdin", "-v", "error", *place, "-i", str(clip)]
    argv += ["-map", "0:v:0", "-vf", f"trim=start={stretch.start:.6f}{end}"]
    argv += ["-fps_mode", "passthrough", "-f", "framemd5", "-"]
    done = subprocess.run(argv, capture_output=True, timeout=60, check=True)
    lines = done.stdout.decode().splitlines()
    return [line.rsplit(",", 1)[1].strip() for line in lines if not line.startswith("#")]


class CutTests(TestCase):
    def setUp(self) -> None:
        self.folder = media.scratch(self)

    def test_cuts_are_between_frames_and_near_keyframes(self) -> None:
        """All frames are in one stretch; a cut without a keyframe near stays where it is."""
        clip = media.synthesise(
            self.folder / "clip.mp4", "-g", "30", lavfi="testsrc2=s=96x64:r=25", seconds=4
        )
        found = survey(clip, 1.1, 2.0, 3.5, snap=0.15)
        self.assertEqual([each.frames for each in found], [30, 20, 40, 10])
        self.assertEqual([each.start for each in found], [0.0, 1.18, 1.98, 3.58])
        self.assertEqual([each.first for each in found], [0, 108_000, 180_000, 324_000])
        for one, other in pairwise(found):
            self.assertEqual(one.end, other.start)
            self.assertLess(float(one.last * _TICK), one.end or 0)
        self.assertEqual((found[-1].end, found[-1].last), (None, 99 * 3600))

    def test_a_clip_and_windows(self) -> None:
        """A clip has the frames from its start to before its end; windows may lie anywhere."""
        clip = media.synthesise(
            self.folder / "clip.mkv", "-g", "10", lavfi="testsrc2=s=96x64:r=25", seconds=3
        )
        cut, others = windows(clip, 1.5, start=0.5, end=2.5, windows=[(1.0, 1.2), (7.0, 8.0)])
        self.assertEqual([each.frames for each in cut], [25, 25])
        inside, beyond = others
        assert inside is not None
        self.assertEqual((inside.frames, beyond), (5, None))

    def test_stretches_that_are_too_short_are_not_cut_off(self) -> None:
        clip = media.synthesise(self.folder / "clip.mp4", lavfi="testsrc2=s=96x64:r=25", seconds=2)
        self.assertEqual(len(survey(clip, 1.0, 1.2, 1.4, 1.6, least=0.5)), 3)

    def test_a_cut_stays_where_it_is_if_the_keyframe_is_too_near_to_the_last_cut(self) -> None:
        clip = media.synthesise(
            self.folder / "clip.mp4", "-g", "25", lavfi="testsrc2=s=96x64:r=25", seconds=3
        )
        found = survey(clip, 0.9, 1.5, snap=0.6, least=0.4)
        self.assertEqual([each.frames for each in found], [25, 13, 37])

    def test_what_cannot_be_cut(self) -> None:
        """The reason is for the log."""
        clip = media.synthesise(self.folder / "clip.mp4", lavfi="testsrc2=s=96x64:r=25", seconds=1)
        self.assertRaises(SurveyFailed, survey, clip, 8.5, start=8, end=9)


class RangesTests(TestCase):
    """A file of the full size with just the named bytes decodes to the same frames."""

    timeout = 240

    def setUp(self) -> None:
        self.folder = media.scratch(self)
        sound = ("-f", "lavfi", "-i", "sine=r=48000", "-c:a", "aac", "-shortest")
        self.clip = media.synthesise(
            self.folder / "clip.mp4",
            *(*sound, *_NOISE, "-g", "25", "-x264-params", "open-gop=1"),
            lavfi="testsrc2=s=320x180:r=25",
            seconds=8,
        )

    def assert_enough(self, name: str, *options: str, after: int = 10) -> None:
        clip = self.folder / name
        media.ffmpeg("-i", self.clip, "-map", "0", "-c", "copy", *options, clip)
        size = clip.stat().st_size
        found = survey(clip, 2.0, 4.0, 6.0, snap=0.5)
        self.assertEqual(len(found), 4)
        for number, stretch in enumerate(found):
            part = stretch.part(size)
            assert part.ranges is not None and part.size is not None
            # Its own packets, a GOP before, some after, and the index.
            self.assertLess(part.size, size * (stretch.frames + 25 + after) / 200 + (192 << 10))
            sparse = self.folder / f"sparse-{name}"
            copy_ranges(clip, sparse, part.ranges)
            self.assertEqual(
                frames_of(sparse, stretch), frames_of(clip, stretch), f"{name} {number}"
            )
            self.assertEqual(len(frames_of(sparse, stretch)), stretch.frames)

    def test_mp4_with_its_index_at_the_end(self) -> None:
        self.assert_enough("last.mp4")

    def test_mp4_with_its_index_first(self) -> None:
        self.assert_enough("first.mp4", "-movflags", "+faststart")

    def test_fragmented_mp4(self) -> None:
        self.assert_enough(
            "fragmented.mp4", "-movflags", "+frag_keyframe+empty_moov+dash", after=35
        )

    def test_matroska(self) -> None:
        self.assert_enough("clip.mkv", after=25)

    def test_ranges_beyond_the_file_are_not_believed(self) -> None:
        """Then the whole file is read."""
        stretch = Stretch(
            start=0, end=1, at=None, frames=1, first=0, last=0, ranges=[(0, 4096), (8192, 9000)]
        )
        self.assertEqual(stretch.part(9000).size, 4904)
        self.assertIsNone(stretch.part(8999).ranges)


class CheckTests(SynchronousTestCase):
    def test_frames_of_segments_are_counted(self) -> None:
        """Several files in one run, in order."""
        folder = media.scratch(self)
        for number, seconds in enumerate((1, 2)):
            media.synthesise(
                folder / f"{number}.mp4",
                *("-video_track_timescale", "90000"),
                lavfi="testsrc2=s=96x64:r=25",
                seconds=seconds,
            )
        command = check_command(["0.mp4", "1.mp4"], tick=_TICK)
        workspace = Workspace(key_of_path(folder / "0.mp4"), key_of_path(folder))
        running = local_runner().start(command, workspace, 1, lambda _: None)
        one, two = parse_check(wait_for(running.result).stdout, 2)
        self.assertEqual((one.frames, one.first, one.last), (25, 0, 24 * 3600))
        self.assertEqual((two.frames, two.rising), (50, True))
        self.assertEqual(one.headers, two.headers)

    def test_an_answer_that_makes_no_sense(self) -> None:
        """The survey runs on a file from outside, so its answer is not believed."""
        stretch = b'{"start":0,"end":null,"at":null,"frames":1,"first":5,"last":5,"ranges":null}'
        for answer in (
            b"",
            b"[]",
            b"{}",
            b'{"windows":[]}',
            b'{"windows":[null]}',
            b'{"windows":[' + stretch + b"," + stretch + b"]}",
            b'{"error":"damaged"}',
            b'{"windows":[{"start":"0"}]}',
        ):
            self.assertRaises(SurveyFailed, parse_survey, answer)
        self.assertEqual(len(parse_survey(b'{"windows":[' + stretch + b"]}")[0]), 1)
        self.assertRaises(SurveyFailed, parse_check, b'{"segments":[]}', 1)
