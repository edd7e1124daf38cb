"""Every operation on a folder of real clips: suitable clips give the right result, and others the
right error.

The folder is tests/media. VIDPROC_MEDIA names another one, which is tested more thoroughly: every
clip with every fit, and compressed. The expected values come from FFmpeg's own reading of the clip,
independently of the probe and the filters under test.
"""

from __future__ import annotations

import os
import struct
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from twisted.trial.unittest import TestCase

from support.job import RealJob, run_operation
from tests import media_harness as media
from vidproc.errors import ServiceError
from vidproc.ffmpeg.media import MediaInfo, VideoStream
from vidproc.operations.compress.operation import CompressOperation
from vidproc.operations.parameters import EXAMPLES, PARAMETERS, Compress

FOLDER = Path(os.environ.get("VIDPROC_MEDIA") or media.CLIPS)
THOROUGH = FOLDER.resolve() != media.CLIPS.resolve()
WITH_PICTURE = [name for name in PARAMETERS if name != "extract_audio"]

_COMPARED = 10
THUMB = 24
"""The size in pixels of the small grey frames that are compared."""
ALIKE = 0.93
"""The least correlation of two small frames that show the same."""

Size = tuple[int, int]


@dataclass(frozen=True)
class Clip:
    """A file of the folder, its probe, and the size at which players show it."""

    path: Path
    info: MediaInfo
    shown: Size

    @property
    def video(self) -> VideoStream:
        assert self.info.video is not None
        return self.info.video

    @property
    def length(self) -> float:
        """Seconds from the film's start to the end of its video and its main audio track."""
        ends = [self.video.start_time + (self.video.duration or 0)]
        track = self.info.main_audio()
        if track is not None:
            ends.append(track.start_time + (track.duration or 0))
        return max(ends)

    @property
    def matrix(self) -> str:
        """The colour matrix that players use; without a tag, guessed from the size."""
        large = self.video.hdr or self.video.width >= 1280 or self.video.height > 576
        guess = "bt709" if large else "smpte170m"
        return guess if self.video.hdr else self.video.color_matrix or guess

    @property
    def slack(self) -> float:
        """The tolerance of a length in seconds: one frame, but at least 50 ms."""
        return max(0.05, 1 / (self.video.frame_rate or 25)) + 0.002


@cache
def clips() -> tuple[tuple[Path, MediaInfo], ...]:
    """Return the folder's media files with their probes, smallest first."""
    found = (p for p in FOLDER.iterdir() if p.is_file() and p.suffix not in (".md", ".txt"))
    ordered = sorted(found, key=lambda path: path.stat().st_size)
    return tuple((path, media.probe(path)) for path in ordered)


def films() -> Iterator[Clip]:
    """Yield the clips that have video, and more frames than are compared, smallest first."""
    for path, info in clips():
        if info.video is not None and (info.video.frames or _COMPARED) >= _COMPARED:
            yield Clip(path, info, shown_size(path))


@cache
def shown_size(path: Path) -> Size:
    """Return the size of the upright frame in square pixels, as FFmpeg makes it."""
    done = decode(
        path, "scale=round(iw*sar):ih", "-frames:v", "1", "-c:v", "ppm", "-f", "image2pipe"
    )
    width, height = done.split(b"\n")[1].split()
    return int(width), int(height)


def decode(path: Path, filters: str, *options: str) -> bytes:
    """Return the frames that `filters` let through, as the output `options` tell."""
    start = [media.tools().path, "-nostdin", "-hide_banner", "-loglevel", "error", "-i", str(path)]
    middle = ["-map", "0:V:0", "-vf", filters, "-fps_mode", "passthrough"]
    done = subprocess.run(
        [*start, *middle, *options, "-"], capture_output=True, check=True, timeout=600
    )
    return done.stdout


