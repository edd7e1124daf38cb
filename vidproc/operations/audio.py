"""The audio track of a result: which one, copied or encoded, and what was dropped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ffmpeg.nodes import FilterableStream

from vidproc.ffmpeg.media import AudioStream, MediaInfo
from vidproc.operations.frames import counted
from vidproc.operations.reading import Source

Container = Literal["mp4", "webm"]


_COPYABLE: dict[Container, frozenset[str]] = {
    # What every player supports in this container; the container can hold more.
    "mp4": frozenset({"aac", "mp3"}),
    "webm": frozenset({"opus", "vorbis"}),
}


_LAYOUTS: dict[str, str] = {
    # Layouts that players support; encoders can write others too (5.1(side), PCE).
    "aac": "mono|stereo|5.1",
    "libopus": "mono|stereo|3.0|quad|5.0|5.1|6.1|7.1",
}


@dataclass(frozen=True, slots=True)
class ChosenAudio:
    """The chosen audio track and how it is encoded.

    `encoder` is ``copy`` or an encoder's name; `bit_rate` in bits per second, None when copied.
    `mixed_to` is a layout that it is mixed down to, None if it keeps what players support.
    """

    track: AudioStream
    encoder: str
    channels: int
    bit_rate: int | None = None
    sample_rate: int | None = None
    mixed_to: str | None = None

    @property
    def copied(self) -> bool:
        """Whether the packets are copied without re-encoding."""
        return self.encoder == "copy"

    def stream(self, node: Source) -> FilterableStream:
        """Return the graph's audio stream, taken from the input `node`."""
        stream = node[str(self.track.index)]
        if self.copied:
            return stream
        # Silence where time stamps jump: encoders count samples and would get ahead of the video.
        stream = stream.filter("aresample", **{"async": 1, "min_hard_comp": 0.04})
        layouts = self.mixed_to or _LAYOUTS[self.encoder]
        return stream.filter("aformat", channel_layouts=layouts)

    def options(self, number: int) -> dict[str, object]:
        """Return the output options of the output's audio track `number`, counted from 0."""
        options: dict[str, object] = {f"c:a:{number}": self.encoder}
        if self.bit_rate is not None:
            options[f"b:a:{number}"] = self.bit_rate
        if self.sample_rate is not None:
            options[f"ar:a:{number}"] = self.sample_rate
        return options


def choose_audio(
    media: MediaInfo,
    container: Container,
    *,
    cut: bool = False,
    track: AudioStream | None = None,
    bit_rate: int | None = None,
) -> ChosenAudio | None:
    """Return the audio track for `container` and its encoding, None if there is no audio.

    `track` defaults to the one that a player would choose. It is copied if the container
    supports it and no exact `cut` or `bit_rate` (bits per second) requires encoding.
    """
    track = track or media.main_audio()
    if track is None:
        return None
    if not cut and bit_rate is None and can_copy(track, container):
        return ChosenAudio(track, "copy", track.channels)
    if container == "mp4":
        channels = 6 if track.channels >= 5 else min(2, track.channels or 2)
        rate = 48000 if track.sample_rate > 48000 else None
        return ChosenAudio(track, "aac", channels, bit_rate or aac_rate(channels), rate)
    channels = min(8, track.channels or 2)
    return ChosenAudio(track, "libopus", channels, bit_rate or opus_rate(channels))


def can_copy(track: AudioStream, container: Container) -> bool:
    """Whether players support the track in `container` without re-encoding."""
    if track.codec not in _COPYABLE[container] or not track.channels:
        return False
    # Several players play no MPEG-2 or 2.5 layer 3 audio in MP4.
    return track.codec != "mp3" or track.sample_rate >= 32000


def aac_rate(channels: int) -> int:
    """Return a transparent bit rate of FFmpeg's AAC encoder, in bits per second."""
    return {1: 96_000, 2: 160_000}.get(channels, 72_000 * max(1, channels - 1))


def opus_rate(channels: int) -> int:
    """Return a transparent bit rate of Opus, in bits per second."""
    return {1: 64_000, 2: 112_000}.get(channels, 48_000 * channels)


def audio_warnings(media: MediaInfo, kept: Sequence[ChosenAudio]) -> list[str]:
    """Return a sentence for everything that was dropped from the audio."""
    sentences = []
    lost = len(media.audio) - len(kept)
    if len(kept) == 1 and lost:
        track = kept[0].track
        language = f" ({track.language})" if track.language else ""
        sentences.append(
            f"Audio track {track_number(media, track)}{language} was kept; "
            f"{counted(lost, 'other track')} left out."
        )
    elif kept and lost:
        sentences.append(f"{counted(lost, 'audio track')} left out; {len(kept)} is the most.")
    mixes = dict.fromkeys(
        (audio.track.channels, audio.channels)
        for audio in kept
        if not audio.copied and audio.track.channels > audio.channels
    )
    sentences += [
        f"The audio was mixed down from {channels} to {fewer} channels."
        for channels, fewer in mixes
    ]
    return sentences


def track_number(media: MediaInfo, track: AudioStream) -> int:
    """Return the number of an audio track as people count: from 1, among the audio tracks."""
    return 1 + [stream.index for stream in media.audio].index(track.index)
