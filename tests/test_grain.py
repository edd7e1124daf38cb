"""Film grain is found where there is some, removed, and synthesised by the player."""

from __future__ import annotations

import math
import random
import subprocess
from array import array
from pathlib import Path
from typing import Any

import av
from twisted.trial.unittest import SynchronousTestCase, TestCase

from support.job import RealJob
from tests import media_harness as media
from vidproc.errors import ErrorCode, ServiceError
from vidproc.ffmpeg.grain import GrainFailed, grain_command, parse_grain
from vidproc.operations.compress import grain
from vidproc.operations.compress.noise import (
    GRAINY,
    Noise,
    Place,
    added,
    combine,
    measure_place,
    synthesis,
)
from vidproc.operations.compress.smallest import _CodecJob
from vidproc.operations.parameters import Compress, parse_parameters

FLOWER = media.CLIPS / "flower-540p-aac.mp4"


def ffmpeg(*arguments: str) -> bytes:
    """Run FFmpeg; return its standard output."""
    done = subprocess.run(
        [media.tools().path, "-nostdin", "-loglevel", "error", *arguments],
        capture_output=True,
        check=True,
    )
    return done.stdout


def frames(path: Path, *options: str) -> bytes:
    """Return the MD5 of what a file's video decodes to."""
    return ffmpeg(*options, "-i", str(path), "-map", "0:v", "-f", "md5", "-")


def film(
    path: Path, filters: str, *options: str, seconds: float = 2.0, source: Path = FLOWER
) -> Path:
    """Make a clip of a real film with some filters."""
    ffmpeg(
        *("-t", str(seconds), "-i", str(source), "-map", "0:v", "-map", "0:a?"),
        *("-vf", filters, *options),
        *(("-movflags", "+faststart") if path.suffix == ".mp4" else ()),
        str(path),
    )
    return path