def thumb(
    path: Path, shape: str, *, number: int = 0, until: float | None = None, matrix: str = "bt709"
) -> bytes:
    """Return a small grey copy of a frame: the `number`th, or the last that begins `until` then.

    `shape` is a filter that is applied to the frame in square pixels; `matrix` says how grey is
    made of red, green and blue.
    """
    options = f":out_color_matrix={matrix}" if path.suffix == ".gif" else ""
    wanted = f"select='eq(n,{number})'" if until is None else f"trim=end={until:.3f}"
    frames = decode(
        path,
        f"setpts=PTS-STARTPTS,{wanted},scale=round(iw*sar):ih,setsar=1,{shape},"
        f"scale={THUMB}:{THUMB}:flags=area:out_range=tv{options},format=yuv444p,extractplanes=y",
        *(("-frames:v", "1") if until is None else ()),
        *("-f", "rawvideo"),
    )
    return frames[-THUMB * THUMB :]


def likeness(one: bytes, other: bytes) -> float:
    """Return the correlation of two small frames; for uniform ones, 1 if about equally bright."""
    assert len(one) == len(other) == THUMB * THUMB, (len(one), len(other))
    mean, mean_other = sum(one) / len(one), sum(other) / len(other)
    products = sum((a - mean) * (b - mean_other) for a, b in zip(one, other, strict=True))
    spread = sum((a - mean) ** 2 for a in one)
    spread_other = sum((b - mean_other) ** 2 for b in other)
    if min(spread, spread_other) < 4 * len(one):
        return 1.0 if abs(mean - mean_other) < 8 else 0.0
    return float(products / (spread * spread_other) ** 0.5)


def brightness(thumbnail: bytes) -> float:
    """Return the mean of a small frame, 16 to 235."""
    return sum(thumbnail) / len(thumbnail)


def centre(ratio: float) -> str:
    """Return a filter that crops to the aspect ratio `ratio`, around the centre."""
    return f"crop='min(iw,ih*{ratio})':'min(ih,iw/{ratio})'"


def even(value: float) -> int:
    """Return the nearest even number."""
    return max(2, 2 * round(value / 2))


class MatrixCase(TestCase):
    """Common helpers. A check takes a clip and raises an exception. All clips are checked before
    the failures are reported."""

    timeout = 3600 if THOROUGH else 300

    def setUp(self) -> None:
        self.folder = media.scratch(self)

    def each(self, check: Callable[[Clip], None], most: int | None = None) -> None:
        """Run `check` on each film, or on the `most` smallest ones, and report failures."""
        faults = []
        for clip in list(films())[:most]:
            try:
                check(clip)
            except Exception as error:
                faults.append(f"{clip.path.name}: {type(error).__name__}: {error}")
        if faults:
            self.fail("\n".join(faults))

    def do(self, clip: Clip, operation: str, **fields: Any) -> media.Result:
        """Run an operation on a clip; the result is verified as the server does."""
        return media.process(
            clip.path, operation, fields, self.folder / f"{clip.path.stem}-{operation}"
        )

    def refused(self, path: Path, operation: str, **fields: Any) -> ServiceError:
        """Run an operation that must be refused and return its error."""
        try:
            media.process(path, operation, fields, self.folder / "refused")
        except ServiceError as error:
            return error
        raise self.failureException(f"{path.name}: {operation} was not refused")

    def check_video(self, result: media.Result, size: Size, codec: str, pixels: str) -> None:
        """Check that the video has the size, square pixels, no rotation and a playable format."""
        video = result.media.video
        assert video is not None
        self.assertEqual(video.displayed_size, size)
        self.assertEqual((video.width, video.height), size)
        self.assertEqual((video.sample_aspect_ratio, video.rotation), ((1, 1), 0))
        self.assertEqual((video.codec, video.pixel_format), (codec, pixels))
        self.assertFalse(video.hdr or video.full_range or video.interlaced)

    def streams(self, clip: Clip, result: media.Result, codecs: tuple[str, ...]) -> None:
        """Check that an MP4 has all audio tracks, a WebM the main one, and both all text subtitles;
        and nothing else."""
        main = clip.info.main_audio()
        wanted = list(clip.info.audio)
        if result.path.suffix == ".webm":
            wanted = [main] if main is not None else []
        found = [(track.language, track.channels) for track in result.media.audio]
        self.assertEqual(found, [(track.language, track.channels) for track in wanted])
        for track in result.media.audio:
            self.assertIn(track.codec, codecs)
        subtitles = [s.language for s in clip.info.subtitles if s.text]
        self.assertEqual([s.language for s in result.media.subtitles], subtitles)
        rest = result.media.other_videos, result.media.covers, result.media.data_streams
        self.assertEqual(rest, (0, (), 0))

    def lasts(self, result: media.Result, seconds: float, slack: float) -> None:
        """Check the result's length."""
        self.assertApproximates(result.media.duration or 0, seconds, slack)

    def shows(self, clip: Clip, source: bytes, result: bytes) -> None:
        """Check that a frame shows the same as the clip's, with the same brightness unless tone
        mapped."""
        self.assertGreater(likeness(source, result), ALIKE)
        if not clip.video.hdr:
            self.assertApproximates(brightness(source), brightness(result), 6)


