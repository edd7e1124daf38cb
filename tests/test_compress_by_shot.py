"""The compressor shot by shot: with a real FFmpeg, and with made-up answers."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import av
from twisted.trial.unittest import SynchronousTestCase

from support.job import RealJob, run_operation
from support.travel import TravellingRunner
from tests.test_compress import MEDIA, CompressCase, MadeUpJob, measure
from vidproc.ffmpeg.command import SOURCE, Command, CommandFailed, Completed, FailureKind
from vidproc.operations.base import Job
from vidproc.operations.compress import by_shot
from vidproc.operations.compress.allocation import ShotCurve
from vidproc.operations.compress.by_shot import _shot_bytes
from vidproc.operations.compress.operation import CompressOperation
from vidproc.operations.compress.scoring import frame_sizes
from vidproc.operations.compress.search import Point
from vidproc.operations.compress.shots import divide
from vidproc.operations.compress.source_rate import SourceRate
from vidproc.operations.compress.work import Work
from vidproc.operations.parameters import Compress
from vidproc.runners.interface import Runner

CLIPS = (
    ("flower-540p-aac.mp4", 5.0),
    ("friday-480p-aac.mp4", 5.0),
    ("mpeg4asp-mp3.avi", 4.0),
    ("cockatoo-720p-noaudio.mp4", 5.0),
)


def times(path: Path) -> list[float]:
    """Return the times of a file's frames, in seconds."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.time_base is not None
        return sorted(
            float(packet.pts * stream.time_base)
            for packet in container.demux(stream)
            if packet.pts is not None
        )


class RealTests(CompressCase):
    def film(self, rate: str = "24") -> Path:
        """Return a film of four shots, 19 s long, with a tone for its audio."""
        inputs, graph = [], ""
        for number, (name, length) in enumerate(CLIPS):
            inputs += ["-t", str(length), "-i", str(MEDIA / name)]
            graph += (
                f"[{number}:v]scale=240:136,setsar=1,fps={rate},format=yuv420p,"
                f"setparams=colorspace=bt709:range=tv[v{number}];"
            )
        graph += "".join(f"[v{n}]" for n in range(len(CLIPS))) + f"concat={len(CLIPS)}[v]"
        return self.make(
            "film.mp4",
            *(*inputs, "-f", "lavfi", "-i", "sine=duration=19", "-filter_complex", graph),
            *("-map", "[v]", "-map", f"{len(CLIPS)}:a", "-c:v", "libx264", "-preset", "ultrafast"),
            *("-crf", "10", "-c:a", "aac"),
        )

    def check(self, rate: str, runner: Runner | None = None, **parameters: Any) -> RealJob:
        film = self.film(rate)
        job, product = self.compress(film, preset="fast", runner=runner, **parameters)
        details = product.details
        self.assertEqual(details["shots"], 4)
        self.assertIn("saved_percent", details)
        score = measure(job.path_of(product.file), film)
        # Where all frames are scored: of the mean by seconds instead of frames, and of rounding.
        error = 2 * details["measured_error"] + 0.05
        self.assertApproximates(score, details["measured_score"], error)
        self.assertTrue(-0.5 <= score - parameters["quality"] <= 1.0, score)
        before, after = times(film), times(job.path_of(product.file))
        self.assertEqual(len(after), len(before))
        for have, want in zip(after, before, strict=True):
            self.assertApproximates(have, want, 1e-4)
        with av.open(str(job.path_of(product.file))) as container:
            frames = sum(1 for _ in container.decode(video=0))
            self.assertEqual(frames, len(before))
            self.assertEqual(len(container.streams.audio), 1)
        self.assertLessEqual(details["probes"], 5)
        # What a sample's frames weigh is known.
        for number, (_, length) in enumerate(CLIPS):
            first, second = (
                frame_sizes(job.path_of(f"sample-{number}-{n}.mkv").read_bytes()) for n in (0, 1)
            )
            self.assertTrue(16 <= len(first) < length * 24, len(first))
            self.assertEqual(len(second), len(first))
            self.assertLess(sum(size for size, _ in second), sum(size for size, _ in first))
        return job

    def test_h264_is_joined_to_the_frame(self) -> None:
        """Two segments of two shots each, whose CRF changes at the very frame of the cut."""
        self.patch(by_shot, "_TOGETHER", 1.5)
        self.patch(by_shot, "_NEAR", 35.0)
        self.patch(by_shot, "_WORTH", 0.0)
        job = self.check("24000/1001", quality=93)
        rates = [
            command.arguments[command.arguments.index("-x264-params") + 1]
            for command in job.commands
            if command.outputs and command.outputs[0].startswith("shot")
        ]
        found = [[int(each) for each in re.findall(r"[=/](\d+),\d+,b=", rate)] for rate in rates]
        # The second one's first keyframe is as good as one within an encode.
        wanted = [[0, round(5 * 24000 / 1001)], [0, round(4 * 24000 / 1001), 0]]
        self.assertEqual([each for each in wanted if each not in found], [])
        self.assertEqual([each for each in found if each not in wanted], [])

    def test_hevc_is_joined_to_the_frame_on_a_cluster(self) -> None:
        """Shots and samples travel with no more of the source than they need."""
        job = self.check("25", TravellingRunner(cores=2), quality=90, codec="hevc")
        parts = [command.part for command in job.commands if command.cpus == 1.0]
        known = [part.size for part in parts if part is not None and part.size is not None]
        self.assertGreater(len(known), len(CLIPS))
        self.assertLess(max(known), 0.8 * job.media.size)