def place(noise: float, size: tuple[int, int] = (224, 128), **parts: Any) -> Place | None:
    """Return what is measured of three made-up frames: a gradient, grain, and `texture` that stays.

    The level `noise` is in 8-bit values. With `still` all frames are the same, and with `cut` the
    first one is another, of that level.
    """
    width, height = size
    made = random.Random(parts.get("seed", 5))
    texture = [made.gauss(0.0, parts.get("texture", 0.0)) for _ in range(width * height)]
    luma: list[array[int]] = []
    levels = [parts.get("cut", noise), noise, noise]
    for number in range(3):
        if number and parts.get("still"):
            luma.append(luma[0])
            continue
        luma.append(
            array(
                "H",
                (
                    min(
                        max(round(4 * (80 + x / 8 + at + made.gauss(0.0, levels[number]))), 0),
                        1023,
                    )
                    for at, x in zip(texture, [*range(width)] * height, strict=True)
                ),
            )
        )
    chroma = array("H", [512]) * (width * height // 2)
    return measure_place(
        b"".join(each.tobytes() + chroma.tobytes() for each in luma), width, height
    )


class MeasuringTests(SynchronousTestCase):
    """What counts as grain, and how much of it there is."""

    def test_grain_is_measured_in_levels_of_8_bits(self) -> None:
        found = place(4.0)
        assert found is not None
        self.assertTrue(found.grainy)
        self.assertApproximates(math.sqrt(found.variance), 4.0, 0.4)

    def test_a_clean_gradient_has_none(self) -> None:
        found = place(0.3)
        assert found is not None
        self.assertFalse(found.grainy)

    def test_texture_that_stays_is_no_grain(self) -> None:
        found = place(0.5, texture=6.0)
        assert found is not None
        self.assertFalse(found.grainy)

    def test_a_cut_is_no_grain(self) -> None:
        found = place(0.5, cut=6.0)
        assert found is not None
        self.assertFalse(found.grainy)

    def test_a_frame_shown_twice_says_nothing(self) -> None:
        self.assertIsNone(place(4.0, still=True))
        self.assertIsNone(measure_place(b"\0" * 100, 64, 64))

    def test_most_places_must_have_it(self) -> None:
        grainy, clean = place(4.0), place(0.3)
        self.assertTrue(combine([grainy, grainy, clean, None]).found)
        self.assertFalse(combine([grainy, clean, clean]).found)
        self.assertFalse(combine([None]).found)
        self.assertFalse(combine([]).found)


class SynthesisTests(SynchronousTestCase):
    """The parameters that describe a grain."""

    def test_white_grain_needs_no_filter(self) -> None:
        noise = combine([place(4.0), place(4.0, seed=6)])
        made = synthesis(noise, 1.0)
        self.assertLess(max(map(abs, made.coefficients)) / (1 << made.coefficient_shift), 0.15)
        # 32 is the deviation of AV1's noise in 8 bits.
        deviation = 32 * made.luma[3][1] / (1 << made.scaling_shift) / (1 << made.scale_shift)
        self.assertApproximates(deviation, 4.0, 0.5)
        self.assertEqual(made.cb, [])
        self.assertEqual(made.cr, [])

    def test_strong_grain_keeps_within_the_numbers(self) -> None:
        for level in (GRAINY, 10.0, 25.0, 60.0):
            lags = [0.9 ** (abs(x) + y) for y in range(3) for x in range(-4, 5) if y or x >= 0]
            noise = Noise(level, (level, 0.0), [(16.0, level), (240.0, level)], lags, found=True)
            made = synthesis(noise, 1.0)
            self.assertTrue(all(0 < strength <= 255 for _, strength in made.luma))
            self.assertTrue(all(-128 <= each <= 127 for each in made.coefficients))
            self.assertEqual((len(made.cb), len(made.cr)), (2, 2))  # both or none
            self.assertIn(made.scaling_shift, range(8, 12))

    def test_only_what_is_missing_is_added(self) -> None:
        noise = Noise(5.0, found=True)
        self.assertEqual(added(noise, 0.0), 1.0)
        self.assertAlmostEqual(added(noise, 3.0), 0.8)
        self.assertEqual(added(noise, 5.0), 0.5)


class ParameterTests(SynchronousTestCase):
    """Only AV1 can synthesise grain."""

    def test_other_codecs_are_refused(self) -> None:
        for fields in (
            {"grain": "auto"},
            {"grain": "auto", "codec": "hevc"},
            {"grain": "auto", "codec": "auto", "plays": ["h264", "hevc"]},
            {"grain": "yes", "codec": "av1"},
            {"grain": 1, "codec": "av1"},
        ):
            error = self.assertRaises(ServiceError, parse_parameters, "compress", fields)
            self.assertEqual(error.code, ErrorCode.INVALID_PARAMETER)
            self.assertIn("grain", error.description)

    def test_av1_takes_it(self) -> None:
        for fields in (
            {"grain": "auto", "codec": "av1"},
            {"grain": "auto", "codec": "auto", "plays": ["h264", "av1"]},
            {"grain": "off"},
        ):
            parsed, _ = parse_parameters("compress", fields)
            assert isinstance(parsed, Compress)
            self.assertEqual(parsed.grain, fields["grain"])

    def test_codec_auto_uses_it_for_av1_alone(self) -> None:
        parameters = Compress(codec="auto", plays=("h264", "av1"), grain="auto")
        job = RealJob(FLOWER, Path(self.mktemp()), parameters)
        self.assertEqual(_CodecJob(job, "h264").parameters.grain, "off")
        self.assertEqual(_CodecJob(job, "av1").parameters.grain, "auto")


class WritingTests(TestCase):
    """Parameters are written into finished files, whose frames stay as they are."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.folder.mkdir()

    def write(self, base: Path, noise: Noise | None = None) -> Path:
        """Return the file with grain."""
        if noise is None:
            lags = [1.0 if not x and not y else 0.2 / (abs(x) + y) for y in range(3)
                    for x in range(-4, 5) if y or x >= 0]  # fmt: skip
            noise = Noise(4.0, (2.0, 2.0), [(16.0, 3.0), (240.0, 5.0)], lags, found=True)
        job = RealJob(FLOWER, self.folder, Compress(codec="av1"))
        command = grain_command(base.name, "grained.mp4", synthesis(noise, 1.0), weight=1.0)
        done = job.run(command)
        try:
            done.send(None)
        except StopIteration as ended:
            self.written = parse_grain(ended.value.stdout)
        return self.folder / "grained.mp4"

    def check(self, base: Path) -> None:
        """Check that a file with grain has the frames of the base, and grain when it is shown."""
        grained = self.write(base)
        self.assertEqual(frames(grained, "-filmgrain", "0"), frames(base))
        self.assertNotEqual(frames(grained), frames(base))
        with av.open(str(base)) as one, av.open(str(grained)) as other:
            self.assertEqual(one.streams.video[0].frames, other.streams.video[0].frames)
            self.assertEqual(
                [(p.stream.index, p.pts, p.dts, p.is_keyframe) for p in one.demux() if p.size],
                [(p.stream.index, p.pts, p.dts, p.is_keyframe) for p in other.demux() if p.size],
            )
        added_bytes = grained.stat().st_size - base.stat().st_size
        self.assertLess(added_bytes, 8 * self.written + 600)

    def test_frames_and_audio_stay(self) -> None:
        base = film(
            self.folder / "base.mp4", "scale=480:270",
            *("-c:v", "libsvtav1", "-preset", "8", "-crf", "40", "-g", "24", "-c:a", "aac"),
        )  # fmt: skip
        self.check(base)
        audio = [
            ffmpeg("-i", str(path), "-map", "0:a", "-c", "copy", "-f", "md5", "-")
            for path in (base, self.folder / "grained.mp4")
        ]
        self.assertEqual(audio[0], audio[1])

    def test_10_bits_odd_tiles_and_other_presets(self) -> None:
        for number, (preset, filters, more) in enumerate(
            (
                ("4", "scale=322:182,format=yuv420p10le", ("-svtav1-params", "tile-columns=1")),
                ("10", "scale=1090:610", ("-svtav1-params", "enable-overlays=1:scm=1")),
                ("12", "scale=480:270", ("-svtav1-params", "pred-struct=1:rc=0")),
                ("8", "scale=480:270", ("-svtav1-params", "lossless=1")),
                ("7", "scale=480:270", ("-svtav1-params", "superres-mode=1:superres-denom=12")),
            )
        ):
            base = film(
                self.folder / f"base-{number}.mp4", filters,
                *("-c:v", "libsvtav1", "-preset", preset, "-crf", "45", "-g", "12", *more, "-an"),
                seconds=0.5,
            )  # fmt: skip
            self.check(base)

    def test_what_is_no_such_file_is_refused(self) -> None:
        base = self.folder / "base.mp4"
        film(base, "scale=240:136", "-c:v", "libx264", "-preset", "veryfast", seconds=0.5)
        with self.assertRaises(GrainFailed):
            self.write(base)
        whole = film(
            self.folder / "whole.mp4", "scale=240:136",
            "-c:v", "libsvtav1", "-preset", "10", "-crf", "50", seconds=0.5,
        ).read_bytes()  # fmt: skip
        for cut in (len(whole) - 500, 400, 0):
            base.write_bytes(whole[:cut])
            with self.assertRaises(GrainFailed):
                self.write(base)


class CompressTests(TestCase):
    """The whole way, with real encodes."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.folder.mkdir()

    def compress(self, path: Path, **parameters: Any) -> tuple[dict[str, Any], Path]:
        """Return what was reported, and the result."""
        fields = {"codec": "av1", "quality": 85, "preset": "fast", "grain": "auto", **parameters}
        work = self.folder / f"work-{len(list(self.folder.iterdir()))}"
        result = media.process(path, "compress", fields, work)
        return result.product.details, result.path

    def test_a_grainy_film_becomes_smaller_and_stays_grainy(self) -> None:
        grainy = film(
            self.folder / "grainy.mkv", "scale=321:179,noise=c0s=10:c0f=t", "-c:v", "ffv1",
            seconds=1.2,
        )  # fmt: skip
        details, result = self.compress(grainy)
        found = details["grain"]
        self.assertTrue(found["found"])
        self.assertTrue(found["synthesised"])
        self.assertGreater(found["level"], 4.0)
        self.assertApproximates(found["result_level"] / found["level"], 1.0, 0.2)
        self.assertApproximates(details["measured_score"], 85, 1.5)
        plain, other = self.compress(grainy, grain="off")
        self.assertNotIn("grain", plain)
        self.assertLess(result.stat().st_size, 0.8 * other.stat().st_size)
        self.assertNotEqual(frames(result, "-filmgrain", "0"), frames(result))

    def test_a_size_holds_with_the_parameters_of_grain(self) -> None:
        grainy = film(
            self.folder / "grainy.mkv", "scale=320:180,noise=c0s=10:c0f=t", "-c:v", "ffv1",
            seconds=1.0,
        )  # fmt: skip
        details, result = self.compress(grainy, target_size=16_000)
        self.assertEqual(details["target_size"], 16_000)
        self.assertLess(result.stat().st_size, 16_000)
        self.assertTrue(details["grain"]["synthesised"])

    def test_grain_stays_if_it_cannot_be_written(self) -> None:
        """Then the film is encoded with it: without any it would look like another."""

        def refuse(stdout: bytes) -> int:
            raise GrainFailed("made up")

        self.patch(grain, "parse_grain", refuse)
        grainy = film(
            self.folder / "grainy.mkv", "scale=320:180,noise=c0s=10:c0f=t", "-c:v", "ffv1",
            seconds=1.0,
        )  # fmt: skip
        details, result = self.compress(grainy)
        self.assertTrue(details["grain"]["found"])
        self.assertFalse(details["grain"]["synthesised"])
        self.assertEqual(details["grain"]["reason"], "it could not be synthesised")
        self.assertApproximates(details["measured_score"], 85, 1.5)
        self.assertEqual(frames(result, "-filmgrain", "0"), frames(result))
        plain, _ = self.compress(grainy, grain="off")
        self.assertEqual(details["crf"], plain["crf"])

    def test_a_clean_film_is_encoded_as_without(self) -> None:
        clean = film(
            self.folder / "clean.mp4", "scale=320:180",
            *("-c:v", "libx264", "-preset", "veryfast", "-qp", "8"), seconds=1.0,
        )  # fmt: skip
        details, result = self.compress(clean)
        self.assertFalse(details["grain"]["found"])
        self.assertFalse(details["grain"]["synthesised"])
        plain, other = self.compress(clean, grain="off")
        self.assertEqual(details["crf"], plain["crf"])
        self.assertEqual(frames(result), frames(other))
