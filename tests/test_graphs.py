"""The pure functions of the operations: sizes, clips, audio, tags, the search for a GIF's size."""

from __future__ import annotations

from typing import Any

import ffmpeg
from twisted.trial.unittest import TestCase

from vidproc.errors import ServiceError
from vidproc.ffmpeg.media import AudioStream, MediaInfo, SubtitleStream, VideoStream
from vidproc.operations import audio, clips, reading, sizes, tracks
from vidproc.operations.aspect_ratio import canvas
from vidproc.operations.extract_audio import choose_track
from vidproc.operations.gif import commands, recipes, renditions
from vidproc.operations.languages import same_language


def film(**fields: Any) -> MediaInfo:
    """Return a ten-second film of 1280x720 with stereo AAC, changed by `fields`."""
    video = VideoStream(
        index=0, codec="h264", width=1280, height=720, frame_rate=25.0, duration=10.0
    )
    chosen = AudioStream(
        index=1, codec="aac", channels=2, sample_rate=48000, duration=10.0, language="eng"
    )
    given = {"container": "mov", "size": 1000, "duration": 10.0, "video": video, "audio": (chosen,)}
    return MediaInfo(**{**given, **fields})


def input_options(node: reading.Source) -> dict[str, str]:
    """Return the options that FFmpeg is given for an input."""
    words = [str(word) for word in ffmpeg.get_args(ffmpeg.output(node["0"], "-"))]
    before = words[: words.index("-i")]
    return {name.removeprefix("-"): value for name, value in zip(*[iter(before)] * 2, strict=True)}


class SizeTests(TestCase):
    def test_even_numbers_stay_and_odd_ones_go_down(self) -> None:
        """Making a size even never increases it."""
        self.assertEqual(
            [sizes.even(n) for n in (1, 2, 3, 640, 641, 643)], [2, 2, 2, 640, 640, 642]
        )
        self.assertEqual(sizes.even(853.33), 854)

    def test_a_frame_fits_inside_without_one_pixel_bars(self) -> None:
        """Rounding does not lead to bars of one or two pixels."""
        self.assertEqual(sizes.inside((1920, 1080), (854, 480)), (854, 480))
        self.assertEqual(sizes.inside((1080, 1920), (1280, 720)), (404, 720))
        self.assertEqual(sizes.inside((1920, 1080), (640, 640)), (640, 360))

    def test_a_video_covers_the_frame_that_it_is_cropped_to(self) -> None:
        """No side of the scaled frame is shorter than the frame."""
        for shown in ((1920, 1080), (1080, 1920), (180, 144), (853, 481)):
            for target in ((640, 360), (320, 320), (200, 1000)):
                outer = sizes.around(shown, target)
                self.assertTrue(outer[0] >= target[0] and outer[1] >= target[1], (shown, target))

    def test_a_new_shape_grows_the_frame_and_a_crop_cuts_it(self) -> None:
        """Padding and stretching lose no pixel; a crop adds none."""
        self.assertEqual(canvas((960, 540), 4 / 3, "pad"), (960, 720))
        self.assertEqual(canvas((960, 540), 4 / 3, "stretch"), (960, 720))
        self.assertEqual(canvas((960, 540), 4 / 3, "crop"), (720, 540))
        self.assertEqual(canvas((1080, 1920), 16 / 9, "pad")[1], 1920)
        self.assertEqual(canvas((1080, 1920), 16 / 9, "crop")[0], 1080)

    def test_a_frame_beyond_the_limit_is_made_smaller_in_its_shape(self) -> None:
        """Even 10:1 of a 4K film gives a frame size that players support."""
        self.assertEqual(sizes.limited((21600, 2160)), (8192, 820))


