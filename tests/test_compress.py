"""The compressor on real clips, with a real FFmpeg."""

from __future__ import annotations

import math
import re
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
from twisted.trial.unittest import SynchronousTestCase

from support.job import RealJob, probe, run_operation
from vidproc.errors import ErrorCode, ServiceError
from vidproc.ffmpeg.binary import find_ffmpeg
from vidproc.ffmpeg.command import SOURCE, Command, CommandFailed, Completed, FailureKind
from vidproc.ffmpeg.media import AudioStream, MediaInfo, VideoStream
from vidproc.operations.base import Product
from vidproc.operations.compress.encode import (
    audio_for,
    source_video_bytes,
    track_rate,
    video_encoder_for,
)
from vidproc.operations.compress.operation import CompressOperation
from vidproc.operations.parameters import Compress
from vidproc.runners.interface import Runner

MEDIA = Path(__file__).parent / "media"
FFMPEG = find_ffmpeg()


def boxes(path: Path) -> list[str]:
    """Return the names of an MP4's top boxes in their order."""
    data, at, names = path.read_bytes(), 0, []
    while at + 8 <= len(data):
        names.append(data[at + 4 : at + 8].decode("latin-1"))
        at += max(int.from_bytes(data[at : at + 4], "big"), 8)
    return names


def measure(encoded: Path, source: Path) -> float:
    """Return the VMAF of a file against the source, in the plainest way."""
    same = "setparams=range=tv:colorspace=bt709:color_primaries=bt709:color_trc=bt709"
    pair = (
        f"[0:v]{same},settb=1/25,setpts=N[a];[1:v]{same},settb=1/25,setpts=N[b];"
        "[a][b]libvmaf=n_threads=2"
    )
    done = subprocess.run(
        [
            *(FFMPEG.path, "-hide_banner", "-i", str(encoded), "-i", str(source)),
            *("-filter_complex", pair, "-f", "null", "-"),
        ],
        capture_output=True,
        check=True,
    )
    return float(re.findall(rb"VMAF score: ([0-9.]+)", done.stderr)[-1])


class CompressCase(SynchronousTestCase):
    def compress(
        self,
        clip: str | Path,
        capabilities: Any = None,
        runner: Runner | None = None,
        **parameters: Any,
    ) -> tuple[RealJob, Product]:
        folder = Path(self.mktemp())
        folder.mkdir(parents=True)
        source = MEDIA / clip if isinstance(clip, str) else clip
        job = RealJob(source, folder.absolute(), Compress(**parameters), runner=runner)
        if capabilities is not None:
            job.capabilities = capabilities
        product = run_operation(CompressOperation(), job)
        self.assertLessEqual(job.size_of(product.file), job.media.size)
        # Progress never passes the end.
        self.assertLessEqual(sum(command.weight for command in job.commands), 1.0)
        return job, product

    def flower(self, *options: str) -> Path:
        """Return a small film of 5 s, or as `options` want it, which any quality makes smaller."""
        return self.make(
            "flower.mp4",
            *("-i", str(MEDIA / "flower-540p-aac.mp4"), "-vf", "scale=480:270", *options),
            *("-c:v", "libx264", "-preset", "ultrafast", "-crf", "8", "-c:a", "copy"),
        )

    def make(self, name: str, *arguments: str) -> Path:
        folder = Path(self.mktemp())
        folder.mkdir(parents=True)
        path = (folder / name).absolute()
        subprocess.run(
            [FFMPEG.path, "-v", "error", "-nostdin", *arguments, str(path)],
            check=True,
            capture_output=True,
        )
        return path


