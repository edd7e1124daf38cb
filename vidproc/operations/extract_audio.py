"""extract_audio: one audio track as MP3."""

from __future__ import annotations

import ffmpeg

from vidproc.errors import ErrorCode, ServiceError
from vidproc.ffmpeg.capabilities import Capabilities
from vidproc.ffmpeg.command import THREADS, ffmpeg_command, output_file
from vidproc.ffmpeg.media import AudioStream, MediaInfo
from vidproc.operations import audio, delivery, frames, reading
from vidproc.operations.base import Expectation, Operation, Plan, Product, require_encoder
from vidproc.operations.languages import same_language
from vidproc.operations.parameters import ExtractAudio
from vidproc.operations.tracks import clean_metadata

_RESULT = "result.mp3"

_SHORT_SOURCE = 1 << 30  # bytes
_MPEG1_RATES = (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
_MPEG2_RATES = (32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)  # under 32 kHz
_MPEG1_SAMPLING = 32_000
_MOST_SAMPLING = 48_000


class ExtractAudioOperation(Operation[ExtractAudio]):
    """Extract one audio track as MP3 (LAME)."""

    name = "extract_audio"

    def plan(self, media: MediaInfo, parameters: ExtractAudio, capabilities: Capabilities) -> Plan:
        """Return one encode. Raises `ServiceError` 415 without audio, 422 without that track."""
        require_encoder(capabilities, "libmp3lame")
        track = choose_track(media, parameters.track)
        warnings = frames.ending_warnings(media)
        if parameters.track is None and len(media.audio) > 1:
            warnings.append(
                f"Audio track {audio.track_number(media, track)} was extracted; the file has "
                f"{len(media.audio)}: {describe_tracks(media)}."
            )
        if track.channels > 2:
            warnings.append(f"The {track.channels} channels were mixed down to stereo for MP3.")
        options, sentences = _encoding(track, parameters.bitrate)
        warnings.extend(sentences)

        node = reading.source(media)
        stream = node[str(track.index)]
        stream = stream.filter("aresample", **{"async": 1, "min_hard_comp": 0.04})
        streams = [stream.filter("aformat", channel_layouts="stereo|mono")]
        if media.covers:
            cover = media.covers[0]
            streams.append(node[str(cover.index)])
            options["c:v"] = "copy" if cover.codec in ("mjpeg", "png") else "mjpeg"
            options["disposition:v:0"] = "attached_pic"
            options["metadata:s:v:0"] = "comment=Cover (front)"
        if track.language:
            options["metadata:g:language"] = f"language={track.language}"  # ID3 has one per file
        graph = ffmpeg.output(
            *streams,
            output_file(_RESULT),
            format="mp3",
            threads=THREADS,
            id3v2_version=3,
            map_chapters=-1,
            **clean_metadata(media),
            **options,
        )
        command = ffmpeg_command(
            graph,
            stage="encoding",
            duration=track.duration or media.duration,
            cpus=1.0,
            memory=128 << 20,
        )
        expectation = Expectation(
            video=False,
            audio=True,
            duration=track.duration,
            tolerance=max(1.0, delivery.tolerance(media)),
        )
        return Plan([command], Product(_RESULT, "mp3", expectation), warnings)

    def estimate_output(self, media: MediaInfo, parameters: ExtractAudio) -> int:
        """Return the bytes of the MP3 at the requested bit rate, or at the highest."""
        rate = max(parameters.bitrate or 0, _MPEG1_RATES[-1] * 1000)
        seconds = media.duration
        if seconds is None:  # a strange file: assume the lowest rate of speech
            seconds = media.size * 8 / 16_000
        return int(seconds * rate / 8 * 1.02) + (256 << 10)

    def is_short(self, parameters: ExtractAudio, source_size: int) -> bool:
        """Return whether the work will probably take less than a minute: audio is quick."""
        return source_size <= _SHORT_SOURCE

    def estimate_size(self, parameters: ExtractAudio, source_size: int) -> int:
        """Return an estimate of the output's bytes: audio is seldom more than half of a file."""
        return max(1 << 20, source_size // 2)


def _encoding(track: AudioStream, bitrate: int | None) -> tuple[dict[str, object], list[str]]:
    """Return LAME's options, and a sentence if MP3 does not support the requested bit rate."""
    options: dict[str, object] = {"c:a": "libmp3lame"}
    sampling = track.sample_rate
    if sampling > _MOST_SAMPLING:
        options["ar"] = _MOST_SAMPLING
    if bitrate is None:
        options["q:a"] = 2
        return options, []
    if sampling < _MPEG1_SAMPLING and bitrate > _MPEG2_RATES[-1] * 1000:
        options["ar"] = sampling = 44_100
    rates = _MPEG1_RATES if sampling >= _MPEG1_SAMPLING else _MPEG2_RATES
    rate = min(rates, key=lambda kilobits: abs(kilobits * 1000 - bitrate)) * 1000
    if sampling < 16_000:  # the limit of MPEG 2.5
        rate = min(rate, 64_000)
    options["b:a"] = rate
    if rate == bitrate:
        return options, []
    return options, [
        f"MP3 does not support {bitrate} bit/s here; the nearest rate, {rate} bit/s, was used."
    ]


def choose_track(media: MediaInfo, wanted: int | str | None) -> AudioStream:
    """Return the audio track by number (from 1) or language, by default the main one.

    Raises `ServiceError` 415 if the file has no audio, 422 if it has no such track.
    """
    main = media.main_audio()
    if main is None:
        raise ServiceError(
            ErrorCode.UNSUPPORTED_MEDIA,
            "The file has no audio track to extract.",
            "Send a file with an audio track.",
        )
    if wanted is None:
        return main
    if isinstance(wanted, int) or wanted.isdigit():
        number = int(wanted)
        if 1 <= number <= len(media.audio):
            return media.audio[number - 1]
    else:
        matches = [t for t in media.audio if t.language and same_language(wanted, t.language)]
        if matches:
            return next((track for track in matches if track.default), matches[0])
    count = len(media.audio)
    tracks = "1 audio track" if count == 1 else f"{count} audio tracks"
    raise ServiceError(
        ErrorCode.INVALID_PARAMETER,
        f"There is no audio track {wanted}; the file has {tracks}: {describe_tracks(media)}.",
        "Choose one of them by number or language, or leave track out. Example: --track 1",
    )


def describe_tracks(media: MediaInfo) -> str:
    """Return a list of the audio tracks such as ``1 (eng), 2 (deu, 5.1)``; at most ten."""
    names = []
    for number, track in enumerate(media.audio[:10], 1):
        facts = [track.language or "no language", track.title or "", track.codec]
        if track.channels > 2:
            facts.append(f"{track.channels} channels")
        names.append(f"{number} ({', '.join(fact for fact in facts if fact)})")
    return ", ".join(names) + (" and more" if len(media.audio) > 10 else "")