class ClipTests(TestCase):
    def test_a_clip_past_the_end_is_shortened_with_a_warning(self) -> None:
        """The clip ends where the film does, and the client gets a warning."""
        part = clips.clip(film(), 8.0, 5.0, with_audio=True)
        self.assertEqual((part.start, part.length), (8.0, 2.0))
        self.assertIn("10.00 s", part.warnings[0])

    def test_a_clip_inside_is_unchanged(self) -> None:
        """Without a change there is no warning."""
        self.assertEqual(clips.clip(film(), 1.0, 9.0, with_audio=True).warnings, ())

    def test_a_start_past_the_last_frame_is_refused_with_the_duration(self) -> None:
        """FFmpeg would write an empty file and report success."""
        for start, why in ((9.99, "no frame begins"), (10.0, "only 10.00 s"), (11.0, "only 10")):
            error = self.assertRaises(ServiceError, clips.clip, film(), start, 1.0, with_audio=True)
            self.assertEqual(error.code, 422)
            self.assertIn("10.00 s", error.description)
            self.assertIn(why, error.description)

    def test_an_unknown_duration_is_taken_as_it_comes(self) -> None:
        """It is left to the verification of the result."""
        video = VideoStream(index=0, codec="h264", width=64, height=64)
        part = clips.clip(film(video=video, duration=None), 5.0, 2.0, with_audio=True)
        self.assertEqual(part.length, 2.0)

    def test_reading_starts_at_the_first_frame_not_at_the_first_audio(self) -> None:
        """Time 0 is the first frame shown."""
        video = VideoStream(index=0, codec="h264", width=64, height=64, start_time=0.4)
        node = reading.source(film(video=video), start=1.0, duration=2.0)
        self.assertEqual(input_options(node)["ss"], "1.4")


class SoundTests(TestCase):
    def test_audio_is_copied_where_every_player_supports_it(self) -> None:
        """AAC goes into MP4 as it is, AC-3 does not."""
        chosen = audio.choose_audio(film(), "mp4")
        assert chosen is not None
        self.assertTrue(chosen.copied)
        surround = AudioStream(index=1, codec="ac3", channels=6, sample_rate=48000)
        chosen = audio.choose_audio(film(audio=(surround,)), "mp4")
        assert chosen is not None
        self.assertEqual((chosen.encoder, chosen.channels, chosen.bit_rate), ("aac", 6, 360_000))

    def test_an_exact_cut_encodes_the_audio(self) -> None:
        """Packets do not start exactly at the cut."""
        opus = AudioStream(index=1, codec="opus", channels=2, sample_rate=48000)
        for cut, encoder in ((False, "copy"), (True, "libopus")):
            chosen = audio.choose_audio(film(audio=(opus,)), "webm", cut=cut)
            assert chosen is not None
            self.assertEqual(chosen.encoder, encoder)

    def test_the_default_track_is_chosen_and_the_others_are_named(self) -> None:
        """The first track is not always the right one."""
        found = (
            AudioStream(index=1, codec="aac", channels=2, sample_rate=48000, language="eng"),
            AudioStream(index=3, codec="aac", channels=2, language="deu", default=True),
        )
        media = film(audio=found)
        chosen = audio.choose_audio(media, "mp4")
        assert chosen is not None
        self.assertEqual(chosen.track.index, 3)
        self.assertEqual(
            audio.audio_warnings(media, [chosen]),
            ["Audio track 2 (deu) was kept; 1 other track was left out."],
        )

    def test_tracks_are_chosen_by_number_or_any_code_of_their_language(self) -> None:
        """ger, deu, de and de-AT are one language."""
        found = tuple(
            AudioStream(index=index, codec="aac", channels=2, language=language)
            for index, language in ((4, "eng"), (5, "ger"))
        )
        media = film(audio=found)
        for wanted in (2, "2", "de", "deu", "GER", "de-AT"):
            self.assertEqual(choose_track(media, wanted).index, 5)
        for wanted in (3, 0, "fr"):
            error = self.assertRaises(ServiceError, choose_track, media, wanted)
            self.assertEqual(error.code, 422)
            self.assertIn("1 (eng, aac), 2 (ger, aac)", error.description)

    def test_language_codes_of_both_standards_are_equal(self) -> None:
        """ISO 639-1, 639-2/B and 639-2/T."""
        self.assertTrue(same_language("fr", "fre") and same_language("fra", "FR"))
        self.assertFalse(same_language("en", "de"))
        self.assertTrue(same_language("gsw", "gsw"))


