"""What the probe finds out, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from twisted.trial.unittest import TestCase

from tests import media_harness as media
from vidproc.errors import ServiceError
from vidproc.ffmpeg import probe_child
from vidproc.ffmpeg.command import input_file
from vidproc.ffmpeg.media import MediaInfo, VideoStream
from vidproc.ffmpeg.probe import ProbeError, parse_probe, probe_command
from vidproc.ffmpeg.probe_values import clean_text


def video_of(path: Path) -> VideoStream:
    """Return the probed video stream."""
    video = media.probe(path).video
    assert video is not None
    return video


class FactsTests(TestCase):
    def test_an_ordinary_film(self) -> None:
        """Container, codecs, sizes, times and colours of an MP4."""
        info = media.probe(media.FLOWER)
        video = info.video
        assert video is not None
        self.assertIn("mp4", info.container)
        self.assertEqual(video.displayed_size, (960, 540))
        self.assertEqual((video.codec, video.pixel_format, video.frames), ("h264", "yuv420p", 150))
        self.assertAlmostEqual(video.frame_rate or 0, 30000 / 1001, places=3)
        self.assertTrue(video.constant_rate)
        self.assertEqual(video.color_matrix, "smpte170m")
        self.assertAlmostEqual(info.duration or 0, 5.055, places=2)
        self.assertEqual([(a.codec, a.channels) for a in info.audio], [("aac", 2)])
        self.assertFalse(info.ends_early)

    def test_matroska_that_does_not_start_at_0(self) -> None:
        """Its header has the end time, which is not the duration."""
        clip = media.synthesise(
            media.scratch(self) / "late.mkv",
            *("-output_ts_offset", "5"),
            lavfi="testsrc2=s=96x64:r=25",
            seconds=2,
        )
        info = media.probe(clip)
        self.assertEqual((info.ends_early, info.start_time), (False, 5.0))
        self.assertAlmostEqual(info.duration or 0, 2.0, places=2)

    def test_rotation_and_a_variable_rate(self) -> None:
        """A phone clip that was held upside down."""
        video = video_of(media.FIRE)
        self.assertEqual((video.rotation, video.displayed_size), (180, (1280, 720)))
        self.assertFalse(video.constant_rate)

    def test_a_quarter_turn_swaps_the_displayed_size(self) -> None:
        """Rotation is clockwise, as a player rotates the video."""
        folder = media.scratch(self)
        flat = media.synthesise(folder / "flat.mp4", lavfi="testsrc2=s=160x120", seconds=0.2)
        for degrees, clockwise in ((90, 270), (-90, 90), (180, 180)):
            turned = folder / f"turned{degrees}.mp4"
            media.ffmpeg("-display_rotation:v", str(degrees), "-i", flat, "-c", "copy", turned)
            video = video_of(turned)
            size = (160, 120) if degrees == 180 else (120, 160)
            self.assertEqual((video.rotation, video.displayed_size), (clockwise, size))

    def test_pixels_that_are_not_square(self) -> None:
        """The displayed size takes the sample aspect ratio into account."""
        video = video_of(media.ANAMORPHIC)
        self.assertEqual(video.sample_aspect_ratio, (3, 2))
        self.assertEqual(video.displayed_size, (1920, 1080))
        self.assertEqual(video_of(media.PRORES).displayed_size, (192, 144))

    def test_ten_bit_frames(self) -> None:
        """Depth and pixel format of ProRes."""
        video = video_of(media.PRORES)
        self.assertEqual((video.bit_depth, video.pixel_format), (10, "yuv422p10le"))

    def test_tracks_with_their_languages(self) -> None:
        """Two languages, two subtitle tracks."""
        info = media.probe(media.COUNT)
        self.assertEqual([a.language for a in info.audio], ["eng", "deu"])
        self.assertEqual(
            [(s.language, s.text) for s in info.subtitles], [("eng", True), ("deu", True)]
        )

    def test_a_picture_beside_a_film_is_not_the_film(self) -> None:
        """An animated AVIF begins with a still; a file with nothing else is a film of one frame."""
        folder = media.scratch(self)
        for name, frames in (("animation.avif", 5), ("still.avif", 1)):
            clip = media.synthesise(
                folder / name,
                *("-frames:v", str(frames), "-c:v", "libaom-av1", "-cpu-used", "8"),
                lavfi="testsrc2=s=64x48:r=25",
            )
            info = media.probe(clip)
            assert info.video is not None
            self.assertEqual((info.video.frames, info.other_videos, info.covers), (frames, 0, ()))

    def test_a_length_is_no_certainty_where_times_restart(self) -> None:
        """A longer result of a chained Ogg file is no error of ours."""
        folder = media.scratch(self)
        part = media.synthesise(
            folder / "part.ogv", "-c:v", "libtheora", lavfi="testsrc2=s=64x64:r=25", seconds=12
        )
        self.assertTrue(media.probe(part).measured)
        chain = folder / "chain.ogv"
        chain.write_bytes(part.read_bytes() * 2)
        info = media.probe(chain)
        self.assertEqual((info.restarts, info.measured, info.ends_early), (True, False, False))

    def test_of_several_video_streams_the_default_one_is_used(self) -> None:
        """As players do; without one it is the first."""
        for default, width in (("1", 96), ("0", 64)):
            clip = media.synthesise(
                media.scratch(self) / "two.mkv",
                *("-f", "lavfi", "-t", "1", "-i", "testsrc2=s=96x64:r=25"),
                *("-map", "0", "-map", "1", "-disposition", "0"),
                *(f"-disposition:v:{default}", "default"),
                lavfi="testsrc2=s=64x64:r=25",
            )
            self.assertEqual((video_of(clip).width, media.probe(clip).other_videos), (width, 1))

    def test_a_cover_is_not_a_video(self) -> None:
        """Audio with a cover image has no video."""
        info = media.probe(media.FLAC)
        self.assertIsNone(info.video)
        self.assertEqual([c.codec for c in info.covers], ["png"])
        self.assertEqual(info.audio[0].codec, "flac")

    def test_video_that_starts_after_the_audio(self) -> None:
        """Its start is relative to the container's."""
        info = media.probe(media.SCREENCAST)
        assert info.video is not None
        self.assertAlmostEqual(info.video.start_time, 0.21, places=2)

    def test_mpeg_ts_starts_later_than_zero(self) -> None:
        """Durations do not count the time before the first packet."""
        folder = media.scratch(self)
        clip = media.synthesise(
            folder / "a.ts", "-c:v", "mpeg2video", lavfi="testsrc2=s=160x120", seconds=1.0
        )
        info = media.probe(clip)
        self.assertGreater(info.start_time, 1.0)
        self.assertApproximates(info.duration or 0, 1.0, 0.05)

    def test_interlacing_and_full_range(self) -> None:
        """Both are found in decoded frames."""
        folder = media.scratch(self)
        clip = media.synthesise(
            folder / "i.mpg",
            *("-vf", "interlace", "-flags", "+ilme+ildct", "-c:v", "mpeg2video"),
            lavfi="testsrc2=s=160x120:r=50",
            seconds=0.4,
        )
        self.assertTrue(video_of(clip).interlaced)
        clip = media.synthesise(
            folder / "f.mp4",
            *("-vf", "scale=out_range=pc", "-color_range", "pc", "-pix_fmt", "yuvj420p"),
            lavfi="testsrc2=s=160x120",
            seconds=0.2,
        )
        self.assertTrue(video_of(clip).full_range)
        self.assertFalse(video_of(media.FLOWER).interlaced or video_of(media.FLOWER).full_range)


