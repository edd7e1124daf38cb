"""Every operation on real media with real FFmpeg: results and warnings."""

from __future__ import annotations

import array
from pathlib import Path
from typing import Any

import av
from twisted.trial.unittest import TestCase

from tests import media_harness as media
from tests.media_harness import BLUE, GREEN, RED, WHITE
from vidproc.errors import ServiceError
from vidproc.ffmpeg.media import VideoStream
from vidproc.operations.gif import commands as gif_commands
from vidproc.operations.parameters import PARAMETERS
from vidproc.operations.registry import OPERATIONS, get_operation

BLACK = (0, 0, 0)


class OperationCase(TestCase):
    """Common helpers: a scratch folder, synthesised clips, running an operation."""

    def setUp(self) -> None:
        self.folder = media.scratch(self)

    def do(self, source: Path, operation: str, **fields: Any) -> media.Result:
        """Run an operation; the result is verified as the server does."""
        return media.process(source, operation, fields, self.folder / operation)

    def refused(self, source: Path, operation: str, **fields: Any) -> ServiceError:
        """Run an operation that must be refused and return its error."""
        error: ServiceError = self.assertRaises(ServiceError, self.do, source, operation, **fields)
        self.assertTrue(error.solution)
        return error

    def clip(
        self,
        *options: str,
        size: tuple[int, int] = (160, 120),
        name: str = "clip.mp4",
        seconds: float = 0.4,
    ) -> Path:
        """Make a clip: red and blue above green and white."""
        return media.synthesise(
            self.folder / name, *options, lavfi=media.quadrants(*size), seconds=seconds
        )

    def assert_near(self, one: tuple[int, ...], other: tuple[int, ...], most: int = 24) -> None:
        """Check that two colours are about the same."""
        self.assertTrue(media.near(one, other, most), f"{one} is not {other}")

    def assert_quadrants(self, path: Path, most: int = 24) -> None:
        """Check that the whole frame is red and blue above green and white."""
        found = media.corners(media.frame_at(path))
        for one, other in zip(found, (RED, BLUE, GREEN, WHITE), strict=True):
            self.assert_near(one, other, most)

    def video(self, result: media.Result) -> VideoStream:
        """Return the result's video stream, which must be upright with square pixels."""
        video = result.media.video
        assert video is not None
        self.assertEqual((video.rotation, video.sample_aspect_ratio), (0, (1, 1)))
        return video


class RegistryTests(TestCase):
    def test_every_operation_of_the_table_is_there_under_its_name(self) -> None:
        """The names in the protocol and the operations agree."""
        self.assertEqual(list(OPERATIONS), list(PARAMETERS))
        for name in PARAMETERS:
            self.assertEqual(get_operation(name).name, name)

    def test_an_unknown_name_is_a_bad_request(self) -> None:
        """There is an error answer, not a KeyError."""
        self.assertEqual(self.assertRaises(ServiceError, get_operation, "mp5").code, 400)