class QualityTests(CompressCase):
    def test_reaches_the_quality(self) -> None:
        film = self.flower()
        job, product = self.compress(film, quality=90)
        details = product.details
        score = measure(job.path_of(product.file), film)
        self.assertApproximates(score, details["measured_score"], 0.05)
        self.assertTrue(89.5 <= score <= 91.0, score)
        self.assertLessEqual(details["probes"], 5)
        self.assertFalse(details["target_lowered"])
        self.assertEqual(boxes(job.path_of(product.file))[:2], ["ftyp", "moov"])
        found = probe(job.path_of(product.file))
        assert found.video is not None
        self.assertEqual((found.video.codec, found.video.pixel_format), ("h264", "yuv420p"))
        self.assertEqual(found.video.displayed_size, (480, 270))
        self.assertEqual([a.codec for a in found.audio], ["aac"])
        assert job.media.duration is not None and found.duration is not None
        self.assertApproximates(found.duration, job.media.duration, 0.05)
        self.assertTrue({"searching", "encoding", "scoring"} >= {c.stage for c in job.commands})

    def test_a_rotated_video_with_variable_rate(self) -> None:
        job, product = self.compress("fire-720p-vfr-rot180.mp4", preset="fast")
        found = probe(job.path_of(product.file))
        assert found.video is not None and job.media.video is not None
        self.assertEqual(found.video.rotation, 0)
        self.assertEqual(found.video.frames, job.media.video.frames)
        self.assertTrue(94.5 <= product.details["measured_score"] <= 96.0)

    def test_anamorphic_ten_bit_as_hevc(self) -> None:
        job, product = self.compress("prores422-10bit.mov", codec="hevc", preset="fast")
        found = probe(job.path_of(product.file))
        assert found.video is not None
        self.assertEqual(found.video.displayed_size, (192, 144))
        self.assertEqual(found.video.sample_aspect_ratio, (1, 1))
        self.assertEqual((found.video.codec, found.video.bit_depth), ("hevc", 10))
        self.assertIn(b"hvc1", job.path_of(product.file).read_bytes())
        self.assertGreaterEqual(product.details["measured_score"], 94.5)

    def test_av1(self) -> None:
        film = self.flower("-t", "2")
        job, product = self.compress(film, codec="av1", preset="fast", quality=85)
        found = probe(job.path_of(product.file))
        assert found.video is not None
        self.assertEqual(found.video.codec, "av1")
        self.assertTrue(84.5 <= product.details["measured_score"] <= 86.0, product.details)

    def test_a_score_of_some_frames_is_that_of_all(self) -> None:
        """AV1 gives each second, fourth, eighth... frame more bits than those between."""
        film = self.make(
            "film.mp4",
            *("-t", "9", "-i", str(MEDIA / "cockatoo-720p-noaudio.mp4"), "-vf", "scale=320:180"),
            *("-c:v", "libx264", "-preset", "veryfast", "-crf", "12"),
        )
        job, product = self.compress(film, codec="av1", preset="fast", quality=85)
        score = measure(job.path_of(product.file), film)
        self.assertApproximates(score, product.details["measured_score"], 0.3)
        self.assertTrue(84.5 <= score <= 86.0, score)

    def test_svt_is_told_a_rate_that_it_takes(self) -> None:
        """It refuses more than 240 frames a second."""
        for rate, told in ((240.0, None), (1000.0, "fps-num=240000:fps-denom=1000")):
            video = VideoStream(index=0, codec="ffv1", width=96, height=64, frame_rate=rate)
            encoder = video_encoder_for("av1", "balanced", FFMPEG, video)
            self.assertEqual(encoder.options.get("svtav1-params"), told)

    def test_av1_has_quarters_of_a_crf(self) -> None:
        video = VideoStream(index=0, codec="h264", width=640, height=480)
        encoder = video_encoder_for("av1", "balanced", FFMPEG, video)
        self.assertEqual(
            encoder.rate(encoder.rounded(30.3)), {"crf": 30, "svtav1-params": "crf=30.25"}
        )
        self.assertEqual(encoder.rate(encoder.rounded(30.1)), {"crf": 30})
        encoder = video_encoder_for("h264", "balanced", FFMPEG, video)
        self.assertEqual(encoder.rate(encoder.rounded(23.14)), {"crf": 23.1})

    def test_without_libvmaf(self) -> None:
        lacking = replace(FFMPEG, filters=FFMPEG.filters - {"libvmaf"})
        film = self.flower("-t", "3")
        job, product = self.compress(film, lacking, quality=90, preset="fast")
        self.assertEqual(product.details["metric"], "ssim")
        self.assertTrue(any("VMAF" in sentence for sentence in job.warnings))
        score = measure(job.path_of(product.file), film)
        self.assertTrue(85 <= score <= 95, score)

    def test_without_any_metric(self) -> None:
        lacking = replace(FFMPEG, filters=FFMPEG.filters - {"libvmaf", "ssim"})
        _, product = self.compress("mpeg4asp-mp3.avi", lacking, preset="fast", quality=85)
        self.assertEqual(product.details["probes"], 0)