class WholeFilmTests(MatrixCase):
    def test_resolution_pads_crops_and_stretches_every_film_to_the_size(self) -> None:
        """Upright, with square pixels, complete, of the same length, with audio and subtitles."""
        number = 8

        def check(clip: Clip) -> None:
            odd = clip.video.rotation or clip.video.sample_aspect_ratio != (1, 1)
            for fit in ("pad", "crop", "stretch") if odd or THOROUGH else ("pad",):
                result = self.do(clip, "resolution", width=192, height=160, fit=fit)
                self.check_video(result, (192, 160), "h264", "yuv420p")
                self.lasts(result, clip.length, clip.slack)
                self.streams(clip, result, ("aac", "mp3"))
                factor = min(192 / clip.shown[0], 160 / clip.shown[1])
                inner = even(clip.shown[0] * factor), even(clip.shown[1] * factor)
                before, after = {
                    "pad": ("null", f"crop={inner[0]}:{inner[1]}"),
                    "crop": (centre(1.2), "null"),
                    "stretch": ("null", "null"),
                }[fit]
                self.shows(
                    clip,
                    thumb(clip.path, before, number=number),
                    thumb(result.path, after, number=number),
                )

        self.each(check)

    def test_aspect_ratio_crops_every_film_to_a_square(self) -> None:
        """With the film's shorter side as its size, and without distortion."""

        def check(clip: Clip) -> None:
            side = even(min(clip.shown))
            result = self.do(clip, "aspect_ratio", aspect_ratio="1:1", fit="crop")
            self.check_video(result, (side, side), "h264", "yuv420p")
            self.lasts(result, clip.length, clip.slack)
            self.streams(clip, result, ("aac", "mp3"))
            before, after = (
                thumb(clip.path, centre(1), number=8),
                thumb(result.path, "null", number=8),
            )
            self.shows(clip, before, after)

        self.each(check, None if THOROUGH else 6)

    def test_aspect_ratio_pads_every_film(self) -> None:
        """The longer side is kept, and bars fill the rest."""

        def check(clip: Clip) -> None:
            wide = clip.shown[0] / clip.shown[1] > 1.25
            width, height = clip.shown
            size = (width, even(width / 1.25)) if wide else (even(height * 1.25), height)
            result = self.do(clip, "aspect_ratio", aspect_ratio="5:4")
            self.check_video(result, (even(size[0]), even(size[1])), "h264", "yuv420p")
            self.lasts(result, clip.length, clip.slack)
            after = thumb(result.path, f"crop={even(width)}:{even(height)}", number=8)
            self.shows(clip, thumb(clip.path, "null", number=8), after)

        self.each(check, None if THOROUGH else 4)

    def test_compress_makes_films_smaller_or_leaves_them(self) -> None:
        """They never grow; video and length are kept."""

        def check(clip: Clip) -> None:
            folder = self.folder / clip.path.stem
            folder.mkdir()
            job: RealJob = RealJob(clip.path, folder, Compress(preset="fast"), media=clip.info)
            product = run_operation(CompressOperation(), job)
            path = job.path_of(product.file)
            found = media.probe(path, verify=True)
            result = media.Result(path, found, product, job.warnings, [])
            self.assertIsNone(media.mismatch(found, product, clip.info))
            self.assertLessEqual(result.media.size, clip.info.size)
            self.lasts(result, clip.length, clip.slack)
            video = result.media.video
            assert video is not None
            if result.product.details["already_optimal"]:
                self.assertEqual(video.displayed_size, clip.video.displayed_size)
                self.assertEqual(len(result.media.audio), len(clip.info.audio))
            else:
                size = even(clip.shown[0]), even(clip.shown[1])
                self.check_video(result, size, "h264", "yuv420p")
                self.streams(clip, result, ("aac", "mp3"))
            before, after = (thumb(path, "null", number=8) for path in (clip.path, result.path))
            self.shows(clip, before, after)

        self.each(check, None if THOROUGH else 2)


