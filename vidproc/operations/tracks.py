"""All of a result but its video: audio tracks, subtitles, chapters and tags.

Whatever makes the video, in one command or in segments that are joined, the rest is the same: it
comes from the source, in the command that writes the finished file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ffmpeg.nodes import FilterableStream

from vidproc.ffmpeg.media import AudioStream, MediaInfo, SubtitleStream
from vidproc.operations.audio import ChosenAudio, Container, audio_warnings, choose_audio
from vidproc.operations.frames import counted
from vidproc.operations.languages import three_letters
from vidproc.operations.parameters import AudioTracks
from vidproc.operations.reading import Source

KEPT_TAGS = (
    *("title", "artist", "album_artist", "album", "composer", "genre", "track", "disc", "date"),
    *("show", "season_number", "episode_id", "episode_sort", "network", "media_type"),
)
"""Tags that describe the content. Others may reveal where, when or with what it was recorded."""

MOST_TRACKS = 32
"""The most audio tracks, and the most subtitle tracks, of a result."""
_MOST_CHAPTERS = 1000


@dataclass(frozen=True, slots=True)
class Tracks:
    """What a result holds besides its video; `chapters` says whether those of the source stay."""

    audio: tuple[ChosenAudio, ...] = ()
    subtitles: tuple[SubtitleStream, ...] = ()
    chapters: bool = False

    def streams(self, node: Source) -> list[FilterableStream]:
        """Return the graph's streams, taken from the input `node`: audio, then subtitles."""
        titles = [node[str(subtitle.index)] for subtitle in self.subtitles]
        return [*(audio.stream(node) for audio in self.audio), *titles]

    def options(self, media: MediaInfo, container: Container) -> dict[str, object]:
        """Return the output options: encoders, languages, titles, flags, chapters, clean tags."""
        options: dict[str, object] = {
            **clean_metadata(media),
            "map_chapters": 0 if self.chapters else -1,
        }
        if media.video is not None and media.video.language:
            options["metadata:s:v:0"] = f"language={three_letters(media.video.language)}"
        main = media.main_audio()
        for number, audio in enumerate(self.audio):
            options.update(audio.options(number))
            options.update(_labels("a", number, audio.track, audio.track == main))
        for number, subtitle in enumerate(self.subtitles):
            options.update(_labels("s", number, subtitle, subtitle.default))
        if self.subtitles:
            options["c:s"] = "mov_text" if container == "mp4" else "webvtt"
        return options


def choose_tracks(
    media: MediaInfo,
    container: Container,
    audio_tracks: AudioTracks = "all",
    choose: Callable[[AudioStream], ChosenAudio | None] | None = None,
) -> Tracks:
    """Return the tracks of a result that covers the whole source.

    `choose` says how a track is encoded; by default `choose_audio` does.
    """
    main = media.main_audio()
    wanted = list(wanted_audio(media, audio_tracks))
    while len(wanted) > MOST_TRACKS:
        wanted.remove(next(track for track in reversed(wanted) if track != main))
    chosen = [
        choose(track) if choose is not None else choose_audio(media, container, track=track)
        for track in wanted
    ]
    return Tracks(
        audio=tuple(audio for audio in chosen if audio is not None),
        subtitles=kept_subtitles(media),
        chapters=kept_chapters(media),
    )


def wanted_audio(media: MediaInfo, audio_tracks: AudioTracks) -> Sequence[AudioStream]:
    """Return the audio tracks that the client wants: all, or the one a player would choose."""
    main = media.main_audio()
    return media.audio if audio_tracks == "all" or main is None else [main]


def track_warnings(media: MediaInfo, tracks: Tracks) -> list[str]:
    """Return a sentence for everything of the source that `tracks` drops or changes."""
    sentences = audio_warnings(media, tracks.audio)
    lost = len(media.subtitles) - len(tracks.subtitles)
    if lost:
        images = sum(not stream.text for stream in media.subtitles)
        noun = "image-based subtitle track" if images == lost else "subtitle track"
        sentences.append(f"{counted(lost, noun)} left out.")
    if media.chapters and not tracks.chapters:
        sentences.append(f"{counted(media.chapters, 'chapter')} left out.")
    return sentences


def kept_subtitles(media: MediaInfo) -> tuple[SubtitleStream, ...]:
    """Return the subtitle tracks that can be kept: text, at most `MOST_TRACKS`."""
    return tuple(stream for stream in media.subtitles if stream.text)[:MOST_TRACKS]


def kept_chapters(media: MediaInfo) -> bool:
    """Return whether there are chapters that can be kept."""
    return 0 < media.chapters <= _MOST_CHAPTERS


def clean_metadata(media: MediaInfo) -> dict[str, object]:
    """Return options that drop all tags except `KEPT_TAGS`."""
    options: dict[str, object] = {"map_metadata:g": -1, "map_metadata:s": -1}
    kept = [(name, media.tags[name]) for name in KEPT_TAGS if media.tags.get(name)]
    for number, (name, value) in enumerate(kept):
        options[f"metadata:g:{number}"] = f"{name}={value}"
    return options


def copied_labels(media: MediaInfo, audio: Sequence[AudioStream]) -> dict[str, object]:
    """Return the labels of `audio` and all subtitles, for a file into which they are copied."""
    options: dict[str, object] = {}
    for number, track in enumerate(audio):
        options.update(_labels("a", number, track, track.default))
    for number, subtitle in enumerate(media.subtitles):
        options.update(_labels("s", number, subtitle, subtitle.default))
    return options


def _labels(
    kind: str, number: int, track: AudioStream | SubtitleStream, default: bool
) -> dict[str, object]:
    """Return the options for a track's language, title and flags."""
    tags = {}
    if track.language:
        tags["language"] = three_letters(track.language)
    if track.title:
        tags["title"] = tags["handler_name"] = track.title  # players of MP4 read one or the other
    # ffmpeg-python gives each option once, but FFmpeg reads 1, 0x1 and 0x01 as the same number.
    places = (f"{number}", f"0x{number:x}", f"0x0{number:x}")
    options: dict[str, object] = {
        f"metadata:s:{kind}:{place}": f"{name}={text}"
        for place, (name, text) in zip(places, tags.items(), strict=False)
    }
    flags = [
        *(["default"] if default else []),
        *(["forced"] if isinstance(track, SubtitleStream) and track.forced else []),
        *track.roles,
    ]
    options[f"disposition:{kind}:{number}"] = "+".join(flags) or "0"
    return options