class UntouchedTests(CompressCase):
    def small(self) -> Path:
        """Return a film that H.264 can't have in fewer bytes."""
        return self.make(
            "small.webm",
            *("-i", str(MEDIA / "flower-540p-aac.mp4"), "-t", "2", "-vf", "scale=480:270"),
            *("-c:v", "libsvtav1", "-preset", "10", "-crf", "55", "-c:a", "libopus", "-b:a", "32k"),
        )

    def test_what_is_small_already(self) -> None:
        job, product = self.compress(self.small(), preset="fast")
        self.assertTrue(product.details["already_optimal"])
        self.assertEqual(product.media_type, "webm")
        self.assertIn(product.file, ("untouched.webm", SOURCE))
        self.assertEqual(product.details["codec"], "av1")
        self.assertTrue(any("well compressed" in sentence for sentence in job.warnings))

    def test_compressing_twice_ends(self) -> None:
        job, product = self.compress(self.flower("-t", "2"), quality=85, preset="fast")
        again, second = self.compress(job.path_of(product.file), quality=95, preset="fast")
        self.assertLessEqual(again.size_of(second.file), job.size_of(product.file))

    def test_the_very_bytes_when_copying_fails(self) -> None:
        class Job(RealJob):
            async def run(self, command: Command) -> Completed:
                if command.stage == "copying":
                    raise CommandFailed(command, "exit status 1")
                return await super().run(command)

        folder = Path(self.mktemp())
        folder.mkdir(parents=True)
        job = Job(self.small(), folder.absolute(), Compress(preset="fast"))
        product = run_operation(CompressOperation(), job)
        self.assertEqual((product.file, product.media_type), (SOURCE, "webm"))
        self.assertEqual(product.details["percent_of_source"], 100.0)


class TargetSizeTests(CompressCase):
    def test_under_and_nearly_filled(self) -> None:
        target = 300_000
        job, product = self.compress(self.flower(), target_size=target)
        written = job.size_of(product.file)
        self.assertTrue(0.95 * target <= written < target, written)

    def test_rates_of_all_kinds(self) -> None:
        """Both passes must count time alike, whatever the film's rate."""
        for rate in ("10", "20", "30000/1001"):
            source = self.make(
                "film.mp4",
                *("-f", "lavfi", "-i", f"testsrc2=size=320x240:rate={rate}", "-t", "3"),
                *("-c:v", "libx264", "-preset", "ultrafast", "-qp", "18"),
            )
            target = source.stat().st_size // 4
            job, product = self.compress(source, target_size=target)
            self.assertLess(job.size_of(product.file), target, rate)

    def test_a_smaller_frame_when_bits_are_few(self) -> None:
        job, product = self.compress("friday-480p-aac.mp4", target_size=60_000)
        found = probe(job.path_of(product.file))
        assert found.video is not None
        self.assertLess(found.video.displayed_size[1], 400)
        self.assertLess(job.size_of(product.file), 60_000)
        self.assertEqual(len(found.audio), 1)
        self.assertTrue(any("was reduced" in sentence for sentence in job.warnings))

    def test_names_the_least_size(self) -> None:
        error = self.assertRaises(
            ServiceError, self.compress, "friday-480p-aac.mp4", target_size=5000
        )
        self.assertEqual(error.code, ErrorCode.INVALID_PARAMETER)
        least = error.extra["least_size"]
        self.assertIn(str(least), error.description)
        job, product = self.compress("friday-480p-aac.mp4", target_size=least)
        self.assertLess(job.size_of(product.file), least)

    def test_more_than_the_source_has(self) -> None:
        job, product = self.compress(
            self.flower("-t", "1"), target_size=10_000_000, quality=85, preset="fast"
        )
        self.assertTrue(any("no larger than" in sentence for sentence in job.warnings))
        self.assertIn("measured_score", product.details)