class DeliveryTests(TestCase):
    def test_only_harmless_tags_are_kept(self) -> None:
        """The place and the camera of a film stay private."""
        options = tracks.clean_metadata(
            film(tags={"title": "T = 1", "copyright": "me", "artist": "A"})
        )
        self.assertEqual(options["map_metadata:g"], -1)
        self.assertEqual(options["metadata:g:0"], "title=T = 1")
        self.assertEqual(options["metadata:g:1"], "artist=A")
        self.assertNotIn("me", "".join(map(str, options.values())))

    def test_image_subtitles_are_dropped_with_a_sentence(self) -> None:
        """Text can be converted, images can't."""
        media = film(
            subtitles=(
                SubtitleStream(index=2, codec="subrip", text=True),
                SubtitleStream(index=3, codec="hdmv_pgs_subtitle", text=False),
            )
        )
        kept = tracks.choose_tracks(media, "mp4")
        self.assertEqual([stream.index for stream in kept.subtitles], [2])
        self.assertEqual(
            tracks.track_warnings(media, kept), ["1 image-based subtitle track was left out."]
        )

    def test_every_input_is_held_to_files_and_known_formats(self) -> None:
        """A playlist must read neither another file nor an address."""
        options = input_options(reading.source(film()))
        self.assertEqual(options["protocol_whitelist"], "file")
        formats = options["format_whitelist"].split(",")
        for bad in ("hls", "dash", "concat", "image2", "lavfi", "sdp", "rtsp", "subviewer", "tty"):
            self.assertNotIn(bad, formats)


class GifSizeTests(TestCase):
    full = renditions.Rendition((480, 270), 12.0)

    def search(self, most: int, real_full: float, guess: float) -> renditions.SizeSearch:
        """Run a search in which fewer colours save less than estimated."""
        search = renditions.SizeSearch(self.full, most, guess)
        while (rendition := search.next_rendition()) is not None:
            pixels = rendition.size[0] * rendition.size[1] / (480 * 270)
            colours = {256: 1.0, 128: 0.95, 64: 0.85}[rendition.colours]
            size = int(real_full * colours * (rendition.fps / 12) ** 0.8 * pixels**0.85)
            search.measured(rendition, size, f"{search.attempts}")
        return search

    def test_a_size_is_met_in_at_most_four_attempts(self) -> None:
        """For easy and hard limits, and for good and bad guesses."""
        for most in (50_000, 200_000, 500_000, 900_000):
            for guess in (300_000, 1_000_000, 4_000_000):
                search = self.search(most, 1_000_000, guess)
                self.assertLessEqual(search.attempts, 4)
                assert search.best is not None, (most, guess)
                self.assertLessEqual(search.best[1], most)

    def test_the_first_attempt_is_kept_when_it_fits(self) -> None:
        """Quality is not reduced unnecessarily."""
        search = self.search(1_000_000, 400_000, 1_500_000)
        assert search.best is not None
        self.assertEqual((search.attempts, search.best[0]), (1, self.full))

    def test_colours_go_first_then_frames_then_pixels(self) -> None:
        """The documented order."""
        self.assertEqual(renditions.reduced(self.full, 0.9).colours, 128)
        self.assertEqual(renditions.reduced(self.full, 0.9).fps, 12)
        slower = renditions.reduced(self.full, 0.6)
        self.assertEqual((slower.colours, slower.size), (64, (480, 270)))
        self.assertLess(slower.fps, 12)
        smaller = renditions.reduced(self.full, 0.2)
        self.assertEqual((smaller.colours, smaller.fps), (64, 6.0))
        self.assertLess(smaller.size[0], 480)

    def test_a_rate_is_a_fraction(self) -> None:
        """FFmpeg's fps filter takes it without rounding."""
        self.assertEqual(commands.rate(12.5), "12500/1000")

    def test_the_recipe_has_the_fewest_bytes_among_the_best(self) -> None:
        """But none that is worse than the plain palette in size or similarity."""
        scores = {"bayer": 0.95, "flat": 0.97, "plain": 0.92}
        self.assertEqual(
            recipes.choose_recipe(scores, {"bayer": 90, "flat": 95, "plain": 100}).name, "flat"
        )
        scores["bayer"] = 0.966
        self.assertEqual(
            recipes.choose_recipe(scores, {"bayer": 90, "flat": 95, "plain": 100}).name, "bayer"
        )
        self.assertEqual(
            recipes.choose_recipe(scores, {"bayer": 101, "flat": 102, "plain": 100}).name, "plain"
        )

    def test_scores_are_read_by_recipe(self) -> None:
        """The mean over the frames, among other output."""
        printed = b"".join(
            b"frame:0 pts:0\nlavfi.ssim.R=0.1\nlavfi.ssim.All=%f\nrecipe=%s\n" % (score, name)
            for score, name in ((0.5, b"bayer"), (0.9, b"flat"), (0.7, b"bayer"))
        )
        self.assertEqual(recipes.read_scores(printed), {"bayer": 0.6, "flat": 0.9})