class ShotBytesTests(SynchronousTestCase):
    def test_a_sample_of_two_places_has_one_keyframe_of_the_shot(self) -> None:
        """The second place's first frame is large, and comes early in coding order."""
        sizes = [1000, *(100 for _ in range(9)), 900, *(100 for _ in range(13))]
        self.assertEqual(_shot_bytes(sizes, 12, 101, 0.0), 1000 + 100 * 100)

    def test_unknown_sizes(self) -> None:
        self.assertEqual(_shot_bytes([], 12, 100, 50.0), 5000)


class MadeUpShots(MadeUpJob):
    """A film with cuts every 4 s, whose shots differ; samples score `bias` more than their shot
    where that scores 95, and it has `growth` times the bytes that they foretell. The shot `fallen`
    is far worse than its sample."""

    def __init__(
        self, duration: float, spread: float = 0.2, dear: float = 5.0, **rest: Any
    ) -> None:
        self.spread, self.dear = spread, dear
        super().__init__(duration, start_time=0.0, **rest)
        self.threads = 2
        self.failing: FailureKind | None = None
        self.growth = 1.0
        self.fallen: int | None = None

    async def run(self, command: Command) -> Completed:
        if "scdet" in " ".join(command.arguments):
            cuts = range(4, int(self.duration), 4)
            return Completed(b"".join(b"lavfi.scd.time=%d\n" % cut for cut in cuts), "", 0.1)
        if command.stage == "joining":
            return Completed(b"", "", 0.1)
        return await super().run(command)

    async def run_together(self, commands: Sequence[Command]) -> list[Completed]:
        return [self.one(command) for command in commands]

    def one(self, command: Command) -> Completed:
        self.commands.append(command)
        arguments = list(command.arguments)
        if "libvmaf" in " ".join(arguments):
            encoded = [name for name in command.inputs if name != SOURCE]
            printed = "".join(f"VMAF score: {self.scores[name]:.6f}\n" for name in encoded)
            return Completed(b"", printed, 1.0)
        if self.failing and command.outputs[0].startswith("shot"):
            raise CommandFailed(command, "no frames", kind=self.failing)
        crfs = (float(arguments[n + 1]) for n, word in enumerate(arguments) if word == "-crf")
        for name, crf in zip(command.outputs, crfs, strict=True):
            self.encode(command, name, crf)
        return Completed(b"", "", command.duration or 0.0)

    def encode(self, command: Command, name: str, crf: float) -> None:
        number = int(name.split(".")[0].split("-")[1])
        dear = self.dear ** (number % 3 - 1)
        lack = self.lack * (1.0 + self.spread * (number % 5 - 2)) * math.exp(0.13 * (crf - 23))
        if name.startswith("sample"):
            lack *= (1.0 - self.bias / 5.0) * math.exp(by_shot._LACK_IN_SAMPLES["h264"])
        elif number == self.fallen:
            lack *= 2.0
        self.scores[name] = max(100 - lack, 0.0)
        part = (command.duration or 0.0) / self.duration
        growth = self.growth if name.startswith("shot") else 1.0
        self.sizes[name] = self.size * growth * dear / 2 * math.exp(-0.12 * (crf - 23)) * part

    def size_of(self, name: str) -> int:
        if name.startswith("result") and name not in self.sizes:
            last = {file.split("-")[1]: file for file in self.sizes if file.startswith("shot")}
            return int(sum(self.sizes[file] for file in last.values()))
        return super().size_of(name)