class RefusalTests(CompressCase):
    def test_no_video(self) -> None:
        error = self.assertRaises(ServiceError, self.compress, "bear-coverart.flac")
        self.assertEqual(error.code, ErrorCode.UNSUPPORTED_MEDIA)


class MadeUpJob:
    """Answers as FFmpeg would for a film of `duration` seconds whose picture takes `size` bytes
    and scores `lack` under 100 at CRF 23; samples are off by `bias` points, and the n-th encode
    of the whole film by `noise[n]`. Encoding takes as long as the film, scoring `scoring_time` of
    that."""

    def __init__(
        self,
        duration: float,
        *,
        size: float,
        lack: float = 5.0,
        bias: float = -0.4,
        swelling: float = 1.0,
        source_size: int = 10_000_000,
        scoring_time: float = 0.5,
        noise: tuple[float, ...] = (),
        start_time: float = 0.1,  # which keeps a film from being cut into segments
        **parameters: Any,
    ) -> None:
        self.scoring_time = scoring_time
        self.noise = list(noise)
        self.media = MediaInfo(
            container="mov,mp4,m4a,3gp,3g2,mj2",
            size=source_size,
            duration=duration,
            video=VideoStream(
                index=0,
                codec="h264",
                width=640,
                height=360,
                frame_rate=25.0,
                constant_rate=True,
                frames=int(duration * 25),
                bit_rate=int(source_size * 8 / duration * 0.99),
                duration=duration,
                start_time=start_time,
            ),
        )
        self.parameters = Compress(**parameters)
        self.capabilities: Any = FFMPEG
        self.duration, self.size, self.lack, self.bias = duration, size, lack, bias
        self.swelling = swelling
        self.sizes: dict[str, float] = {}
        self.scores: dict[str, float] = {}
        self.warnings: list[str] = []
        self.commands: list[Command] = []
        self.crashes = 0

    async def run(self, command: Command) -> Completed:
        self.commands.append(command)
        scores = " ".join(command.arguments).count("libvmaf")
        if scores and self.crashes:
            self.crashes -= 1
            raise CommandFailed(command, "signal SIGSEGV", kind=FailureKind.CRASHED)
        encoding = scoring = 0.0
        if command.outputs:
            encoding = self._encode(command)
        text = ""
        if scores:
            (name,) = command.outputs or [name for name in command.inputs if name != SOURCE]
            found = [self.scores[name], 99.9][:scores]  # the source against itself, besides
            text = "".join(f"[info] VMAF score: {score:.6f}\n" for score in found)
            scoring = (command.duration or 0) * self.scoring_time
        return Completed(b"", text, encoding + scoring)

    def _encode(self, command: Command) -> float:
        """Note what the command writes; return how long that takes."""
        arguments = list(command.arguments)
        (name,) = command.outputs
        fraction = (command.duration or 0) / self.duration
        if command.stage == "copying":
            self.sizes[name] = self.media.size - 1000
            return 0.1
        crf = float(arguments[arguments.index("-crf") + 1])
        whole = command.stage == "encoding"
        lack = self.lack * math.exp(0.13 * (crf - 23))
        off = (self.noise.pop(0) if self.noise else 0.0) if whole else self.bias
        self.scores[name] = max(100 - lack + off, 0)
        picture = self.size * math.exp(-0.12 * (crf - 23)) * fraction
        self.sizes[name] = picture * (self.swelling if whole else 1.0)
        return command.duration or 0

    def warn(self, sentence: str) -> None:
        self.warnings.append(sentence)

    def size_of(self, name: str) -> int:
        return self.media.size if name == SOURCE else int(self.sizes[name])

    async def examine(self, name: str, function: Callable[[bytes], float]) -> float:
        return function(b"")

    def search_part(self, details: dict[str, Any]) -> float:
        return float(details["search_time"] / details["encode_time"])


