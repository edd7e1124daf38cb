"""All of a film but its video comes through: tracks, languages, titles, flags, chapters, tags."""

from __future__ import annotations

import array
from pathlib import Path
from typing import Any

import av
from twisted.trial.unittest import TestCase

from tests import media_harness as media
from vidproc.ffmpeg.media import AudioStream, MediaInfo
from vidproc.ffmpeg.probe_values import clean_tags
from vidproc.operations import tracks
from vidproc.operations.languages import three_letters

BEEPS = (0.5, 1.1)
"""Seconds at which the first and the second audio track become loud."""
CHAPTERS = """;FFMETADATA1
title=The Garden
date=1994-05-06
location=+48.1+011.6/
com.apple.quicktime.model=none
comment=private
[CHAPTER]
TIMEBASE=1/1000
START=0
END=900
title=Leaves
[CHAPTER]
TIMEBASE=1/1000
START=900
END=2000
title=Petals
"""
WORDS = """1
00:00:00,400 --> 00:00:00,900
{0} one

2
00:00:01,200 --> 00:00:01,700
{0} two
"""


def film(folder: Path, name: str, *, video: Path, sound: str, text: str | None) -> Path:
    """Make two seconds of a real film with two audio tracks, of which the second one is the
    default and starts late, two chapters, and two subtitle tracks in the codec `text`."""
    (folder / "chapters.txt").write_text(CHAPTERS.replace("location", "loc").replace("com.", "c."))
    inputs: list[str | Path] = ["-i", video, "-i", folder / "chapters.txt"]
    for late, at in zip((0.0, 0.3), BEEPS, strict=True):
        beep = f"aevalsrc=0.5*sin(2000*t)*gte(t\\,{at - late}):s=48000:d={1.9 - late}"
        inputs += ["-itsoffset", str(late), "-f", "lavfi", "-i", beep]
    labels = [
        *("-metadata:s:a:0", "language=eng", "-metadata:s:a:0", "title=Plain"),
        *("-metadata:s:a:1", "language=ita", "-metadata:s:a:1", "title=With comments"),
        *("-disposition:a:0", "0", "-disposition:a:1", "default+comment"),
    ]
    maps = ["-map", "0:v", "-map", "2:a", "-map", "3:a"]
    if text is not None:
        for number, language in enumerate(("eng", "spa")):
            path = folder / f"{language}.srt"
            path.write_text(WORDS.format(language))
            inputs += ["-i", path]
            maps += ["-map", str(4 + number)]
            labels += [f"-metadata:s:s:{number}", f"language={language}"]
        labels += ["-c:s", text, "-disposition:s:0", "0", "-disposition:s:1", "default+forced"]
    path = folder / name
    media.ffmpeg(
        *inputs, *maps, "-map_metadata", "1", "-map_chapters", "1", "-c:v", "copy", "-c:a", sound,
        *(["-strict", "-2", "-ar", "48000"] if sound == "vorbis" else []), *labels,
        "-t", "2", "-shortest", path,
    )  # fmt: skip
    return path


def onset(path: Path, track: int) -> float:
    """Return when an audio track becomes loud, in seconds from the first frame of the video."""
    with av.open(str(path)) as container:
        start = next(container.decode(container.streams.video[0])).time
    with av.open(str(path)) as container:
        stream = container.streams.audio[track]
        resampler = av.AudioResampler("s16", "mono", 48000)
        for frame in container.decode(stream):
            time = float(frame.time or 0.0)
            for plain in resampler.resample(frame):
                samples = array.array("h", bytes(plain.planes[0])[: 2 * plain.samples])
                loud = next((i for i, sample in enumerate(samples) if abs(sample) > 4000), None)
                if loud is not None:
                    assert start is not None
                    return float(time + loud / 48000 - start)
                time += plain.samples / 48000
    raise AssertionError(f"track {track} of {path} is silent")


def words(path: Path, track: int) -> list[tuple[float, str]]:
    """Return the times and texts of a subtitle track."""
    with av.open(str(path)) as container:
        stream = container.streams.subtitles[track]
        return [
            (round(float(packet.pts * packet.time_base), 2), bytes(packet).decode(errors="replace"))
            for packet in container.demux(stream)
            if packet.pts is not None and packet.size > 2
        ]


def flags(path: Path, kind: str) -> list[tuple[str | None, str | None, bool]]:
    """Return language, title and default flag of each track."""
    with av.open(str(path)) as container:
        return [
            (
                stream.language,
                stream.metadata.get("title") or stream.metadata.get("name"),
                bool(int(stream.disposition) & 1),
            )
            for stream in getattr(container.streams, kind)
        ]