class ShotDecisionTests(SynchronousTestCase):
    def compress(self, duration: float, **rest: Any) -> tuple[MadeUpShots, dict[str, Any]]:
        job = MadeUpShots(duration, **rest)
        product = run_operation(CompressOperation(), job)
        return job, product.details

    def encodes(self, job: MadeUpShots) -> list[str]:
        return [
            name for command in job.commands for name in command.outputs if name.startswith("shot")
        ]

    def test_shots_have_crfs_of_their_own(self) -> None:
        _, details = self.compress(60.0, size=1e6, spread=0.4)
        self.assertEqual(details["shots"], 15)
        self.assertGreater(details["saved_percent"], 2.0)
        low, high = details["crf_range"]
        self.assertGreater(high, low)

    def test_equal_shots_share_segments_and_one_crf(self) -> None:
        """The end of each segment costs bytes, and there is nothing to gain for them."""
        for duration, most in ((60.0, 9), (1200.0, 25)):
            job, details = self.compress(duration, size=3e6, spread=0.0, dear=1.0)
            self.assertEqual(details["shots"], duration / 4)
            self.assertEqual(details["saved_percent"], 0.0)
            self.assertTrue(-0.5 <= details["measured_score"] - 95 <= 1.0, details)
            self.assertLessEqual(len(self.encodes(job)), most)

    def test_a_shot_that_falls_is_encoded_again(self) -> None:
        """No sample told that it would be worse than the worst ones at one CRF."""
        job = MadeUpShots(120.0, size=3e6, spread=0.1)
        job.fallen = 5
        details = run_operation(CompressOperation(), job).details
        self.assertTrue(-0.5 <= details["measured_score"] - 95 <= 1.0, details)
        again = [name for name in self.encodes(job) if not name.endswith("-2.mp4")]
        self.assertIn("shot-5-3.mp4", again)
        self.assertLessEqual(len(again), 2)
        self.assertGreater(job.scores["shot-5-3.mp4"], job.scores["shot-5-2.mp4"] + 0.5)

    def test_a_segment_ends_where_the_crf_jumps(self) -> None:
        """x264 would give the next shot's keyframe the quantizer of this shot."""
        work = Work.of(cast("Job[Compress]", MadeUpShots(24.0, size=3e6)))
        frames = range(24 * 25)
        rate = SourceRate([frame / 25 for frame in frames], [100 * frame for frame in range(601)])
        film = divide([4.0, 8.0, 12.0, 16.0, 20.0], 24.0)
        points = (Point(21.0, 96.0, 2e5), Point(27.0, 92.0, 1e5))
        curves = [ShotCurve.between(work.video_encoder.curve, 4.0, *points) for _ in film]
        self.patch(by_shot, "_TOGETHER", 1)
        crfs = [22.0, 23.5, 26.0, 25.0, 22.5, 22.4]
        takes = by_shot._takes(work, film, curves, crfs, rate, 1)
        self.assertEqual([take.shot.start for take in takes], [0.0, 8.0, 16.0])
        for take, own in zip(takes, (crfs[:2], crfs[2:4], crfs[4:]), strict=True):
            self.assertEqual(list(take.firsts), [0, 100])
            for offset, crf in zip(take.offsets, own, strict=True):
                self.assertApproximates(take.crf + offset, crf, 0.01)

    def test_a_video_that_is_easy_is_sampled_again_at_higher_crfs(self) -> None:
        """At those of a typical one, all of its shots are nearly perfect, which tells little."""
        for lack, times in ((5.0, 1), (1.5, 2)):
            job, details = self.compress(60.0, size=3e6, lack=lack)
            samples = [
                float(command.arguments[n + 1])
                for command in job.commands
                if command.outputs and command.outputs[0].startswith("sample-0")
                for n, word in enumerate(command.arguments)
                if word == "-crf"
            ]
            self.assertEqual(len(samples), 2 * times)
            self.assertTrue(samples[-2] - 2 < details["crf"] < samples[-1], (samples, details))
            self.assertTrue(-0.5 <= details["measured_score"] - 95 <= 1.0, details)
            self.assertTrue(times < details["probes"] <= 5, details)

    def test_what_the_first_shots_score_steers_the_others(self) -> None:
        for bias in (-2.0, 2.0):
            job, details = self.compress(120.0, size=3e6, bias=bias)
            self.assertApproximates(details["measured_score"], 95.2, 0.4)
            shots = [name.split("-")[1] for name in self.encodes(job)]
            self.assertGreater(len(set(shots)), 20)
            # Those that were encoded before others told that they would be so bad.
            self.assertLessEqual(len(shots), len(set(shots)) + 2)

    def test_a_few_shots_are_encoded_again_where_steering_is_not_enough(self) -> None:
        job, details = self.compress(20.0, size=3e6, bias=4.0)
        self.assertTrue(-0.5 <= details["measured_score"] - 95 <= 1.0, details)
        self.assertGreater(len(self.encodes(job)), 5)
        self.assertLessEqual(details["probes"], 5)

    def test_a_correction_goes_no_further_than_it_has_to(self) -> None:
        """Else the shots that are encoded again go past the aim, and the next correction back."""
        for duration, bias in ((16.0, 1.0), (20.0, -3.0), (28.0, 1.0)):
            job, details = self.compress(duration, size=3e6, bias=bias, spread=0.0)
            self.assertTrue(-0.5 <= details["measured_score"] - 95 <= 1.0, details)
            self.assertLessEqual(len(self.encodes(job)), 2 * details["shots"] - 1)

    def test_a_segment_without_frames_leads_to_one_encode(self) -> None:
        job = MadeUpShots(60.0, size=3e6)
        job.failing = FailureKind.INPUT
        details = run_operation(CompressOperation(), job).details
        self.assertNotIn("shots", details)
        self.assertIn("measured_score", details)

    def test_the_size_rule_leads_to_one_search(self) -> None:
        _, details = self.compress(60.0, size=14e6)
        self.assertTrue(details["target_lowered"])

    def test_shots_that_grow_past_the_size_rule_lead_to_one_search(self) -> None:
        """Once the first of them are encoded, and not only when all are."""
        job = MadeUpShots(120.0, size=3e6)
        job.growth = 8.0
        details = run_operation(CompressOperation(), job).details
        self.assertNotIn("shots", details)
        self.assertTrue(0 < len(self.encodes(job)) < 15, self.encodes(job))