class PartTests(MatrixCase):
    def test_gif_of_a_clip_of_every_film(self) -> None:
        """With the right aspect ratio and length, from the frame shown at the start."""

        def check(clip: Clip) -> None:
            length = clip.video.duration or 0.0
            start = length * 0.4
            result = self.do(clip, "gif", start_time=start, duration=0.4, width=160, fps=10)
            width = min(160, clip.shown[0])
            height = round(width * clip.shown[1] / clip.shown[0])
            self.check_video(result, (width, height), "gif", "bgra")
            self.lasts(result, 0.4, 0.011)
            self.assertEqual(result.media.audio, ())
            self.assertEqual(struct.unpack("<HH", result.path.read_bytes()[6:10]), (width, height))
            before = thumb(clip.path, "null", until=start + 0.5 / 10)
            self.shows(clip, before, thumb(result.path, "null", matrix=clip.matrix))

        self.each(check)

    def test_half_of_a_rate_takes_every_second_frame(self) -> None:
        """Even though Matroska rounds times to milliseconds, which makes some of them earlier."""
        grey = "nullsrc=s=32x32:r=24,format=yuv420p,geq=lum='16+8*N':cb=128:cr=128"
        lossless = "-c:v", "libx264", "-qp", "0"
        path = media.synthesise(self.folder / "grey.mkv", *lossless, lavfi=grey)
        fields = {"start_time": 0, "duration": 1, "fps": 12, "width": 32}
        result = media.process(path, "gif", fields, self.folder / "half")
        shades = [brightness(thumb(result.path, "null", number=n)) for n in range(12)]
        for number, shade in enumerate(shades):
            self.assertApproximates(shade, 16 + 16 * number, 3)

    def test_a_clip_of_a_broadcast_begins_between_keyframes(self) -> None:
        """MPEG-TS has no index, so FFmpeg by itself may omit everything before the next
        keyframe."""
        grey = "nullsrc=s=64x64:r=25,format=yuv420p,geq=lum='16+N':cb=128:cr=128"
        sound = "-f", "lavfi", "-t", "4", "-i", "sine", "-c:a", "mp2"
        frame = "-c:v", "mpeg2video", "-qscale:v", "2", "-g", "100"
        path = media.synthesise(self.folder / "grey.ts", *sound, *frame, lavfi=grey, seconds=4)
        for operation, codec in (("gif", "gif"), ("webm", "vp9")):
            fields = {"start_time": 2, "duration": 1, "width": 64}
            result = media.process(path, operation, fields, self.folder / operation)
            assert result.media.video is not None
            self.assertEqual(result.media.video.codec, codec)
            self.assertApproximates(brightness(thumb(result.path, "null")), 16 + 50, 3)
            self.assertApproximates(result.media.duration or 0, 1, 0.05)

    def test_webm_of_a_clip_of_every_film(self) -> None:
        """With the right size and length, audio and subtitles, from the right frame on."""

        def check(clip: Clip) -> None:
            length = clip.video.duration or 0.0
            start, duration = length * 0.4, min(0.8, length * 0.4)
            result = self.do(clip, "webm", start_time=start, duration=duration, width=128)
            height = even(clip.shown[1] * 128 / clip.shown[0])
            self.check_video(result, (128, height), "vp9", "yuv420p")
            self.lasts(result, duration, clip.slack)
            self.streams(clip, result, ("opus", "vorbis"))
            before = thumb(clip.path, "null", until=start + 1 / (clip.video.frame_rate or 25))
            self.shows(clip, before, thumb(result.path, "null"))

        self.each(check)

    def test_a_start_past_the_end_of_any_film_is_422(self) -> None:
        """The error has the length of the film."""

        def check(clip: Clip) -> None:
            for operation in ("gif", "webm"):
                late = clip.length + 1
                error = self.refused(clip.path, operation, start_time=late, duration=1)
                self.assertEqual(error.code, 422)
                self.assertIn(f"{clip.video.duration:.2f} s long", error.description)

        self.each(check)