class ResolutionTests(OperationCase):
    def test_pad_keeps_the_whole_frame_between_black_bars(self) -> None:
        """4:3 in a wide frame has bars on both sides; nothing is cropped or distorted."""
        result = self.do(self.clip(), "resolution", width=320, height=120)
        self.assertEqual(self.video(result).displayed_size, (320, 120))
        frame = media.frame_at(result.path)
        self.assert_near(media.colour(frame, 0.1, 0.5), BLACK)
        self.assert_near(media.colour(frame, 0.9, 0.5), BLACK)
        self.assert_near(media.colour(frame, 0.3, 0.25), RED)
        self.assert_near(media.colour(frame, 0.7, 0.75), WHITE)
        self.assert_near(media.colour(frame, 0.27, 0.02), RED)

    def test_crop_fills_the_frame(self) -> None:
        """The excess is cropped equally on both sides."""
        result = self.do(self.clip(), "resolution", width=80, height=120, fit="crop")
        self.assertEqual(self.video(result).displayed_size, (80, 120))
        self.assert_quadrants(result.path)

    def test_stretch_changes_the_shape(self) -> None:
        """The whole frame is used, without bars."""
        result = self.do(self.clip(), "resolution", width=120, height=60, fit="stretch")
        self.assertEqual(self.video(result).displayed_size, (120, 60))
        self.assert_quadrants(result.path)

    def test_an_odd_size_is_made_even_and_said(self) -> None:
        """4:2:0 has no odd sizes, so libx264 would refuse."""
        result = self.do(self.clip(), "resolution", width=101, height=75)
        self.assertEqual(self.video(result).displayed_size, (100, 74))
        self.assertIn("even", result.warnings[0])

    def test_an_odd_source_works(self) -> None:
        """Odd sizes are common in screen recordings."""
        clip = self.clip("-vf", "scale=161:121", "-pix_fmt", "yuv444p")
        self.assertEqual(self.video(self.do(clip, "resolution", width=80, height=60)).width, 80)
        result = self.do(clip, "aspect_ratio", aspect_ratio="16:9")
        self.assertEqual(self.video(result).pixel_format, "yuv420p")

    def test_enlarging_is_said(self) -> None:
        """There is a warning, because it adds no detail."""
        result = self.do(self.clip(), "resolution", width=320, height=240)
        self.assertTrue(any("enlarged" in sentence for sentence in result.warnings))

    def test_a_turned_phone_clip_comes_out_upright(self) -> None:
        """For every quarter turn and every fit."""
        flat = self.clip()
        for degrees, expected in (
            (-90, (GREEN, RED, WHITE, BLUE)),
            (90, (BLUE, WHITE, RED, GREEN)),
            (180, (WHITE, GREEN, BLUE, RED)),
        ):
            turned = self.folder / f"turned{degrees}.mp4"
            media.ffmpeg("-display_rotation:v", str(degrees), "-i", flat, "-c", "copy", turned)
            for fit in ("pad", "crop", "stretch"):
                size = (
                    {"width": 96, "height": 128}
                    if abs(degrees) == 90
                    else {"width": 128, "height": 96}
                )
                result = self.do(turned, "resolution", fit=fit, **size)
                self.assertEqual(self.video(result).displayed_size, tuple(size.values()))
                found = media.corners(media.frame_at(result.path))
                for one, other in zip(found, expected, strict=True):
                    self.assert_near(one, other)

    def test_what_the_container_cuts_off_stays_off(self) -> None:
        """In MP4 and Matroska, also with rotation; nothing is distorted."""
        flat = self.clip()
        media.set_clean_aperture(flat, (80, 20, 0, 0))
        turned, matroska = self.folder / "turned.mp4", self.folder / "clip.mkv"
        media.ffmpeg("-display_rotation:v", "-90", "-i", flat, "-c", "copy", turned)
        media.ffmpeg("-i", flat, "-c", "copy", matroska)
        for clip, size, expected in (
            (flat, (80, 100), (BLUE, BLUE, WHITE, WHITE)),
            (matroska, (80, 100), (BLUE, BLUE, WHITE, WHITE)),
            (turned, (100, 80), (WHITE, BLUE, WHITE, BLUE)),
        ):
            found = media.probe(clip).video
            assert found is not None
            self.assertEqual(found.displayed_size, size)
            width, height = size
            result = self.do(clip, "resolution", width=2 * width, height=2 * height)
            frame = media.frame_at(result.path)
            for one, other in zip(media.corners(frame), expected, strict=True):
                self.assert_near(one, other)
            self.assert_near(media.colour(frame, 0.03, 0.03), expected[0])
            result = self.do(clip, "gif", start_time=0, duration=0.2, width=width)
            self.assertEqual(self.video(result).displayed_size, size)

    def test_an_anamorphic_film_is_not_squeezed(self) -> None:
        """With 3:2 pixels, 16:9 fills 16:9."""
        result = self.do(media.ANAMORPHIC, "resolution", width=320, height=180)
        self.assertEqual(self.video(result).displayed_size, (320, 180))
        clip = self.clip("-vf", "setsar=2", size=(80, 120))
        result = self.do(clip, "resolution", width=160, height=120)
        self.assert_quadrants(result.path)

    def test_audio_is_copied_and_the_file_starts_with_its_index(self) -> None:
        """The AAC packets are the source's; faststart puts moov before mdat."""
        result = self.do(media.FLOWER, "resolution", width=160, height=90)
        self.assertEqual(packets(result.path, "audio"), packets(media.FLOWER, "audio"))
        content = result.path.read_bytes()
        self.assertLess(content.index(b"moov"), content.index(b"mdat"))
        video = self.video(result)
        self.assertEqual((video.codec, video.pixel_format), ("h264", "yuv420p"))
        self.assertApproximates(result.media.duration or 0, 5.055, 0.05)

    def test_a_variable_rate_keeps_its_times(self) -> None:
        """No frame is dropped, duplicated or moved."""
        result = self.do(media.FIRE, "resolution", width=320, height=180)
        before, after = media.times(media.FIRE), media.times(result.path)
        self.assertEqual(len(before), len(after))
        for one, other in zip(before, after, strict=True):
            self.assertApproximates(one, other, 0.001)

    def test_a_silent_film_stays_silent(self) -> None:
        """A lack of audio is not an error."""
        result = self.do(self.clip(), "resolution", width=80, height=60)
        self.assertEqual(result.media.audio, ())

    def test_text_subtitles_and_all_audio_tracks_are_kept(self) -> None:
        """mov_text and AAC, with their languages."""
        result = self.do(media.COUNT, "resolution", width=160, height=120)
        self.assertEqual([s.codec for s in result.media.subtitles], ["mov_text"] * 2)
        self.assertEqual([s.language for s in result.media.subtitles], ["eng", "deu"])
        self.assertEqual([a.language for a in result.media.audio], ["eng", "deu"])
        self.assertEqual(result.warnings, [])

    def test_audio_only_is_415(self) -> None:
        """A cover is not a video."""
        for operation, fields in (
            ("resolution", {"width": 64, "height": 64}),
            ("aspect_ratio", {"aspect_ratio": "1:1"}),
            ("gif", {"start_time": 0, "duration": 1}),
            ("webm", {"start_time": 0, "duration": 1}),
        ):
            error = self.refused(media.FLAC, operation, **fields)
            self.assertEqual(error.code, 415)
            self.assertIn("no video", error.description)

    def test_rgb_and_ten_bit_come_out_as_every_player_takes_them(self) -> None:
        """4:2:0, 8 bits, and the right colours."""
        for options in (
            ("-c:v", "libx264rgb", "-crf", "10"),
            ("-c:v", "libx264", "-pix_fmt", "yuv444p"),
            ("-c:v", "libx264", "-pix_fmt", "yuv420p10le"),
            ("-c:v", "ffv1", "-pix_fmt", "gbrp10le"),
        ):
            clip = self.clip(*options, name="clip.mkv")
            result = self.do(clip, "resolution", width=120, height=90)
            self.assertEqual(self.video(result).pixel_format, "yuv420p")
            self.assert_quadrants(result.path)

    def test_full_range_becomes_limited(self) -> None:
        """Black and white are kept, and the tag is right."""
        clip = self.clip("-vf", "scale=out_range=pc", "-color_range", "pc", "-pix_fmt", "yuvj420p")
        result = self.do(clip, "resolution", width=120, height=90)
        self.assertFalse(self.video(result).full_range)
        self.assert_quadrants(result.path)

    def test_hdr_is_mapped_to_sdr(self) -> None:
        """Patches at reference level are unchanged, whites nearly; there is a warning."""
        patches = (
            "color=0xE0B090:s=64x64[a];color=gray:s=64x64[b];color=0x3060C0:s=64x64[c];"
            "color=white:s=64x64[d];[a][b]hstack[t];[c][d]hstack[u];[t][u]vstack,format=gbrp,"
            "scale=out_color_matrix=bt709:out_range=tv,format=yuv444p,setparams="
            "color_primaries=bt709:color_trc=bt709:colorspace=bt709:range=tv,"
            "zscale=t=linear:npl=203,format=gbrpf32le,"
            "zscale=p=bt2020:t={t}:m=bt2020nc:r=tv:npl=203,format=yuv420p10le"
        )
        for transfer in ("arib-std-b67", "smpte2084"):
            clip = media.synthesise(
                self.folder / f"{transfer}.mp4",
                *("-c:v", "libx265", "-preset", "ultrafast", "-x265-params"),
                f"log-level=none:crf=8:colorprim=bt2020:colormatrix=bt2020nc:transfer={transfer}",
                lavfi=patches.format(t=transfer),
                seconds=0.2,
            )
            result = self.do(clip, "resolution", width=96, height=96)
            video = self.video(result)
            self.assertFalse(video.hdr)
            self.assertEqual(
                (video.color_matrix, video.color_transfer, video.bit_depth), ("bt709", "bt709", 8)
            )
            found = media.corners(media.frame_at(result.path))
            expected = ((0xE0, 0xB0, 0x90), (128, 128, 128), (0x30, 0x60, 0xC0), (228, 228, 228))
            for one, other in zip(found, expected, strict=True):
                self.assert_near(one, other, 14)
            self.assertTrue(any("HDR" in sentence for sentence in result.warnings))

    def test_dolby_vision_that_nobody_else_can_read_is_415(self) -> None:
        """Otherwise it would be green and purple. With a base layer it is accepted."""
        own = self.clip("-c:v", "libx265", "-preset", "ultrafast", "-tag:v", "dvh1")
        self.assertIn(
            "Dolby Vision", self.refused(own, "gif", start_time=0, duration=1).description
        )
        common = self.clip(
            *("-c:v", "libx265", "-preset", "ultrafast", "-tag:v", "dvh1"),
            *("-pix_fmt", "yuv420p10le", "-x265-params"),
            "log-level=error:colorprim=bt2020:transfer=smpte2084:colormatrix=bt2020nc",
            name="common.mp4",
        )
        result = self.do(common, "resolution", width=80, height=60)
        self.assertTrue(any("HDR" in sentence for sentence in result.warnings))

    def test_an_interlaced_film_becomes_progressive(self) -> None:
        """Without combing, and with a warning."""
        clip = self.clip(
            *("-vf", "fps=50,interlace", "-flags", "+ilme+ildct", "-c:v", "mpeg2video"),
            *("-qscale:v", "2"),
            name="clip.mpg",
        )
        result = self.do(clip, "resolution", width=80, height=60)
        self.assertFalse(self.video(result).interlaced)
        self.assertTrue(any("deinterlaced" in sentence for sentence in result.warnings))

    def test_private_tags_are_dropped_and_harmless_ones_kept(self) -> None:
        """A location and a serial number are dropped, in MP4, MP3 and WebM."""
        clip = self.clip(
            *("-f", "lavfi", "-t", "0.4", "-i", "sine"),
            *("-metadata", "location=+12.3456-065.4321/", "-metadata", "title=My title"),
            *("-metadata", "artist=Me", "-metadata", "comment=SN1234"),
            *("-metadata", "creation_time=2020-02-02T02:02:02Z"),
            name="private.mp4",
        )
        self.assertIn("+12.3456", media.metadata_text(clip))
        for operation, fields in (
            ("resolution", {"width": 80, "height": 60}),
            ("extract_audio", {}),
            ("webm", {"start_time": 0, "duration": 1}),
        ):
            text = media.metadata_text(self.do(clip, operation, **fields).path)
            self.assertIn("My title", text)
            self.assertIn("Me", text)
            for private in ("12.3456", "SN1234", "2020-02"):
                self.assertNotIn(private, text)

    def test_a_source_that_ends_early_gives_what_there_is_and_says_so(self) -> None:
        """Half a film is better than an error."""
        content = media.FLOWER.read_bytes()
        clip = self.folder / "cut.mp4"
        clip.write_bytes(content[: len(content) * 6 // 10])
        result = self.do(clip, "resolution", width=160, height=90)
        self.assertApproximates(result.media.duration or 0, 3.0, 0.1)
        self.assertTrue(any("ends early" in sentence for sentence in result.warnings))


class SyncTests(OperationCase):
    def test_audio_and_video_stay_in_sync(self) -> None:
        """A flash and a beep at the same moment, from a stream that starts late and unevenly."""
        flash = "color=black:s=160x120:r=25,drawbox=color=white:t=fill:enable='gte(t,1)'"
        beep = "aevalsrc='if(gte(t,1),sin(2000*t),0)':s=48000"
        clip = self.folder / "sync.ts"
        media.ffmpeg(
            *("-f", "lavfi", "-t", "1.6", "-i", flash, "-f", "lavfi", "-t", "1.6", "-i", beep),
            *("-output_ts_offset", "7", "-c:v", "mpeg2video", "-qscale:v", "3", "-c:a", "mp2"),
            clip,
        )
        late = self.folder / "late.mkv"  # the video starts 0.3 s after the audio
        media.ffmpeg("-ss", "0.3", "-i", clip, "-i", clip, "-map", "1:a", "-map", "0:v",
                     "-c:a", "copy", "-c:v", "mpeg4", "-qscale:v", "3", late)  # fmt: skip
        for source in (clip, late):
            before = flash_at(source) - beep_at(source)
            for operation, fields in (
                ("resolution", {"width": 80, "height": 60}),
                ("webm", {"start_time": 0, "duration": 1.5}),
                ("webm", {"start_time": 0.5, "duration": 1}),
            ):
                path = self.do(source, operation, **fields).path
                self.assertApproximates(flash_at(path) - beep_at(path), before, 0.04)


class AspectRatioTests(OperationCase):
    def test_pad_grows_the_frame_and_keeps_the_pixels(self) -> None:
        """4:3 to 16:9 is wider, with bars on both sides."""
        result = self.do(self.clip(), "aspect_ratio", aspect_ratio="16:9")
        self.assertEqual(self.video(result).displayed_size, (214, 120))
        frame = media.frame_at(result.path)
        self.assert_near(media.colour(frame, 0.05, 0.5), BLACK)
        self.assert_near(media.colour(frame, 0.3, 0.2), RED)
        self.assert_near(media.colour(frame, 0.7, 0.2), BLUE)

    def test_pad_of_a_portrait(self) -> None:
        """Bars at the sides, with and without a rotation tag."""
        result = self.do(self.clip(size=(90, 160)), "aspect_ratio", aspect_ratio="1:1")
        self.assertEqual(self.video(result).displayed_size, (160, 160))
        frame = media.frame_at(result.path)
        self.assert_near(media.colour(frame, 0.1, 0.5), BLACK)
        self.assert_near(media.colour(frame, 0.3, 0.98), GREEN)

    def test_crop_cuts_to_the_shape(self) -> None:
        """Nothing is scaled."""
        result = self.do(self.clip(), "aspect_ratio", aspect_ratio="1:1", fit="crop")
        self.assertEqual(self.video(result).displayed_size, (120, 120))
        self.assert_quadrants(result.path)

    def test_stretch_with_a_cinema_ratio(self) -> None:
        """2.39:1, to the nearest even number."""
        result = self.do(self.clip(), "aspect_ratio", aspect_ratio="2.39:1", fit="stretch")
        self.assertEqual(self.video(result).displayed_size, (286, 120))
        self.assert_quadrants(result.path)

    def test_pixels_come_out_square(self) -> None:
        """A 180x144 frame with 16:15 pixels is 192x144, which is 4:3."""
        result = self.do(media.PRORES, "aspect_ratio", aspect_ratio="4:3")
        self.assertEqual(self.video(result).displayed_size, (192, 144))


class ExtractAudioTests(OperationCase):
    def test_the_default_is_vbr_mp3_of_the_whole_track(self) -> None:
        """Same length, MP3."""
        result = self.do(media.FLOWER, "extract_audio")
        self.assertEqual(result.media.audio[0].codec, "mp3")
        self.assertApproximates(result.media.duration or 0, 5.055, 0.05)

    def test_a_bitrate_is_constant_and_the_nearest_of_mp3(self) -> None:
        """128000 is supported, 100000 is not."""
        result = self.do(media.FLOWER, "extract_audio", bitrate=128000)
        self.assertEqual(result.media.audio[0].bit_rate, 128000)
        result = self.do(media.FLOWER, "extract_audio", bitrate=100000)
        self.assertEqual(result.media.audio[0].bit_rate, 96000)
        self.assertIn("96000", result.warnings[0])

    def test_a_track_by_number_and_by_language(self) -> None:
        """Both select the German track, which differs from the first."""
        default = packets(self.do(media.COUNT, "extract_audio").path, "audio")
        by_number = packets(self.do(media.COUNT, "extract_audio", track=2).path, "audio")
        by_language = packets(self.do(media.COUNT, "extract_audio", track="ger").path, "audio")
        self.assertEqual(by_number, by_language)
        self.assertNotEqual(default, by_number)

    def test_a_track_that_is_not_there_is_422_and_names_those_that_are(self) -> None:
        """So that the next request is right."""
        for track in (3, "fr"):
            error = self.refused(media.COUNT, "extract_audio", track=track)
            self.assertEqual(error.code, 422)
            self.assertIn("1 (eng, aac), 2 (deu, aac)", error.description)

    def test_a_silent_film_is_415(self) -> None:
        """There is nothing to extract."""
        self.assertEqual(self.refused(self.clip(), "extract_audio").code, 415)

    def test_the_cover_becomes_an_id3_image(self) -> None:
        """Players show it."""
        result = self.do(media.FLAC, "extract_audio")
        self.assertEqual([c.codec for c in result.media.covers], ["png"])
        self.assertIsNone(result.media.video)

    def test_audio_that_mp3_does_not_support_is_converted(self) -> None:
        """96 kHz, six channels, 8 kHz at a high rate."""
        for options, channels, rate in (
            (("-ar", "96000", "-ac", "2", "-c:a", "flac"), 2, 48000),
            (("-ac", "6", "-c:a", "ac3"), 2, 44100),
            (("-ar", "8000", "-ac", "1", "-c:a", "pcm_s16le"), 1, 44100),
        ):
            clip = media.synthesise(
                self.folder / "sound.mkv", *options, lavfi="sine=d=0.5", seconds=0.5
            )
            result = self.do(clip, "extract_audio", bitrate=192000)
            track = result.media.audio[0]
            self.assertEqual((track.channels, track.sample_rate), (channels, rate))


class GifTests(OperationCase):
    def test_the_defaults(self) -> None:
        """12 frames a second, 480 pixels wide, and the requested duration."""
        result = self.do(media.FLOWER, "gif", start_time=1, duration=0.75)
        video = self.video(result)
        self.assertEqual(video.displayed_size, (480, 270))
        self.assertEqual(video.frames, 9)
        self.assertApproximates(result.media.duration or 0, 0.75, 0.02)
        self.assertEqual(len(result.commands), 1)

    def test_a_small_film_is_not_enlarged(self) -> None:
        """480 is the maximum; the frame is not distorted."""
        result = self.do(media.PRORES, "gif", start_time=0, duration=0.5)
        self.assertEqual(self.video(result).displayed_size, (192, 144))

    def test_times_do_not_drift(self) -> None:
        """GIF has centiseconds, so at 30 frames a second frames last 3, 3 and 4 of them."""
        result = self.do(self.clip(seconds=2.0), "gif", start_time=0, duration=2, fps=30, width=32)
        stamps = media.times(result.path)
        self.assertEqual(len(stamps), 60)
        for number, stamp in enumerate(stamps):
            self.assertApproximates(stamp, number / 30, 0.0101)

    def test_frames_too_small_to_be_compared_are_enough(self) -> None:
        """SSIM is not a number under 8 pixels."""
        clip = self.clip("-c:v", "ffv1", size=(4, 6), name="small.mkv")
        result = self.do(clip, "gif", start_time=0, duration=0.4)
        self.assertEqual(self.video(result).displayed_size, (4, 6))

    def test_a_single_frame_is_a_gif_at_any_rate(self) -> None:
        """It may be shown for less than half an interval between two frames."""
        clip = self.clip("-frames:v", "1")
        result = self.do(clip, "gif", start_time=0, duration=1, fps=5)
        self.assertEqual(len(media.times(result.path)), 1)
        self.assert_quadrants(result.path, 40)

    def test_a_long_one_is_made_in_two_steps_that_give_the_same_kind(self) -> None:
        """Frames are not kept in memory until the palette is known."""
        self.patch(gif_commands, "BUFFER", 100_000)
        result = self.do(self.clip(), "gif", start_time=0, duration=0.4)
        stages = [c.stage for c in result.commands]
        self.assertEqual(stages[-2:], ["palette", "encoding"])
        self.assertApproximates(sum(c.weight for c in result.commands), 1.0, 1e-9)
        self.assert_quadrants(result.path, 40)

    def test_the_first_frame_is_the_one_shown_at_the_start(self) -> None:
        """Even if a slow film has its next frame much later."""
        clip = media.synthesise(
            self.folder / "slow.mp4",
            *("-vf", "setpts='if(lt(N,2),N,N+20)/5/TB'", "-fps_mode", "vfr"),
            lavfi="color=red:s=64x64:r=5:d=0.4[a];color=blue:s=64x64:r=5:d=0.4[b];[a][b]concat",
        )
        result = self.do(clip, "gif", start_time=2, duration=1)
        self.assert_near(media.colour(media.frame_at(result.path), 0.5, 0.5), RED, 40)

    def test_start_past_the_end_is_422_with_the_duration(self) -> None:
        """FFmpeg would report success and write nothing."""
        for operation in ("gif", "webm"):
            error = self.refused(media.FLOWER, operation, start_time=60, duration=5)
            self.assertEqual(error.code, 422)
            self.assertRegex(error.description, r"5\.0\d s")

    def test_a_clip_past_the_end_is_shortened_with_a_warning(self) -> None:
        """The clip is the rest of the film."""
        for operation in ("gif", "webm"):
            result = self.do(media.FLOWER, operation, start_time=4, duration=9, width=64)
            self.assertApproximates(result.media.duration or 0, 1.03, 0.09)
            self.assertIn("past the end", result.warnings[0])

    def test_a_size_limit_is_met(self) -> None:
        """In at most four attempts; a warning says what was reduced."""
        result = self.do(media.FLOWER, "gif", start_time=0, duration=0.5, max_size=75_000)
        self.assertLessEqual(result.media.size, 75_000)
        self.assertGreater(result.media.size, 30_000)
        self.assertLessEqual(result.product.details["attempts"], 4)
        self.assertTrue(any("colours" in sentence for sentence in result.warnings))

    def test_a_size_that_cannot_be_met_is_422_with_the_possible_one(self) -> None:
        """No GIF has only 100 bytes."""
        error = self.refused(self.clip(), "gif", start_time=0, duration=0.4, max_size=100)
        self.assertEqual(error.code, 422)
        self.assertRegex(error.description, r"at least \d+ bytes are needed")

    def test_the_recipe_that_suits_the_film_is_taken(self) -> None:
        """It is never larger or less similar than FFmpeg's plain palette."""
        for clip in (media.FRIDAY, media.SCREENCAST, media.FLOWER):
            result = self.do(clip, "gif", start_time=1, duration=0.5, width=160)
            plain = result.path.with_name("attempt-1-plain.gif")
            self.assertLessEqual(result.media.size, plain.stat().st_size)

    def test_a_giant_is_refused_before_it_is_made(self) -> None:
        """The solution suggests webm."""
        clip = self.clip(size=(1920, 1080), seconds=0.1)
        long = self.folder / "long.mp4"
        media.ffmpeg("-itsscale", "4000", "-i", clip, "-c", "copy", long)
        error = self.refused(long, "gif", start_time=0, duration=300, width=1920, fps=25)
        self.assertEqual(error.code, 422)
        self.assertIn("webm", error.solution)


class SeekingTests(OperationCase):
    """Files in which FFmpeg finds nothing after a seek. The first second is red, the next blue."""

    def two_colours(self, name: str, *options: str | Path) -> Path:
        """Make a clip of two colours and silence, whose video begins after the audio."""
        blue = ("-f", "lavfi", "-t", "1", "-i", "color=blue:s=64x48:r=25")
        sound = ("-f", "lavfi", "-t", "2", "-i", "anullsrc=r=44100")
        return media.synthesise(
            self.folder / name,
            *(*blue, *sound, "-filter_complex", "[0][1]concat", "-pix_fmt", "yuv420p"),
            *options,
            lavfi="color=red:s=64x48:r=25",
        )

    def check(self, clip: Path) -> None:
        """Cut clips at the start, a little after it, and around the change of the colour."""
        for start, length, colour in ((0, 0.2, RED), (0.04, 0.2, RED), (1.0, 0.2, BLUE)):
            result = self.do(clip, "webm", start_time=start, duration=length)
            self.assertApproximates(result.media.duration or 0, length, 0.05)
            self.assert_near(media.colour(media.frame_at(result.path), 0.5, 0.5), colour)
        result = self.do(clip, "gif", start_time=0.9, duration=0.2, fps=10)
        for number, colour in ((0, RED), (1, BLUE)):
            self.assert_near(media.colour(media.frame_at(result.path, number), 0.5, 0.5), colour)

    def test_flash_video_is_cut_before_its_first_keyframe(self) -> None:
        """Its video starts after its audio, and decoding times before both."""
        self.check(self.two_colours("film.flv"))

    def test_a_recorded_broadcast_is_cut_though_seeking_goes_too_far(self) -> None:
        """Windows Media Center's container."""
        film = self.two_colours("film.wtv", "-c:v", "mpeg2video", "-c:a", "mp2")
        for start, colour in ((0.5, RED), (1.2, BLUE)):
            result = self.do(film, "gif", start_time=start, duration=0.2)
            self.assert_near(media.colour(media.frame_at(result.path), 0.5, 0.5), colour)

    def test_a_bare_stream_has_no_times_to_seek_to(self) -> None:
        """It is decoded from its start; that nothing tells its length is no damage."""
        for name in ("film.h264", "film.m4v"):
            clip = self.two_colours(name)
            self.assertEqual(self.do(clip, "resolution", width=64, height=48).warnings, [])
            self.check(clip)

    def test_joined_files_are_one_film(self) -> None:
        """The times of MPEG streams jump where they were joined, forwards or backwards."""
        for kind, offsets in ((".ts", ("0", "500")), (".ts", ("500", "0")), (".vob", ("0", "0"))):
            joined = self.folder / f"joined-{'-'.join(offsets)}{kind}"
            with joined.open("wb") as file:
                for colour, offset in zip(("red", "blue"), offsets, strict=True):
                    part = media.synthesise(
                        self.folder / f"{colour}{kind}",
                        *("-f", "lavfi", "-t", "1", "-i", "anullsrc=r=44100"),
                        *("-c:v", "mpeg2video", "-c:a", "mp2", "-muxdelay", "0"),
                        *("-output_ts_offset", offset),
                        lavfi=f"color={colour}:s=64x48:r=25",
                    )
                    file.write(part.read_bytes())
            result = self.do(joined, "resolution", width=64, height=48)
            self.assertEqual((result.warnings, len(media.times(result.path))), ([], 50))
            self.assertApproximates(media.probe(joined).duration or 0, 2.0, 0.06)
            self.assertApproximates(result.media.duration or 0, 2.0, 0.06)
        self.check(joined)

    def test_a_film_trimmed_without_encoding_keeps_its_audio(self) -> None:
        """Its edit list cuts off more than a second; no clip behind a keyframe lacks that much."""
        film = self.folder / "trimmed.mp4"
        whole = media.synthesise(
            self.folder / "whole.mp4",
            *("-f", "lavfi", "-i", "sine=d=4", "-c:a", "aac"),
            *("-g", "25", "-pix_fmt", "yuv420p"),
            lavfi="testsrc2=s=96x64:r=25",
            seconds=4,
        )
        media.ffmpeg("-ss", "1.5", "-i", whole, "-c", "copy", film)
        result = self.do(film, "webm", start_time=0.7, duration=0.5)
        times = media.times(result.path, "audio")
        self.assertLess(times[0], 0.01)
        self.assertGreaterEqual(len(times), 25)

    def test_a_palette_is_not_lost(self) -> None:
        """AVI has it with the first frame alone."""
        film = media.synthesise(
            self.folder / "palette.avi",
            *("-c:v", "rawvideo", "-pix_fmt", "pal8"),
            lavfi="color=red:s=64x48:r=25",
        )
        result = self.do(film, "webm", start_time=0.5, duration=0.2)
        self.assert_near(media.colour(media.frame_at(result.path), 0.5, 0.5), RED)

    def test_a_film_that_begins_before_zero_is_cut_all_the_same(self) -> None:
        """In Matroska FFmpeg finds no keyframe there; its frames before 0 have no times."""
        times = ("-output_ts_offset", "-0.5", "-avoid_negative_ts", "disabled")
        clip = self.two_colours("film.mkv", *times)
        result = self.do(clip, "webm", start_time=0.2, duration=0.2)
        self.assertApproximates(result.media.duration or 0, 0.2, 0.05)


class WebMTests(OperationCase):
    def test_av1_of_a_very_high_rate(self) -> None:
        """SVT-AV1 knows at most 240 frames a second, but its times may be closer."""
        clip = media.synthesise(self.folder / "fast.mkv", lavfi="testsrc2=s=96x64:r=1000")
        result = self.do(clip, "webm", start_time=0, duration=0.1, codec="av1")
        self.assertEqual(len(media.times(result.path)), 100)

    def test_a_frame_that_is_shown_for_long_is_in_each_clip_of_it(self) -> None:
        """The picture of a recorded screen may stay for seconds, at the start of a clip, too."""
        pause = "select='not(between(t,0.5,1.9))'"  # a frame of before it stays that long
        clip = media.synthesise(
            self.folder / "screen.mp4",
            *("-f", "lavfi", "-t", "1", "-i", "color=blue:s=96x64:r=25"),
            *("-filter_complex", f"[0][1]concat,{pause}", "-fps_mode", "vfr"),
            lavfi="color=red:s=96x64:r=25:d=2",
            seconds=2,
        )
        result = self.do(clip, "webm", start_time=1, duration=0.5, codec="av1")
        self.assertApproximates(result.media.duration or 0, 0.5, 0.03)
        for start, length, frames, colour in (
            (1.0, 0.5, 2, RED),  # within it; a frame at the end shows how long it is
            (0.2, 0.8, 9, RED),  # up to it
            (1.5, 0.8, 11, RED),  # beyond it
            (0.0, 0.6, 14, RED),
            (1.0, 0.03, 1, RED),
            (2.4, 0.2, 5, BLUE),  # after it
        ):
            result = self.do(clip, "webm", start_time=start, duration=length)
            self.assertApproximates(result.media.duration or 0, length, 0.03)
            times = media.times(result.path)
            self.assertEqual((times[0], len(times)), (0, frames), start)
            self.assert_near(media.colour(media.frame_at(result.path), 0.5, 0.5), colour)

    def test_vp9_and_opus_of_exactly_the_part(self) -> None:
        """The requested length, to within a frame."""
        result = self.do(media.FRIDAY, "webm", start_time=2.5, duration=1, width=160)
        video = self.video(result)
        self.assertEqual((video.codec, result.media.audio[0].codec), ("vp9", "opus"))
        self.assertEqual(video.displayed_size, (160, 120))
        self.assertApproximates(result.media.duration or 0, 1.0, 0.05)
        self.assertEqual(media.times(result.path)[0], 0.0)

    def test_the_cut_is_where_it_should_be(self) -> None:
        """A film that turns from red to blue at one second, cut there."""
        clip = media.synthesise(
            self.folder / "turn.mp4",
            "-g",
            "250",
            lavfi="color=red:s=64x64:d=1[a];color=blue:s=64x64:d=1[b];[a][b]concat",
            seconds=2,
        )
        result = self.do(clip, "webm", start_time="00:00:00.960", duration=0.2)
        self.assert_near(media.colour(media.frame_at(result.path, 0), 0.5, 0.5), RED)
        self.assert_near(media.colour(media.frame_at(result.path, 1), 0.5, 0.5), BLUE)

    def test_av1(self) -> None:
        """With SVT-AV1, or libaom if that is unsuitable."""
        result = self.do(self.clip(), "webm", start_time=0, duration=0.4, codec="av1")
        self.assertEqual(self.video(result).codec, "av1")
        small = self.clip(size=(48, 32))
        result = self.do(small, "webm", start_time=0, duration=0.2, codec="av1")
        self.assertEqual(self.video(result).displayed_size, (48, 32))

    def test_surround_of_any_layout_goes_into_opus(self) -> None:
        """5.1(side) is refused by the encoder unless it is mapped."""
        clip = self.clip(
            *("-f", "lavfi", "-t", "0.4", "-i", "anullsrc=cl=5.1(side)", "-c:a", "ac3"),
            name="surround.mkv",
        )
        self.assertEqual(media.probe(clip).audio[0].layout, "5.1(side)")
        result = self.do(clip, "webm", start_time=0, duration=0.4)
        self.assertEqual(result.media.audio[0].channels, 6)
        result = self.do(clip, "resolution", width=80, height=60)
        track = result.media.audio[0]
        self.assertEqual((track.codec, track.channels, track.layout), ("aac", 6, "5.1"))

    def test_opus_from_the_start_is_copied(self) -> None:
        """It needs no second encode."""
        clip = self.clip(
            *("-f", "lavfi", "-t", "0.4", "-i", "sine", "-c:v", "libvpx", "-c:a", "libopus"),
            name="clip.webm",
        )
        result = self.do(clip, "webm", start_time=0, duration=1)
        self.assertEqual(packets(result.path, "audio"), packets(clip, "audio"))

    def test_text_subtitles_of_the_clip_are_kept(self) -> None:
        """With their times shifted and cut like the film's."""
        result = self.do(media.COUNT, "webm", start_time=6, duration=3, width=64)
        self.assertEqual([s.codec for s in result.media.subtitles], ["webvtt"] * 2)
        with av.open(str(result.path)) as container:
            shown = [(p.pts, p.duration, bytes(p)) for p in container.demux(subtitles=0) if p.size]
        self.assertEqual(shown, [(2000, 1000, b"Counting, part 3")])
        self.assertApproximates(result.media.duration or 0, 3.0, 0.11)


def packets(path: Path, kind: str) -> list[bytes]:
    """Return the contents of a stream's packets."""
    with av.open(str(path)) as container:
        stream = getattr(container.streams, kind)[0]
        return [bytes(packet) for packet in container.demux(stream) if packet.size]


def flash_at(path: Path) -> float:
    """Return when the video turns white, in the file's time stamps."""
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            plane = frame.reformat(format="gray").planes[0]
            middle = plane.line_size * (frame.height // 2) + frame.width // 2
            if bytes(plane)[middle] > 128:
                return float(frame.time or 0.0)
    raise AssertionError("no flash")


def beep_at(path: Path) -> float:
    """Return when the audio becomes loud, in the file's time stamps."""
    resampler = av.AudioResampler(format="s16", layout="mono", rate=48000)
    with av.open(str(path)) as container:
        for frame in container.decode(audio=0):
            for part in resampler.resample(frame):
                samples = array.array("h", bytes(part.planes[0])[: part.samples * 2])
                for number, sample in enumerate(samples):
                    if abs(sample) > 3000:
                        return float(frame.time or 0.0) + number / 48000
    raise AssertionError("no beep")
