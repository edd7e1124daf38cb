"""A small sample of `make matrix`, and that it notices what is wrong."""

from __future__ import annotations

from dataclasses import replace

from twisted.trial.unittest import TestCase

from benchmarks import matrix
from tests import media_harness as media

HLG = media.CLIPS / "flower-270p-hlg.mp4"
DOLBY = media.CLIPS / "iphone-270p-hlg-dolby.mp4"


class MatrixTests(TestCase):
    def test_a_sample(self) -> None:
        for clip, name in (
            (media.PRORES, "resolution, crop"),
            (DOLBY, "webm"),
            (media.FLAC, "extract_audio"),
            (media.FLAC, "resolution"),
        ):
            row = matrix.run_case(clip, name, 1.0)
            self.assertEqual(row.wrong, (), f"{clip.name} {name}")
        self.assertEqual(row.note[:3], "415")

    def test_every_clip_has_cases(self) -> None:
        clips = matrix.clips([media.CLIPS])
        self.assertIn(HLG, clips)
        self.assertIn("compress, hevc, sdr", matrix.wanted_cases(HLG))
        self.assertNotIn("compress, hevc, sdr", matrix.wanted_cases(media.FRIDAY))

    def test_what_is_wrong_is_noticed(self) -> None:
        source = matrix.look(media.PRORES)
        path = media.scratch(self) / "result.mp4"
        size = "128:96"
        media.ffmpeg("-i", media.PRORES, "-vf", f"scale={size},setsar=1,format=yuv420p", path)
        result = matrix.look(path)

        def wrong(found: matrix.File) -> str:
            return "; ".join(matrix.check(source, found, path, "resolution", {}))

        self.assertEqual(wrong(result), "the index is not at the front")
        self.assertIn("frame size", wrong(replace(result, size=(128, 94))))
        self.assertIn("matrix", wrong(replace(result, colours={**result.colours, "matrix": 9})))
        video, audio = result.of("video")[0], result.of("audio")[0]
        self.assertIn("languages", wrong(replace(result, tracks=[video])))
        late = replace(audio, first=(audio.first or 0.0) + 0.1)
        self.assertIn("audio 0: first time", wrong(replace(result, tracks=[video, late])))
        fewer = replace(video, frames=video.frames - 1)
        self.assertIn("frames, not", wrong(replace(result, tracks=[fewer, audio])))
