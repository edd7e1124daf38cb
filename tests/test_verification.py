"""A result is right only if it is exactly what the operation promised."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from vidproc.ffmpeg.media import AudioStream, MediaInfo, VideoStream
from vidproc.operations.base import Expectation
from vidproc.tasks.verification import Verdict, compare

VIDEO = VideoStream(index=0, codec="h264", width=640, height=360)
AUDIO = AudioStream(index=1, codec="aac", channels=2)


def media(**fields: Any) -> MediaInfo:
    known: dict[str, Any] = {"container": "mp4", "size": 1000, "duration": 10.0, "measured": True}
    return MediaInfo(**{**known, "video": VIDEO, "audio": (AUDIO,), **fields})


class CompareTests(SynchronousTestCase):
    def judge(self, found: MediaInfo, source: MediaInfo | None = None, **expected: Any) -> Verdict:
        known: dict[str, Any] = {"video": True, "audio": True, "size": (640, 360), "duration": 10.0}
        return compare(found, Expectation(**{**known, **expected}), source or media())

    def test_a_result_as_promised_is_right(self) -> None:
        """Its length is within the tolerance."""
        for duration in (9.6, 10.0, 10.4):
            self.assertEqual(self.judge(media(duration=duration)), Verdict())

    def test_a_stream_that_lacks_is_a_fault(self) -> None:
        self.assertIn("no video stream", self.judge(media(video=None)).fault or "")
        self.assertIn("no audio stream", self.judge(media(audio=())).fault or "")

    def test_a_stream_that_should_not_be_there_is_a_fault(self) -> None:
        """A silent clip with the film's audio, or an audio file with a video."""
        found = self.judge(media(), audio=False)
        self.assertIn("should have no audio stream", found.fault or "")
        found = self.judge(media(), video=False, size=None)
        self.assertIn("should have no video stream", found.fault or "")

    def test_another_frame_size_is_a_fault(self) -> None:
        found = self.judge(media(), size=(640, 480))
        self.assertIn("640x360 pixels and should be 640x480", found.fault or "")

    def test_a_result_that_is_too_short_is_delivered_with_a_warning(self) -> None:
        """FFmpeg succeeds even if a film is truncated; the existing part is delivered."""
        found = self.judge(media(duration=5.0))
        self.assertIsNone(found.fault)
        self.assertIn("ended early", found.warning or "")

    def test_a_result_that_is_too_long_is_a_fault(self) -> None:
        found = self.judge(media(duration=20.0))
        self.assertIn("should last", found.fault or "")

    def test_a_source_that_is_longer_than_its_header_says_is_not_a_fault(self) -> None:
        """Its packets were not counted, so only the header is known. A clip of it must not be
        longer."""
        unsure = media(measured=False)
        found = self.judge(media(duration=20.0), unsure)
        self.assertIsNone(found.fault)
        self.assertIn("longer than it says", found.warning or "")
        clip = self.judge(media(duration=5.0), unsure, duration=2.0)
        self.assertIn("should last", clip.fault or "")

    def test_a_result_of_unknown_length_is_a_fault_where_a_length_was_promised(self) -> None:
        self.assertTrue(self.judge(media(duration=None)).fault)
        self.assertEqual(self.judge(media(duration=None), duration=None), Verdict())
