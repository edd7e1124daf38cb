"""A job that really runs FFmpeg, at once and without a reactor; and a probe good enough for it."""

from __future__ import annotations

import subprocess
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from vidproc.ffmpeg.binary import FFmpeg, find_ffmpeg
from vidproc.ffmpeg.command import SOURCE, Command, CommandFailed, Completed
from vidproc.ffmpeg.media import AudioStream, Cover, MediaInfo, SubtitleStream, VideoStream
from vidproc.operations.base import Operation, Product


class LocalJob:
    """Runs each command as a child process and waits for it. Not for use beside a reactor."""

    def __init__(
        self,
        source: Path,
        folder: Path,
        parameters: Any,
        *,
        ffmpeg: FFmpeg | None = None,
        media: MediaInfo | None = None,
        threads: int = 2,
    ) -> None:
        self.media = probe(source) if media is None else media
        self.parameters = parameters
        self.ffmpeg = ffmpeg or find_ffmpeg()
        self.capabilities: Any = self.ffmpeg
        self.commands: list[tuple[Command, float]] = []
        self.warnings: list[str] = []
        self._source = source.absolute()
        self._folder = folder
        self._threads = threads

    async def run(self, command: Command) -> Completed:
        argv = command.resolve(lambda name: f"file:{self.path_of(name)}", self._threads)
        start = time.monotonic()
        done = subprocess.run(
            [
                self.ffmpeg.path,
                *("-hide_banner", "-nostdin", "-nostats", "-y", "-loglevel", "level+info"),
                *argv,
            ],
            capture_output=True,
            cwd=self._folder,
            stdin=subprocess.DEVNULL,
        )
        elapsed = time.monotonic() - start
        self.commands.append((command, elapsed))
        tail = done.stderr.decode(errors="replace")[-4096:]
        if done.returncode != 0:
            raise CommandFailed(command, f"exit status {done.returncode}", tail)
        return Completed(done.stdout[: command.capture], tail, elapsed)

    def warn(self, sentence: str) -> None:
        self.warnings.append(sentence)

    def path_of(self, name: str) -> Path:
        return self._source if name == SOURCE else self._folder / name

    def size_of(self, name: str) -> int:
        return self.path_of(name).stat().st_size

    def read(self, name: str) -> bytes:
        return self.path_of(name).read_bytes()


def run_operation(operation: Operation[Any], job: Any) -> Product:
    """Drive an operation's coroutine to its end; every await in it must finish at once."""
    coroutine = operation.run(job)
    try:
        coroutine.send(None)
    except StopIteration as done:
        product: Product = done.value
        return product
    raise RuntimeError("the operation waited for something that is no command")


def probe(path: Path) -> MediaInfo:
    """Say what is in a well-meaning file."""
    with av.open(str(path)) as container:
        video: VideoStream | None = None
        audio, subtitles, covers = [], [], []
        others = data = 0
        for stream in container.streams:
            language = stream.metadata.get("language")
            context: Any = stream.codec_context if stream.type != "data" else None
            if stream.type == "video":
                if stream.disposition & av.stream.Disposition.attached_pic:
                    covers.append(
                        Cover(
                            index=stream.index,
                            codec=context.name,
                            width=context.width,
                            height=context.height,
                        )
                    )
                elif video is None:
                    video = _video(path, stream, context)
                else:
                    others += 1
            elif stream.type == "audio":
                audio.append(
                    AudioStream(
                        index=stream.index,
                        codec=context.name.removesuffix("float"),
                        channels=context.channels,
                        layout=context.layout.name,
                        sample_rate=context.sample_rate,
                        bit_rate=stream.bit_rate or None,
                        language=language,
                        default=bool(stream.disposition & av.stream.Disposition.default),
                        duration=_seconds(stream),
                    )
                )
            elif stream.type == "subtitle":
                subtitles.append(SubtitleStream(index=stream.index, codec=context.name, text=True))
            else:
                data += 1
        return MediaInfo(
            container=container.format.name,
            size=path.stat().st_size,
            duration=container.duration / 1_000_000 if container.duration else None,
            start_time=(container.start_time or 0) / 1_000_000,
            bit_rate=container.bit_rate or None,
            video=video,
            other_videos=others,
            audio=tuple(audio),
            subtitles=tuple(subtitles),
            covers=tuple(covers),
            data_streams=data,
        )


def _video(path: Path, stream: Any, context: Any) -> VideoStream:
    sar = stream.sample_aspect_ratio or Fraction(1)
    with av.open(str(path)) as again:
        frame = next(again.decode(again.streams[stream.index]))
        rotation = round(-frame.rotation) % 360
    transfers = {16: "smpte2084", 18: "arib-std-b67", 1: "bt709"}
    return VideoStream(
        index=stream.index,
        codec=context.name,
        width=context.width,
        height=context.height,
        sample_aspect_ratio=(sar.numerator, sar.denominator),
        rotation=rotation,
        frame_rate=float(stream.average_rate) if stream.average_rate else None,
        pixel_format=context.pix_fmt,
        bit_depth=10 if "10" in (context.pix_fmt or "") else 8,
        color_transfer=transfers.get(context.color_trc),
        color_primaries="bt2020" if context.color_primaries == 9 else None,
        color_matrix="bt2020nc" if context.colorspace == 9 else None,
        frames=stream.frames or None,
        duration=_seconds(stream),
        bit_rate=stream.bit_rate or None,
    )


def _seconds(stream: Any) -> float | None:
    return float(stream.duration * stream.time_base) if stream.duration else None
