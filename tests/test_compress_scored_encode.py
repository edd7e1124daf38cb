"""Encoding and scoring by one command, with a real FFmpeg."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

from support.job import RealJob
from tests.test_compress import MEDIA, CompressCase
from vidproc.ffmpeg.command import Command, CommandFailed, Completed, FailureKind
from vidproc.operations.compress.encode import Codec
from vidproc.operations.compress.scored_encode import scored_encode
from vidproc.operations.compress.scoring import Samples, decoded_once, spread, whole_film
from vidproc.operations.compress.search import Search
from vidproc.operations.compress.work import Work
from vidproc.operations.parameters import Compress

CLIP = MEDIA / "mpeg4asp-mp3.avi"
QUALITY = 98.0  # so high that the source's own score counts


@dataclass(frozen=True)
class Made:
    """What came of an encode: its score, the source's own, its bytes, and the commands."""

    score: float | None
    best: float
    size: int
    commands: list[Command]


class OldFFmpeg(RealJob):
    """A job whose FFmpeg can't decode what it encodes, but fails or waits for ever."""

    kind = FailureKind.INPUT

    async def run(self, command: Command) -> Completed:
        if "-dec" in command.arguments:
            self.commands.append(command)
            raise CommandFailed(command, "it can't", kind=self.kind)
        return await super().run(command)


class ScoredEncodeTests(CompressCase):
    def setUp(self) -> None:
        nearly = ("-c:v", "libx264", "-preset", "ultrafast", "-crf", "4", "-c:a", "copy")
        self.clip = self.make("clip.mkv", "-i", str(CLIP), "-vf", "scale=192:-2", *nearly)

    def work(self, codec: Codec, kind: type[RealJob] = RealJob) -> Work:
        folder = Path(self.mktemp())
        folder.mkdir(parents=True)
        parameters = Compress(quality=QUALITY, codec=codec, preset="fast")
        return Work.of(kind(self.clip, folder.absolute(), parameters))

    def encode(self, work: Work, samples: Samples, every: int = 1) -> Made:
        encoder = work.video_encoder
        rate = encoder.rate(encoder.curve.typical_crf(90.0))
        search = Search(encoder.curve, QUALITY, QUALITY, 90.0, 1e9, 30.0)
        if samples.starts:
            name = "probe.mkv"
            encode = work.sample_command(name, rate, samples, weight=0.1)
        else:
            name, encode = work.film(rate, weight=0.1)

        async def both() -> float | None:
            score, _, _ = await work.encode_and_score(
                encode, name, samples, stage="searching", weight=0.1, every=every, search=search
            )
            return score

        try:
            both().send(None)
        except StopIteration as done:
            return Made(done.value, search.best, work.job.size_of(name), self.ran(work))
        raise AssertionError("it waited for something that is not a command")

    def ran(self, work: Work) -> list[Command]:
        job = work.job
        assert isinstance(job, RealJob)
        return job.commands

    def test_one_command_finds_what_two_do(self) -> None:
        duration = self.work("h264").duration
        samples = decoded_once(spread(duration, 0.25, 0.4, 8), 24.0)
        cases: list[tuple[Codec, Samples, int]] = [
            ("h264", whole_film(duration), 3),
            ("h264", samples, 1),
            ("hevc", samples, 1),
            ("av1", samples, 1),
        ]
        for codec, which, every in cases:
            one = self.encode(self.work(codec), which, every)
            two = self.encode(replace(self.work(codec), decodes_own=False), which, every)
            self.assertEqual((len(one.commands), len(two.commands)), (1, 2), codec)
            assert one.score is not None and two.score is not None
            self.assertApproximates(one.score, two.score, 0.01)
            self.assertApproximates(one.best, two.best, 0.01)
            self.assertTrue(60 < one.score < one.best < 100, one)
            self.assertEqual(one.size, two.size, codec)
            self.assertGreater(one.commands[0].memory, two.commands[0].memory)

    def test_an_ffmpeg_that_cannot_is_asked_once(self) -> None:
        work = self.work("h264", OldFFmpeg)
        samples = decoded_once(spread(work.duration, 0.1, 0.4, 1), 24.0)
        left = work.left
        first = self.encode(work, samples)
        self.assertIsNotNone(first.score)
        self.assertEqual(len(first.commands), 3)
        self.encode(work, samples)
        self.assertEqual(["-dec" in command.arguments for command in first.commands].count(True), 1)
        self.assertTrue(0 < work.left < left)

    def test_two_commands_do_better_than_one_that_stands_still(self) -> None:
        self.patch(OldFFmpeg, "kind", FailureKind.STALLED)
        work = self.work("h264", OldFFmpeg)
        made = self.encode(work, decoded_once(spread(work.duration, 0.1, 0.4, 1), 24.0))
        self.assertIsNotNone(made.score)
        self.assertEqual(len(made.commands), 3)

    def test_several_inputs_stay_two_commands(self) -> None:
        work = self.work("h264")
        samples = spread(work.duration, 0.5, 1.0, 2)
        self.assertGreater(len(samples.starts), 1)
        made = self.encode(work, samples)
        self.assertEqual(len(made.commands), 2)
        self.assertIsNotNone(made.score)

    def test_large_frames_are_scored_afterwards(self) -> None:
        work = self.work("h264")
        self.patch(work, "size", (3840, 2160))
        encode = work.film({"crf": 30}, weight=0.1)[1]
        self.assertIsNone(
            work._scored_encode(encode, "result-1.mp4", whole_film(1.0), 0.1, 1, None)
        )

    def test_labels_do_not_meet(self) -> None:
        """FFmpeg looks a label up in all graphs of a command."""
        work = self.work("h264")
        name, encode = work.film({"crf": 30}, weight=0.1)
        score = work.score_command(
            name, whole_film(1.0), stage="scoring", weight=0.1, every=1, best=False
        )
        command = scored_encode(encode, score)
        assert command is not None
        graphs = [
            command.arguments[at + 1]
            for at, word in enumerate(command.arguments)
            if word == "-filter_complex"
        ]
        labels = [set(re.findall(r"\[([^\]:]+)\]", graph)) for graph in graphs]
        self.assertEqual(len(labels), 2)
        self.assertEqual(labels[0] & labels[1], set())