class RefusalTests(TestCase):
    def refused(self, name: str, content: bytes) -> ServiceError:
        """Probe bytes that must be refused and return the error."""
        path = media.scratch(self) / name
        path.write_bytes(content)
        error: ServiceError = self.assertRaises(ServiceError, media.probe, path)
        return error

    def test_files_that_are_not_videos(self) -> None:
        """An empty file, text and noise get 415 with a solution."""
        for content in (b"", b"\0", b"Dear sir or madam,\n" * 40, bytes(range(256)) * 8):
            error = self.refused("clip.mp4", content)
            self.assertEqual(error.code, 415)
            self.assertTrue(error.solution)

    def test_playlists_open_nothing(self) -> None:
        """Neither another file nor an address, whatever the file's name."""
        clip = str(media.FLOWER)
        for content in (
            f"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\nfile://{clip}\n#EXT-X-ENDLIST\n",
            f"ffconcat version 1.0\nfile '{clip}'\n",
            f"v=0\nc=IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\na={clip}\n",
        ):
            self.assertEqual(self.refused("clip.mp4", content.encode()).code, 415)

    def test_a_file_without_its_index(self) -> None:
        """An MP4 that lost its end, where the index was."""
        folder = media.scratch(self)
        media.ffmpeg("-i", media.FLOWER, "-c", "copy", folder / "end.mp4")
        content = (folder / "end.mp4").read_bytes()
        self.assertEqual(self.refused("cut.mp4", content[: len(content) * 7 // 10]).code, 415)

    def test_a_file_that_ends_early_has_its_real_length(self) -> None:
        """The header claims five seconds, but there are three."""
        content = media.FLOWER.read_bytes()
        path = media.scratch(self) / "cut.mp4"
        path.write_bytes(content[: len(content) * 6 // 10])
        info = media.probe(path)
        self.assertTrue(info.ends_early)
        self.assertApproximates(info.duration or 0, 3.0, 0.1)
        self.assertAlmostEqual(info.claimed_duration or 0, 5.055, places=2)

    def test_an_output_that_ends_early_is_refused(self) -> None:
        """Verifying decodes the last frames."""
        content = bytearray(media.FLOWER.read_bytes())
        path = media.scratch(self) / "bad.mp4"
        path.write_bytes(content[: len(content) * 6 // 10])
        try:
            info = media.probe(path, verify=True)
        except ProbeError:
            return
        self.assertTrue(info.ends_early)

    def test_a_container_that_seeks_by_decoding_time_is_verified(self) -> None:
        """With B-frames, a seek to the last keyframe ends up after it."""
        path = media.scratch(self) / "copy.ts"
        media.ffmpeg("-i", media.FLOWER, "-c", "copy", path)
        self.assertIsNotNone(media.probe(path, verify=True).video)

    def test_verifying_an_intact_file_returns_the_same_facts(self) -> None:
        """A good output passes."""
        for clip in (media.FLOWER, media.SCREENCAST, media.FLAC, media.AVI):
            self.assertEqual(media.probe(clip, verify=True), media.probe(clip))


class PixelCropTests(TestCase):
    """Hand-made Matroska: elements have an ID, a size and contents."""

    def crop(self, *in_segment: bytes) -> list[int] | None:
        path = media.scratch(self) / "film.mkv"
        unknown = bytes.fromhex("1a45dfa380 1853806701ffffffffffffff")
        path.write_bytes(unknown + b"".join(in_segment))
        return probe_child._container_crop(str(path), "matroska,webm")

    @staticmethod
    def element(number: str, content: bytes) -> bytes:
        return bytes.fromhex(number) + bytes([0x80 | len(content)]) + content

    def tracks(self, *children: bytes) -> bytes:
        return self.element("1654ae6b", b"".join(children))

    def track(self) -> bytes:
        video = self.element("e0", self.element("54cc", b"\x05") + self.element("54aa", b"\x02"))
        return self.element("ae", self.element("83", b"\x01") + video)

    def test_it_is_found_wherever_the_tracks_are(self) -> None:
        """Even after clusters."""
        cluster = self.element("1f43b675", bytes(20))
        for parts in ([self.tracks(self.track())], [cluster, self.tracks(self.track())]):
            self.assertEqual(self.crop(*parts), [5, 0, 0, 2])

    def test_a_checksum_that_looks_like_a_track_is_none(self) -> None:
        """The file is not read to its end for it, either."""
        checksum = self.element("bf", bytes.fromhex("83100000"))
        self.assertEqual(self.crop(self.tracks(checksum, self.track())), [5, 0, 0, 2])

    def test_what_promises_more_than_there_is(self) -> None:
        """The result is None instead of nonsense."""
        whole = self.tracks(self.track())
        for end in range(len(whole)):
            self.assertIn(self.crop(whole[:end]), (None, [5, 0, 0, 0], [5, 0, 0, 2], [0, 0, 0, 0]))


class TrimmedTests(TestCase):
    def test_a_film_trimmed_without_encoding_has_its_keyframe_before_its_start(self) -> None:
        """Phones make such files: the packets from there on are needed, but not shown."""
        path = media.scratch(self) / "trimmed.mp4"
        media.ffmpeg("-ss", "1.5", "-i", media.FLOWER, "-t", "1", "-c", "copy", path)
        found = media.probe(path)
        assert found.video is not None
        self.assertApproximates(found.video.duration or 0.0, 1.0, 0.2)
        self.assertEqual(found.video.displayed_size, (960, 540))


class BeliefTests(TestCase):
    def found(self, **changes: Any) -> MediaInfo:
        """Parse a made-up answer of the probe, changed in its video stream."""
        video = {
            "index": 0, "type": "video", "codec": "h264", "width": 64, "height": 48,
            "packets": 10, "first": 0.0, "last": 0.9, "end": 1.0, "interval": 0.1, "jitter": 0.0,
            "tick": 0.001, "guessed_rate": [10, 1], "frame": {"width": 64, "height": 48},
        }  # fmt: skip
        video.update(changes.pop("video", {}))
        whole = {
            "container": "mov", "duration": 1.0, "start": 0.0, "streams": [video], "video": 0,
            "complete": True, **changes,
        }  # fmt: skip
        return parse_probe(json.dumps(whole).encode(), 100)

    def test_numbers_out_of_bounds_are_unknown(self) -> None:
        """Impossible durations, rates, aspect ratios and rotations."""
        info = self.found(
            duration=4.3e9,
            video={
                "guessed_rate": [10**9, 1], "interval": None, "sar": [65535, 1],
                "frame": {"width": 64, "height": 48, "rotation": -9e18},
            },
        )  # fmt: skip
        video = info.video
        assert video is not None
        self.assertEqual(video.sample_aspect_ratio, (1, 1))
        self.assertEqual(video.rotation, 0)
        self.assertIsNone(video.frame_rate)
        self.assertEqual(info.duration, 1.0)

    def test_a_frame_that_lasts_for_years_does_not(self) -> None:
        """The header of one frame claims 136 years."""
        info = self.found(duration=4.29e9, video={"last": 0.0, "end": 4.29e9, "interval": None})
        self.assertLess(info.duration or 0.0, 1.0)

    def test_an_answer_that_makes_no_sense_is_our_error(self) -> None:
        """Only JSON of the right form is accepted."""
        for answer in (b"", b"{", b"[]", b'{"streams":5}', b'{"container":"mov","streams":[{}]}'):
            self.assertRaises(ProbeError, parse_probe, answer, 1)

    def test_an_answer_that_would_take_long_to_read_is_not_read(self) -> None:
        """Decoding blocks the server, and a compromised probe may return anything."""
        for answer in (b"[" * 4000, b"[" + b"[]," * 5000 + b"1]", b'{"a":' * 5000):
            self.assertRaises(ProbeError, parse_probe, answer, 1)

    def test_limits_are_413(self) -> None:
        """Too many pixels, too many streams."""
        for kind in ("too_large", "too_many_streams"):
            answer = json.dumps({"error": kind, "message": "65535x65535"}).encode()
            error = self.assertRaises(ServiceError, parse_probe, answer, 1)
            self.assertEqual(error.code, 413)

    def test_texts_lose_what_cannot_be_seen(self) -> None:
        """Control characters and reversed text never reach a terminal."""
        self.assertEqual(clean_text("a\x1b[31mb\r\nc\u202ed\0"), "a[31mb cd")
        self.assertIsNone(clean_text("\x00\u200b "))
        self.assertEqual(len(clean_text("x" * 5000) or ""), 200)

    def test_only_harmless_tags_come_through(self) -> None:
        """A location is not even kept in memory."""
        info = self.found(tags={"TITLE": "T", "location": "+12+34/", "com.apple.make": "X"})
        self.assertEqual(info.tags, {"title": "T"})

    def test_the_command_names_its_input_once(self) -> None:
        """The runner inserts the path."""
        command = probe_command("result.mp4", verify=True)
        self.assertEqual(command.arguments[0], input_file("result.mp4"))
        self.assertEqual((command.program, command.stage), ("probe", "verifying"))