def chapters(path: Path) -> list[tuple[float, str]]:
    """Return the start and title of each chapter."""
    with av.open(str(path)) as container:
        return [
            (float(chapter["start"] * (chapter["time_base"] or 1)), chapter["metadata"]["title"])
            for chapter in container.chapters()
        ]


class TracksTests(TestCase):
    def setUp(self) -> None:
        self.folder = media.scratch(self)

    def check(self, source: Path, *, text: bool = True, marks: bool = True, **more: Any) -> Path:
        """Send a film through an operation; all of its tracks must be in the result."""
        operation = more.pop("operation", "resolution")
        fields = more or {"width": 96, "height": 54}
        result = media.process(source, operation, fields, self.folder / f"out-{source.suffix[1:]}")
        path = result.path
        self.assertEqual(
            [label[0] for label in flags(path, "audio")], ["eng", "ita"], source.suffix
        )
        if marks:
            self.assertEqual(
                flags(path, "audio"), [("eng", "Plain", False), ("ita", "With comments", True)]
            )
        for track in range(len(BEEPS)):
            at = onset(source, track)
            self.assertApproximates(onset(path, track), at, 0.04, f"{source.suffix} {track}")
        roles = media.probe(source).audio[1].roles
        self.assertEqual(result.media.audio[1].roles, roles)
        if text:
            self.assertEqual([label[0] for label in flags(path, "subtitles")], ["eng", "spa"])
            for track, language in enumerate(("eng", "spa")):
                found = words(path, track)
                for (time, said), (begin, wanted) in zip(
                    found, ((0.4, "one"), (1.2, "two")), strict=True
                ):
                    self.assertApproximates(time, begin, 0.04)
                    self.assertIn(f"{language} {wanted}", said)
            self.assertTrue(result.media.subtitles[1].default)
        return path

    def test_matroska(self) -> None:
        source = film(self.folder, "film.mkv", video=media.FLOWER, sound="ac3", text="srt")
        path = self.check(source)
        self.assertEqual(chapters(path), [(0.0, "Leaves"), (0.9, "Petals")])
        text = media.metadata_text(path)
        self.assertIn("title=The Garden", text)
        self.assertIn("date=1994-05-06", text)
        for private in ("private", "+48", "none"):
            self.assertNotIn(private, text)

    def test_mp4(self) -> None:
        source = film(self.folder, "film.mp4", video=media.FLOWER, sound="aac", text="mov_text")
        path = self.check(source)
        self.assertEqual(chapters(path), [(0.0, "Leaves"), (0.9, "Petals")])

    def test_mov(self) -> None:
        source = film(
            self.folder, "film.mov", video=media.FLOWER, sound="pcm_s16le", text="mov_text"
        )
        self.check(source, marks=False)

    def test_mpeg_ts(self) -> None:
        source = film(self.folder, "film.ts", video=media.FLOWER, sound="mp2", text=None)
        self.check(source, text=False, marks=False)

    def test_webm(self) -> None:
        source = film(
            self.folder, "film.webm", video=media.SCREENCAST, sound="libopus", text="webvtt"
        )
        self.check(source)

    def test_compress(self) -> None:
        """Its commands are others, and so is that of a result that is copied."""
        source = film(self.folder, "film.mkv", video=media.FLOWER, sound="flac", text="srt")
        path = self.check(source, operation="compress", quality=75, preset="fast")
        self.assertEqual(path.suffix, ".mp4")
        low = self.folder / "low.mkv"
        media.ffmpeg(
            *("-i", source, "-map", "0", "-c", "copy", "-c:v", "libx264", "-crf", "50"),
            *("-c:a", "aac", "-b:a", "32k", low),
        )
        path = self.check(low, operation="compress", quality=99, preset="fast")
        self.assertEqual(path.suffix, ".mkv")
        self.assertEqual(chapters(path), [(0.0, "Leaves"), (0.9, "Petals")])

    def test_the_default_track_alone(self) -> None:
        source = film(self.folder, "film.mkv", video=media.FLOWER, sound="aac", text=None)
        fields = {"width": 96, "height": 54, "audio_tracks": "default"}
        result = media.process(source, "resolution", fields, self.folder / "out")
        self.assertEqual(flags(result.path, "audio"), [("ita", "With comments", True)])
        self.assertIn("Audio track 2 (ita) was kept; 1 other track was left out.", result.warnings)

    def test_a_clip_has_its_part_of_the_chapters(self) -> None:
        source = film(self.folder, "film.mkv", video=media.FLOWER, sound="aac", text=None)
        fields = {"start_time": 0.5, "duration": 1, "width": 96}
        result = media.process(source, "webm", fields, self.folder / "out")
        self.assertEqual(chapters(result.path), [(0.0, "Leaves"), (0.4, "Petals")])

    def test_a_clip_that_is_joined_from_segments_has_its_chapters(self) -> None:
        """From the source, which may have nothing else to give to the command that joins."""
        (self.folder / "chapters.txt").write_text(CHAPTERS.replace("END=2000", "END=9000"))
        choices: tuple[list[str], ...] = ([], ["-f", "lavfi", "-i", "sine=d=9"])
        for sound in choices:
            path = self.folder / "long.mkv"
            media.ffmpeg(
                *("-f", "lavfi", "-i", "testsrc2=s=64x48:r=10:d=9"),
                *("-i", self.folder / "chapters.txt"),
                *(*sound, "-map", "0", "-map_chapters", "1"),
                *(["-map", "2"] if sound else []),
                *("-c:v", "libx264", "-g", "10", path),
            )
            fields = {"start_time": 0.5, "duration": 8.4}
            result = media.process(path, "webm", fields, self.folder / "out")
            self.assertGreater(result.product.details.get("chunks", 1), 1)
            self.assertEqual(chapters(result.path), [(0.0, "Leaves"), (0.4, "Petals")])
            self.assertEqual(len(result.media.audio), len(sound) // 4)

    def test_a_track_without_a_sound_does_not_spoil_the_rest(self) -> None:
        """A track whose packets cannot be decoded is told of; the film is there."""
        source = film(self.folder, "film.mkv", video=media.FLOWER, sound="ac3", text=None)
        data = bytearray(source.read_bytes())
        at, broken = 0, 0
        while (at := data.find(b"\x0b\x77", at)) >= 0:  # AC-3 frames; every other is the second's
            if broken % 2:
                data[at : at + 40] = bytes(40)
            broken += 1
            at += 2
        source.write_bytes(data)
        result = media.process(
            source, "resolution", {"width": 96, "height": 54}, self.folder / "out"
        )
        self.assertGreaterEqual(len(result.media.audio), 1)


class ChoiceTests(TestCase):
    def info(self, count: int, default: int = 0, chapters: int = 0) -> MediaInfo:
        return MediaInfo(
            container="matroska,webm",
            size=1000,
            chapters=chapters,
            audio=tuple(
                AudioStream(index=n, codec="aac", channels=2, default=n == default)
                for n in range(count)
            ),
        )

    def test_many_tracks(self) -> None:
        """The main one is among those that are kept."""
        chosen = tracks.choose_tracks(self.info(40, default=38), "mp4")
        self.assertEqual([a.track.index for a in chosen.audio], [*range(31), 38])
        self.assertIn(
            "8 audio tracks were left out; 32 is the most.",
            tracks.track_warnings(self.info(40), chosen),
        )

    def test_too_many_chapters_are_told(self) -> None:
        info = self.info(1, chapters=2000)
        chosen = tracks.choose_tracks(info, "mp4")
        self.assertEqual(tracks.track_warnings(info, chosen), ["2000 chapters were left out."])

    def test_languages_of_mp4_have_three_letters(self) -> None:
        self.assertEqual(
            [three_letters(code) for code in ("en", "de", "ger", "pt", "xx", "gsw")],
            ["eng", "deu", "ger", "por", "xx", "gsw"],
        )

    def test_the_date_of_a_work_is_kept_and_that_of_a_recording_is_not(self) -> None:
        work = {"TITLE": "Vertigo", "DATE_RELEASED": "1958-05-09"}
        self.assertEqual(clean_tags(work)["date"], "1958-05-09")
        self.assertEqual(
            clean_tags({"title": "A", "date": "2008-08-05T07:00:00Z"})["date"], "2008-08-05"
        )
        self.assertEqual(clean_tags({"date": "1958"})["date"], "1958")
        self.assertEqual(clean_tags({"date": "2021-07-05T12:34:56"})["date"], "2021")
        for device in ("com.apple.quicktime.make", "location", "location-eng", "make", "model"):
            self.assertNotIn("date", clean_tags({"title": "A", "date": "2021-07-05", device: "x"}))
