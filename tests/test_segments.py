"""Films that are encoded in segments and joined: no frame is lost, duplicated or moved."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import av
from twisted.trial.unittest import TestCase

from tests import media_harness as media
from vidproc.ffmpeg.media import MediaInfo, VideoStream
from vidproc.operations import clips, held, segments


def film(**fields: Any) -> MediaInfo:
    """Return a film of a minute at 25 frames a second."""
    video: dict[str, Any] = {"index": 0, "codec": "h264", "width": 640, "height": 360}
    video |= {"duration": 60.0, "frame_rate": 25.0, **fields.pop("video", {})}
    return MediaInfo(
        **{"container": "mov,mp4,m4a", "size": 1, "video": VideoStream(**video), **fields}
    )


class DivideTests(TestCase):
    """The number of segments, and where the film is cut."""

    def count(self, source: MediaInfo | None = None, **wanted: Any) -> int:
        part = clips.Clip(wanted.get("start", 0.0), wanted.get("length", 20.0))
        size = wanted.get("size", (640, 360))
        return len(segments.divide(source or film(), part, size, wanted.get("threads", 4)))

    def test_as_many_as_threads_of_four_seconds_or_more(self) -> None:
        """But at most eight, and fewer if frames are large."""
        self.assertEqual(self.count(threads=2), 2)
        self.assertEqual(self.count(threads=4), 4)
        self.assertEqual(self.count(threads=16), 5)
        self.assertEqual(self.count(threads=16, length=60), 8)
        self.assertEqual(self.count(threads=16, length=60, size=(3840, 2160)), 2)

    def test_what_cannot_be_cut_stays_whole(self) -> None:
        """One thread, a short clip, another container, a damaged or slow film."""
        self.assertEqual(self.count(threads=1), 1)
        self.assertEqual(self.count(length=7.9), 1)
        self.assertEqual(self.count(start=55.0), 1)
        self.assertEqual(self.count(film(container="mpegts")), 1)
        self.assertEqual(self.count(film(ends_early=True)), 1)
        self.assertEqual(self.count(film(video={"duration": None})), 1)
        self.assertEqual(self.count(film(video={"frame_rate": 4.0})), 1)

    def test_segments_touch_and_fill_the_part(self) -> None:
        """The last one extends to the clip's end, where there may be only audio."""
        parts = segments.divide(film(), clips.Clip(50.0, 20.0), (64, 64), 2)
        self.assertEqual([(p.start, p.end) for p in parts], [(0.0, 5.0), (5.0, 20.0)])


class WebMTests(TestCase):
    """Real films that are cut although they are short."""

    timeout = 120

    def setUp(self) -> None:
        self.patch(segments, "LEAST", 0.4)
        self.folder = media.scratch(self)

    def both(self, clip: Path, start: float, length: float) -> tuple[media.Result, media.Result]:
        """Return the same WebM, made in segments and as a whole."""
        fields = {"start_time": start, "duration": length, "width": 128, "quality": 20}
        results = []
        for name, most in (("cut", 8), ("whole", 1)):
            folder = self.folder / name
            folder.mkdir()
            self.patch(segments, "MOST", most)
            results.append(media.process(clip, "webm", fields, folder))
        cut, whole = results
        self.assertEqual((len(cut.commands), len(whole.commands)), (3, 1))
        return cut, whole

    def assert_same(self, cut: media.Result, whole: media.Result) -> None:
        """The frames and their times are equal, to within WebM's millisecond."""
        one, other = media.times(cut.path), media.times(whole.path)
        self.assertEqual(len(one), len(other))
        self.assertLessEqual(max(abs(a - b) for a, b in zip(one, other, strict=True)), 0.00101)
        self.assertGreater(worst_psnr(cut.path, whole.path), 24.0)

    def test_variable_rate_and_rotation(self) -> None:
        """A film from a phone, with irregular time stamps."""
        self.assert_same(*self.both(media.FIRE, 0.0, 2.0))

    def test_a_clip_from_the_middle_with_audio_and_subtitles(self) -> None:
        """With Matroska's milliseconds and several tracks."""
        cut, whole = self.both(media.COUNT, 6.03, 2.5)
        self.assert_same(cut, whole)
        for kind in ("audio", "subtitles"):
            self.assertEqual(packets(cut.path, kind), packets(whole.path, kind))

    def test_ntsc_rate_and_a_late_start(self) -> None:
        """No frame is at a round number of seconds."""
        clip = media.synthesise(
            self.folder / "ntsc.mp4",
            *("-g", "40", "-bf", "3", "-output_ts_offset", "0.7"),
            lavfi="testsrc2=s=192x108:r=30000/1001",
            seconds=3,
        )
        self.assert_same(*self.both(clip, 0.517, 2.2))

    def test_interlaced(self) -> None:
        """The deinterlacer gets the frames before a segment."""
        clip = media.synthesise(
            self.folder / "tff.mp4",
            *("-vf", "interlace,setfield=tff", "-flags", "+ildct+ilme", "-x264opts", "tff=1"),
            lavfi="testsrc2=s=320x240:r=50",
            seconds=2,
        )
        video = media.probe(clip).video
        self.assertTrue(video is not None and video.interlaced)
        self.assert_same(*self.both(clip, 0.0, 2.0))

    def test_colours_are_tagged_alike(self) -> None:
        """The segments' container has them, too."""
        clip = media.synthesise(
            self.folder / "tags.mp4",
            *("-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709"),
            lavfi="testsrc2=s=192x108:r=25",
            seconds=2,
        )
        cut, whole = (media.probe(each.path).video for each in self.both(clip, 0, 2))
        assert cut is not None
        assert whole is not None
        for tag in ("color_primaries", "color_transfer", "color_matrix", "full_range"):
            self.assertEqual(getattr(cut, tag), getattr(whole, tag), tag)
        self.assertEqual(cut.color_matrix, "bt709")

    def test_a_segment_without_a_frame(self) -> None:
        """If the probe did not see a long still part, the film is encoded as a whole after all."""
        clip = media.synthesise(
            self.folder / "still.mp4",
            *("-vf", "setpts=PTS+gte(N\\,25)*3/TB", "-fps_mode", "vfr"),
            lavfi="testsrc2=s=192x108:r=25",
            seconds=1.1,
        )
        fields = {"start_time": 0, "duration": 4, "width": 128}
        self.patch(segments, "_LEAST_RATE", 1.0)
        self.patch(held, "_LONG", 10.0)
        result = media.process(clip, "webm", fields, self.folder)
        self.assertEqual(len(result.commands), 3)  # two segments, then the whole
        self.assertEqual(len(media.times(result.path)), 25)


def packets(path: Path, kind: str) -> list[tuple[int | None, bytes]]:
    """Return the times and contents of a stream's packets."""
    with av.open(str(path)) as container:
        stream = getattr(container.streams, kind)[0]
        return [(packet.pts, bytes(packet)) for packet in container.demux(stream) if packet.size]


def worst_psnr(one: Path, other: Path) -> float:
    """Return the PSNR, in dB, of the two films' frames that differ most, paired by number."""
    graph = "[0:v]settb=1/25,setpts=N[a];[1:v]settb=1/25,setpts=N[b];[a][b]psnr"
    argv = [media.tools().path, "-nostdin", "-i", str(one), "-i", str(other), "-lavfi", graph]
    done = subprocess.run([*argv, "-f", "null", "-"], capture_output=True, timeout=60)
    found = re.search(rb"PSNR .* min:([0-9.]+|inf)", done.stderr)
    assert found is not None, done.stderr
    return float(found[1])