class DecisionTests(SynchronousTestCase):
    def compress(self, duration: float, **rest: Any) -> tuple[MadeUpJob, Product, dict[str, Any]]:
        job = MadeUpJob(duration, **rest)
        product = run_operation(CompressOperation(), job)
        self.assertLessEqual(job.size_of(product.file), job.media.size)
        self.assertLessEqual(product.details["probes"], 5)
        return job, product, product.details

    def test_samples_keep_their_time(self) -> None:
        for duration, limit in ((20, 3.0), (59, 3.0), (61, 1.0), (599, 1.0), (601, 0.35)):
            for lack in (2.0, 5.0, 12.0):
                job, _, details = self.compress(float(duration), size=3e6, lack=lack)
                self.assertLessEqual(job.search_part(details), limit, (duration, lack))
                self.assertApproximates(details["predicted_score"], 95.2, 0.6)

    def test_scores_of_a_subset_state_their_error(self) -> None:
        for duration, quality, codec, every in (
            (3.0, 95.0, "h264", 1),
            (8.0, 95.0, "h264", 3),
            (14.0, 95.0, "h264", 5),
            (12.0, 95.0, "hevc", 3),
            (8.0, 85.0, "h264", 1),
            (14.0, 85.0, "h264", 3),
            (22.0, 75.0, "av1", 3),
        ):
            job, _, details = self.compress(duration, size=1e6, quality=quality, codec=codec)
            scored = [c.arguments for c in job.commands if c.stage == "encoding"]
            self.assertIn(f"n_subsample={every}", " ".join(scored[-1]), (duration, codec))
            self.assertTrue(0 <= details["measured_error"] <= 0.33)
            self.assertEqual(details["measured_error"] == 0, every == 1)

    def test_the_error_of_a_score_narrows_what_is_accepted(self) -> None:
        """A miss that is good enough if every frame was scored is corrected otherwise."""
        for duration, corrected in ((8.0, False), (14.0, True)):
            job, _, details = self.compress(
                duration, size=2e5, quality=85, bias=-1.9, noise=(-0.7,)
            )
            made = [command for command in job.commands if command.stage == "encoding"]
            first = job.scores[made[0].outputs[0]]
            self.assertTrue(84.55 <= first <= 84.68, first)
            self.assertEqual(len(made) > 1, corrected, duration)
            self.assertEqual(details["measured_error"] > 0, corrected)

    def test_one_trial_is_enough_for_a_short_film_that_is_not_far_from_typical(self) -> None:
        for lack in (3.5, 5.0, 6.5):
            for quality in (75.0, 85.0, 95.0):
                job, _, _ = self.compress(
                    12.0, size=2e5, lack=lack, bias=-0.12 * (100 - quality), quality=quality
                )
                samples = [c for c in job.commands if c.stage == "searching" and c.outputs]
                self.assertEqual(len(samples), 1, (lack, quality))

    def test_every_film_is_scored(self) -> None:
        for duration in (2.0, 20.0, 7200.0):
            job, product, details = self.compress(duration, size=3e6, lack=7.0)
            self.assertApproximates(details["measured_score"], job.scores[product.file], 0.01)
        self.assertLess(job.search_part(details), 0.1)

    def test_films_that_miss_are_corrected(self) -> None:
        for duration in (20.0, 7200.0):
            for bias in (-1.2, 1.2):
                job, product, _ = self.compress(duration, size=3e6, bias=bias)
                self.assertTrue(94.5 <= job.scores[product.file] <= 96, (duration, bias))

    def test_a_miss_is_corrected_when_the_time_is_spent(self) -> None:
        job, product, details = self.compress(20.0, size=5e5, quality=85, bias=3, scoring_time=9.0)
        self.assertFalse(details["already_optimal"])
        self.assertApproximates(job.scores[product.file], 85.2, 0.5)

    def test_the_best_is_delivered_when_trials_end_below_the_target(self) -> None:
        """The encodes answer so unsteadily that no correction hits."""
        noise = (-4.0, -8.0, -12.0, -12.0, -12.0, -12.0)
        job, product, details = self.compress(20.0, size=5e5, quality=95, noise=noise)
        self.assertFalse(details["already_optimal"])
        whole = [score for name, score in job.scores.items() if name.startswith("result")]
        self.assertEqual(job.scores[product.file], max(whole))
        self.assertTrue(any(f"{max(whole):.1f}" in sentence for sentence in job.warnings))

    def test_a_scorer_that_crashes_is_tried_once_more(self) -> None:
        job = MadeUpJob(20.0, size=3e6)
        job.crashes = 1
        details = run_operation(CompressOperation(), job).details
        self.assertGreater(details["probes"], 0)
        job = MadeUpJob(20.0, size=3e6)
        job.crashes = 100
        self.assertEqual(run_operation(CompressOperation(), job).details["probes"], 0)

    def test_target_gives_way(self) -> None:
        job, _, details = self.compress(20.0, size=14e6, lack=5.0)
        self.assertTrue(details["target_lowered"])
        self.assertTrue(90 <= details["measured_score"] < 95)
        self.assertTrue(any("a lower one" in sentence for sentence in job.warnings))

    def test_target_does_not_give_way_below_90(self) -> None:
        job, product, details = self.compress(20.0, size=40e6)
        self.assertTrue(details["already_optimal"])
        self.assertEqual(product.media_type, "mp4")
        self.assertNotIn("encoding", {command.stage for command in job.commands})

    def test_a_film_that_swells_is_encoded_again(self) -> None:
        _, _, details = self.compress(1000.0, size=9e6, lack=4.0, swelling=1.4)
        self.assertFalse(details["already_optimal"])
        self.assertLess(details["percent_of_source"], 99)

    def test_a_film_that_swells_too_much_is_left_alone(self) -> None:
        _, _, details = self.compress(1000.0, size=9e6, lack=4.0, swelling=9.0)
        self.assertTrue(details["already_optimal"])

    def test_unknown_length(self) -> None:
        job = MadeUpJob(30.0, size=3e6)
        job.media = msgspec.structs.replace(job.media, duration=None)
        product = run_operation(CompressOperation(), job)
        self.assertEqual(product.details["probes"], 0)


