"""Compressing on a cluster: the result meets the target, and is the same each time."""

from __future__ import annotations

from typing import Any

from support.job import RealJob, probe, run_operation
from tests.media_harness import ffmpeg
from tests_cluster.test_operations import OperationCase, decoded, frames_of, vmaf
from vidproc.operations.parameters import Compress
from vidproc.operations.registry import OPERATIONS

QUALITY = 85.0


class TargetTests(OperationCase):
    def test_samples_side_by_side_lead_to_the_target_each_time(self) -> None:
        """A video of 64 s: workers encode and score its samples and its segments."""
        source = self.root / "film.mkv"
        ffmpeg(
            *("-f", "lavfi", "-i", "testsrc2=s=128x96:r=8", "-t", "64"),
            *("-vf", "noise=alls=16:allf=t", "-c:v", "libx264", "-preset", "ultrafast"),
            *("-crf", "12", "-g", "40", source),
        )
        made: list[tuple[str, Any]] = []
        for number in range(2):
            folder = self.root / "task" / f"compress-{number}"
            folder.mkdir()
            parameters = Compress(codec="av1", preset="fast", quality=QUALITY)
            job = RealJob(source, folder, parameters, runner=self.runner_, threads=1)
            product = run_operation(OPERATIONS["compress"], job)
            path = job.path_of(product.file)
            searched = [each.outputs for each in job.commands if each.stage == "searching"]
            self.assertIn(("sample-0.mkv",), searched)
            self.assertIn(("sample-1.mkv",), searched)
            made.append((decoded(path), product.details["crf"]))
        self.assertEqual(made[0], made[1])
        self.assertEqual(frames_of(path), 512)
        self.assertApproximates(probe(path).duration, 64.0, 0.05)
        score = vmaf(path, source)
        self.assertApproximates(score, product.details["measured_score"], 0.3)
        self.assertTrue(QUALITY - 0.5 <= score <= QUALITY + 1.0, score)