class SoundTests(MatrixCase):
    def test_extract_audio_works_on_every_file_with_audio(self) -> None:
        """Even without video, keeping the cover; a silent file gets 415."""
        for path, info in clips():
            track = info.main_audio()
            if track is None:
                error = self.refused(path, "extract_audio")
                self.assertEqual(error.code, 415, path.name)
                self.assertIn("no audio", error.description)
                continue
            result = media.process(path, "extract_audio", {}, self.folder / path.stem)
            self.assertIsNone(result.media.video, path.name)
            self.assertEqual(len(result.media.covers), min(1, len(info.covers)), path.name)
            (made,) = result.media.audio
            self.assertEqual((made.codec, made.channels), ("mp3", min(2, track.channels)))
            self.assertApproximates(made.duration or 0, track.duration or 0, 0.075, path.name)
            if track.language:
                self.assertIn(f"language={track.language}", media.metadata_text(result.path))


class MisfitTests(MatrixCase):
    def test_video_operations_are_415_for_a_file_without_video(self) -> None:
        """A cover is not a video."""
        needed: dict[str, dict[str, Any]] = {
            "resolution": {"width": 64, "height": 64},
            "aspect_ratio": {"aspect_ratio": "1:1"},
            "gif": {"start_time": 0, "duration": 1},
            "webm": {"start_time": 0, "duration": 1},
            "compress": {},
        }
        self.assertEqual(sorted(needed), sorted(WITH_PICTURE))
        self.assertLessEqual(set(needed), set(EXAMPLES))
        for path, info in clips():
            if info.video is not None:
                continue
            for operation, fields in needed.items():
                error = self.refused(path, operation, **fields)
                self.assertEqual(error.code, 415)
                self.assertIn("no video", error.description)
                self.assertIn("extract_audio", error.solution or "")

    def test_a_file_that_is_not_a_video_is_415(self) -> None:
        """Text and an empty file."""
        for content in (b"", b"This is not a film.\n" * 100):
            path = self.folder / "file.mp4"
            path.write_bytes(content)
            for operation in PARAMETERS:
                fields = {"width": 64, "height": 64, "aspect_ratio": "1:1"}
                times = {"start_time": 0, "duration": 1}
                known = PARAMETERS[operation].__struct_fields__
                given = {k: v for k, v in (fields | times).items() if k in known}
                self.assertEqual(self.refused(path, operation, **given).code, 415)
