"""A film at one CRF, encoded and scored in segments."""

from __future__ import annotations

from support.travel import TravellingRunner
from tests import media_harness as media
from tests.test_compress import CompressCase, measure
from vidproc.operations import spread


class OneCrfTests(CompressCase):
    timeout = 240

    def test_av1_in_segments(self) -> None:
        """The score of the film is that of its segments, and no frame is lost at a join."""
        self.patch(spread, "LEAST_FILM", 1.0)
        self.patch(spread, "LEAST", 0.5)
        self.patch(spread, "FINEST", 1)  # one for each core
        film = self.make(
            "film.mp4",
            *(
                "-f",
                "lavfi",
                "-i",
                "testsrc2=s=160x96:r=25",
                "-f",
                "lavfi",
                "-i",
                "sine",
                "-t",
                "5",
            ),
            *("-vf", "noise=alls=12:allf=t", "-c:v", "libx264", "-preset", "ultrafast"),
            *("-crf", "12", "-g", "25", "-c:a", "aac"),
        )
        job, product = self.compress(
            film, runner=TravellingRunner(cores=2), codec="av1", preset="fast", quality=85
        )
        path = job.path_of(product.file)
        score = measure(path, film)
        self.assertApproximates(score, product.details["measured_score"], 0.3)
        self.assertEqual(len(media.times(path)), 125)
        self.assertEqual(len(media.probe(path).audio), 1)
        stages = [command.stage for command in job.commands if command.part is not None]
        self.assertEqual(stages[:4], ["encoding", "encoding", "scoring", "scoring"])

    def test_samples_side_by_side(self) -> None:
        """A trial's samples are commands of their own, and lead to the target as one command
        does."""
        film = self.make(
            "long.mp4",
            *("-f", "lavfi", "-i", "testsrc2=s=128x96:r=8", "-t", "64"),
            *("-vf", "noise=alls=16:allf=t", "-c:v", "libx264", "-preset", "ultrafast"),
            *("-crf", "12", "-g", "40"),
        )
        runner = TravellingRunner(cores=2)
        job, product = self.compress(film, runner=runner, codec="av1", preset="fast", quality=85)
        searched = [each for each in job.commands if each.stage == "searching"]
        self.assertEqual(searched[0].outputs, ("sample-0.mkv",))
        self.assertEqual(searched[1].outputs, ("sample-1.mkv",))
        for command in searched:
            assert command.part is not None and command.part.ranges is not None
            read = sum(end - start for start, end in command.part.ranges)
            self.assertLess(read, 0.5 * film.stat().st_size)
        self.assertEqual(len(searched), 4 * product.details["probes"])
        path = job.path_of(product.file)
        score = measure(path, film)
        self.assertApproximates(score, product.details["measured_score"], 0.3)
        self.assertTrue(84.5 <= score <= 86.0, score)
        self.assertEqual(len(media.times(path)), 512)
