"""Operations on a cluster give what they give here: the same frames, or equally good ones."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import NamedTuple

import av

from support.job import RealJob, bundled_ffmpeg, local_runner, probe, run_operation
from tests.media_harness import ffmpeg
from tests_cluster.case import ClusterCase
from tests_cluster.test_commands import FLOWER
from vidproc.operations.parameters import (
    AspectRatio,
    Compress,
    ExtractAudio,
    Gif,
    Parameters,
    Resolution,
    WebM,
)
from vidproc.operations.registry import OPERATIONS

VMAF_OFF = 0.3


class Made(NamedTuple):
    """The file that an operation made, and how many of its commands read a part of the source."""

    path: Path
    segments: int


class OperationCase(ClusterCase):
    def setUp(self) -> None:
        super().setUp()
        self.use_shared_cluster()
        self.runner_ = self.runner()
        self.wait_for_workers(self.runner_, 2)
        self.made = 0

    def make(self, where: str, source: Path, name: str, parameters: Parameters) -> Made:
        """Run an operation on the cluster ("away") or on this machine ("here")."""
        self.made += 1
        folder = self.root / "task" / f"{where}-{self.made}"
        folder.mkdir()
        runner = self.runner_ if where == "away" else local_runner()
        job = RealJob(source, folder, parameters, runner=runner, threads=1)
        product = run_operation(OPERATIONS[name], job)
        parts = [command for command in job.commands if command.part is not None]
        return Made(job.path_of(product.file), len(parts))

    @property
    def done(self) -> int:
        """How many commands workers have completed for this test."""
        return sum(worker.done for worker in self.runner_.workers)


class WholeTests(OperationCase):
    """Films that are not cut: every frame is identical."""

    def assert_same(self, source: Path, name: str, parameters: Parameters) -> None:
        before = self.done
        here, away = (self.make(where, source, name, parameters) for where in ("here", "away"))
        self.assertGreater(self.done, before, "no worker had a part in it")
        self.assertEqual(decoded(away.path), decoded(here.path))

    def small_clip(self) -> Path:
        path = self.root / "small.mp4"
        ffmpeg(
            *("-i", FLOWER, "-t", "2", "-vf", "scale=192:108", "-c:v", "libx264"),
            *("-preset", "ultrafast", "-crf", "12", "-c:a", "copy", path),
        )
        return path

    def test_resolution(self) -> None:
        """One command."""
        self.assert_same(FLOWER, "resolution", Resolution(width=320, height=240))

    def test_aspect_ratio(self) -> None:
        """One command."""
        parameters = AspectRatio(aspect_ratio="1:1")
        self.assert_same(self.small_clip(), "aspect_ratio", parameters)

    def test_extract_audio(self) -> None:
        """One command."""
        self.assert_same(FLOWER, "extract_audio", ExtractAudio())

    def test_gif(self) -> None:
        """Several commands that read each other's outputs."""
        self.assert_same(FLOWER, "gif", Gif(start_time=0.5, duration=1.0, width=120))

    def test_webm(self) -> None:
        """With each of its codecs."""
        for codec in ("vp9", "av1"):
            parameters = WebM(start_time=0.5, duration=0.5, width=120, codec=codec)
            self.assert_same(FLOWER, "webm", parameters)

    def test_compress_h264(self) -> None:
        """A search with trials and scores."""
        self.assert_same(self.small_clip(), "compress", Compress(codec="h264"))

    def test_compress_hevc(self) -> None:
        """A search with trials and scores."""
        self.assert_same(self.small_clip(), "compress", Compress(codec="hevc"))

    def test_compress_av1(self) -> None:
        """A search with trials and scores."""
        self.assert_same(self.small_clip(), "compress", Compress(codec="av1"))


class SegmentTests(OperationCase):
    """Films of 30 s and more are cut: the number of frames, the length and the quality stay."""

    def film(self) -> Path:
        path = self.root / "film.mp4"
        ffmpeg(
            *("-stream_loop", "-1", "-i", FLOWER, "-t", "32", "-vf", "scale=160:90"),
            *("-c:v", "libx264", "-preset", "ultrafast", "-crf", "14", "-c:a", "copy", path),
        )
        return path

    def assert_as_good(self, name: str, parameters: Parameters) -> None:
        source = self.film()
        here, away = (self.make(where, source, name, parameters) for where in ("here", "away"))
        self.assertGreaterEqual(away.segments, 2)
        self.assertEqual(here.segments, 0)
        self.assertGreaterEqual(self.done, 2)
        one, other = probe(here.path, verify=True), probe(away.path, verify=True)
        assert one.video is not None
        assert other.video is not None
        self.assertEqual(frames_of(away.path), frames_of(here.path))
        self.assertApproximates(one.duration, other.duration, 0.04)
        self.assertEqual(len(one.audio), len(other.audio))
        self.assertApproximates(vmaf(here.path, source), vmaf(away.path, source), VMAF_OFF)

    def test_resolution(self) -> None:
        """Padding."""
        self.assert_as_good("resolution", Resolution(width=128, height=72))

    def test_aspect_ratio(self) -> None:
        """Stretched, so that each frame can be compared with its source."""
        self.assert_as_good("aspect_ratio", AspectRatio(aspect_ratio="4:3", fit="stretch"))

    def test_webm(self) -> None:
        """A clip of 31 s."""
        self.assert_as_good("webm", WebM(start_time=0.0, duration=31.0))

    def test_compress(self) -> None:
        """The search's result is encoded in segments, and scored."""
        self.assert_as_good("compress", Compress(preset="fast"))


def decoded(path: Path) -> str:
    """Return the MD5 of everything that a file decodes to; WebM has random numbers in it."""
    done = subprocess.run(
        [
            *(bundled_ffmpeg().path, "-nostdin", "-v", "error", "-i", str(path), "-map", "0"),
            *("-fps_mode", "passthrough", "-f", "streamhash", "-hash", "md5", "-"),
        ],
        capture_output=True,
        check=True,
    )
    return done.stdout.decode()


def frames_of(path: Path) -> int:
    """Decode a file's video; return the number of its frames."""
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


def vmaf(path: Path, source: Path) -> float:
    """Return the VMAF of a file against its source, frame by frame, at the source's size."""
    video = probe(source).video
    assert video is not None
    size = f"{video.width}:{video.height}"
    same = "setparams=range=tv:colorspace=bt709:color_primaries=bt709:color_trc=bt709"
    graph = (
        f"[0:v]scale={size}:flags=bicubic,{same},settb=1/25,setpts=N,setsar=1[a];"
        f"[1:v]{same},settb=1/25,setpts=N,setsar=1[b];[a][b]libvmaf=n_threads=2:shortest=1"
    )
    done = subprocess.run(
        [
            *(bundled_ffmpeg().path, "-nostdin", "-hide_banner"),
            *("-i", str(path), "-i", str(source), "-lavfi", graph, "-f", "null", "-"),
        ],
        capture_output=True,
        check=True,
    )
    return float(re.findall(rb"VMAF score: ([0-9.]+)", done.stderr)[-1])