class RateTests(SynchronousTestCase):
    video = VideoStream(index=0, codec="h264", width=640, height=480, bit_rate=800_000)

    def media(self, **audio: Any) -> MediaInfo:
        return MediaInfo(
            container="matroska,webm",
            size=1_250_000,
            duration=10.0,
            video=self.video,
            audio=(AudioStream(index=1, channels=2, sample_rate=48000, **audio),),
        )

    def test_small_aac_is_copied(self) -> None:
        media = self.media(codec="aac", bit_rate=128_000)
        sound = audio_for(media, media.audio[0])
        assert sound is not None
        self.assertTrue(sound.copied)

    def test_large_aac_is_encoded(self) -> None:
        media = self.media(codec="aac", bit_rate=320_000)
        sound = audio_for(media, media.audio[0])
        assert sound is not None
        self.assertEqual((sound.encoder, sound.bit_rate), ("aac", 160_000))

    def test_little_vorbis_does_not_become_much_aac(self) -> None:
        media = self.media(codec="vorbis", bit_rate=64_000)
        sound = audio_for(media, media.audio[0])
        assert sound is not None
        self.assertEqual((sound.encoder, sound.bit_rate), ("aac", 80_000))

    def test_unknown_rate_is_what_the_video_leaves(self) -> None:
        media = self.media(codec="vorbis")
        self.assertEqual(track_rate(media, media.audio[0]), 200_000)

    def test_video_bytes(self) -> None:
        media = self.media(codec="aac", bit_rate=160_000)
        self.assertEqual(source_video_bytes(media), 1_000_000)
        unknown = msgspec.structs.replace(
            media, video=msgspec.structs.replace(self.video, bit_rate=None)
        )
        self.assertEqual(source_video_bytes(unknown), 1_050_000)
