"""webm: a clip as WebM, VP9 or AV1 with Opus."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import ffmpeg
from ffmpeg.nodes import FilterableStream, OutputStream

from vidproc.ffmpeg.capabilities import Capabilities
from vidproc.ffmpeg.command import Command, ffmpeg_command
from vidproc.ffmpeg.media import MediaInfo
from vidproc.operations import (
    audio,
    clips,
    delivery,
    frames,
    held,
    reading,
    segments,
    sizes,
    spread,
)
from vidproc.operations.base import (
    SHORT_CLIP,
    Expectation,
    Job,
    Operation,
    Plan,
    Product,
    filmed_bytes,
    follow,
    require_encoder,
)
from vidproc.operations.parameters import WebM
from vidproc.operations.tracks import Tracks, kept_chapters, kept_subtitles, track_warnings

_RESULT = "result.webm"
_SVT_LEAST_SIDE = 64
_VP9_SPEED = 5  # half the CPU time of libvpx's default; 4 gains nothing in size
_VP9_STEP = 1  # of CRF: at that speed the same CRF scores up to 0.6 VMAF lower than by default

_VP9_KEY = 0.55
"""The finest quantizer of keyframes, relative to the CRF: libvpx's default, a quarter of the step,
costs more bytes than it is worth (benchmarks/parallel.py)."""
_ENCODING = 0.98  # of the work; the rest is joining


class WebMOperation(Operation[WebM]):
    """Cut a frame-accurate clip for the web."""

    name = "webm"

    def plan(
        self, media: MediaInfo, parameters: WebM, capabilities: Capabilities, threads: int = 1
    ) -> Plan:
        """Return one encode, or the encodes of parallel segments and a command that joins them.

        Raises `ServiceError` 415 if there is no video, 422 past its end.
        """
        work = _Making(media, parameters, capabilities)
        # SVT-AV1 uses all cores by itself.
        cores = threads if parameters.codec == "vp9" else 1
        if work.held:
            options = work.whole_options() | held.lasting(work.clip)
            film = work.scaled(held.source(media, work.clip), held.sample(work.clip))
            whole = work.delivered(film, options)
            return Plan([whole], work.product(1), work.warnings)
        cut = segments.divide(media, work.clip, work.size, cores)
        if len(cut) == 1:
            options = work.whole_options()
            commands: list[Command | tuple[Command, ...]] = [
                work.delivered(work.scaled(work.node, _from_zero), options)
            ]
            return Plan(commands, work.product(1), work.warnings)
        options = encoder(parameters, work.size, capabilities, cores=cut[0].cores)
        commands = [
            segments.encode(
                media, work.clip, cut, work.scaled, options, work.memory, weight=_ENCODING
            ),
            work.joined(
                segments.joined(),
                weight=1 - _ENCODING,
                files=((segments.LIST, segments.listing(cut)),),
                reads=tuple(each.file for each in cut),
            ),
        ]
        return Plan(commands, work.product(len(cut)), work.warnings)

    async def run(self, job: Job[WebM]) -> Product:
        """Make it, in segments if that is faster and the video can be divided."""
        product = await self._spread(job)
        if product is not None:
            return product
        plan = self.plan(job.media, job.parameters, job.capabilities, job.threads)
        encoding, *joining = plan.commands
        if isinstance(encoding, Command):
            return await follow(job, plan)
        if await segments.make(job, encoding):
            return await follow(job, replace(plan, commands=joining))
        return await follow(job, self.plan(job.media, job.parameters, job.capabilities))

    async def _spread(self, job: Job[WebM]) -> Product | None:
        """Make it on a cluster, in segments; return None if it must be made in another way."""
        work = _Making(job.media, job.parameters, job.capabilities)
        if work.held:
            return None
        lengths = spread.divide(job.media, work.shown, job.capabilities.spare_cores)
        film = await spread.cut(
            job, lengths, tick=spread.FINE, start=work.begin, length=work.clip.length
        )
        if film is None:
            return None
        join = spread.with_join(work.joined(film.joined(), weight=spread.JOINING), film)
        if await spread.encode(job, film, partial(work.segment, film), [join]) is None:
            return None
        for sentence in work.warnings:
            job.warn(sentence)
        return work.product(len(film.segments))

    def estimate_output(self, media: MediaInfo, parameters: WebM) -> int:
        """Return the bytes of the segments and of the file that joins them."""
        filmed = filmed_bytes(media, length=parameters.length)
        return 2 * max(filmed, self.estimate_size(parameters, media.size)) + (4 << 20)

    def is_short(self, parameters: WebM, source_size: int) -> bool:
        """Return whether the clip is short, however long the source is."""
        return parameters.length <= SHORT_CLIP

    def estimate_size(self, parameters: WebM, source_size: int) -> int:
        """Return an estimate of the output's bytes: 8 Mbit/s, at most twice the source."""
        return max(1 << 20, min(int(parameters.length * 1_000_000), 2 * source_size))


class _Making:
    """A clip on its way to WebM. `clip` is the stretch of the video, `size` its frame in pixels,
    `warnings` what is changed or dropped; `held`: a frame may be shown for long."""

    def __init__(self, media: MediaInfo, parameters: WebM, capabilities: Capabilities) -> None:
        video = frames.require_video(media)
        shown = video.displayed_size
        self.clip = clips.clip(media, parameters.start, parameters.length, with_audio=True)
        wanted = parameters.width or shown[0]
        self.size = sizes.limited(sizes.scaled(shown, wanted / shown[0]))
        self._media = media
        self._parameters = parameters
        self._capabilities = capabilities
        self._audio = _clip_audio(media, self.clip)
        self._tracks = Tracks(
            audio=(self._audio,) if self._audio is not None else (),
            subtitles=kept_subtitles(media),
            chapters=kept_chapters(media),
        )
        self.node = reading.source(media, start=self.clip.start, duration=self.clip.length)
        self.memory = delivery.encoding_memory(self.size, self.size, shown)
        self.held = held.shows_for_long(video, self.clip)
        self.warnings = list(self.clip.warnings)
        if parameters.width is not None and self.size[0] != parameters.width:
            self.warnings.append(
                f"The width was changed from {parameters.width} to {self.size[0]}."
            )
        self.warnings += sizes.upscale_warning(shown, self.size)
        self.warnings += frames.frame_warnings(media, capabilities)
        self.warnings += track_warnings(media, self._tracks)

    @property
    def begin(self) -> float:
        """Where the clip begins, in seconds from the container's start."""
        begin = self.clip.start + frames.require_video(self._media).start_time
        return begin if begin > reading.NO_SEEK else 0.0

    @property
    def shown(self) -> float | None:
        """The seconds of video in the clip, None if unknown; audio may be longer."""
        duration = frames.require_video(self._media).duration
        return None if duration is None else min(self.clip.length, duration - self.clip.start)

    def scaled(self, source: reading.Source, sample: frames.Sample) -> FilterableStream:
        """Return the scaled frames of an input that `sample` selects."""
        return frames.normalised(source, self._media, self._capabilities, self.size, sample=sample)

    def whole_options(self) -> dict[str, object]:
        """Return the encoder's options for a clip in one piece."""
        options = encoder(self._parameters, self.size, self._capabilities)
        video = frames.require_video(self._media)
        if options["c:v"] == "libsvtav1":
            options |= delivery.svt_rate(video.frame_rate, known=not self.held)
        return options

    def delivered(self, stream: FilterableStream, options: dict[str, object]) -> Command:
        """Return the command that encodes the video `stream` and writes the finished file."""
        return ffmpeg_command(
            self._graph(stream, options),
            stage="encoding",
            duration=self.clip.length,
            memory=self.memory,
        )

    def joined(
        self,
        stream: FilterableStream,
        *,
        weight: float,
        files: tuple[tuple[str, bytes], ...] = (),
        reads: tuple[str, ...] = (),
    ) -> Command:
        """Return the command that writes the finished file with the joined video `stream`.

        `files` and `reads` are the command's; `weight` is its weight in the task, 0 to 1.
        """
        graph = self._graph(stream, {"c:v": "copy"})
        if self._audio is not None and not self._audio.copied:
            # FFmpeg seeks in the streams that it uses. With the video it lands at a keyframe, and
            # the audio decoder has what comes before the clip, as in a clip that is not joined.
            video = self.node[str(frames.require_video(self._media).index)]
            length = reading.seconds(self.clip.length)
            sought = ffmpeg.output(video, "-", format="null", c="copy", t=length)
            graph = ffmpeg.merge_outputs(graph, sought)
        return ffmpeg_command(
            graph,
            stage="joining",
            duration=self.clip.length,
            weight=weight,
            files=files,
            reads=reads,
        )

    def _graph(self, stream: FilterableStream, options: dict[str, object]) -> OutputStream:
        extra = _exact_cut(self.clip, bool(self._tracks.subtitles))
        what = delivery.Delivery(_RESULT, "webm", options, self._tracks, extra=extra)
        return delivery.deliver(self.node, self._media, stream, what)

    def segment(self, film: spread.Film, segment: spread.Segment, careful: bool) -> Command:
        """Return the command that encodes a segment of the clip for one core."""
        return spread.encode_command(
            film,
            segment,
            self.scaled,
            encoder(self._parameters, self.size, self._capabilities, cores=1),
            memory=self.memory,
            weight=film.encoding_weight(segment),
            careful=careful,
        )

    def product(self, chunks: int) -> Product:
        """Return the finished file, made of so many segments."""
        expectation = Expectation(
            video=True,
            audio=self._audio is not None,
            size=self.size,
            duration=self.clip.length,
            tolerance=delivery.tolerance(self._media),
        )
        details = {"chunks": chunks} if chunks > 1 else {}
        return Product(_RESULT, "webm", expectation, details)


def _clip_audio(media: MediaInfo, clip: clips.Clip) -> audio.ChosenAudio | None:
    """Return the clip's audio, None if it has none."""
    track = media.main_audio()
    if track is None:
        return None
    video = frames.require_video(media)
    start = clip.start + video.start_time
    if track.duration is not None and start >= track.start_time + track.duration:
        return None
    if start + clip.length <= track.start_time:
        return None
    # Packets can only be copied from the start of the video: elsewhere the cut is not exact.
    return audio.choose_audio(media, "webm", cut=start > reading.NO_SEEK)


def _exact_cut(clip: clips.Clip, subtitles: bool) -> dict[str, object]:
    """Return output options that remove everything outside of the clip.

    The input's -t counts from the first frame after the cut, so there may be one frame too many;
    its -ss lets earlier subtitles through; the last subtitle may be shown longer than the video.
    """
    length = reading.seconds(clip.length)
    options: dict[str, object] = {"t": length}
    if subtitles:
        options["ss"] = 0
        options["copypriorss:a"] = 1  # the encoder's delay comes before 0 and must be kept
        options["bsf:s"] = f"setts=duration=min(DURATION\\,{length}/TB-PTS)"
    return options


def _from_zero(stream: FilterableStream) -> FilterableStream:
    """Move the first frame to time 0: a cut between two frames would leave a gap."""
    return stream.filter("setpts", "if(eq(N,0),0,PTS)")


def encoder(
    parameters: WebM, size: sizes.Size, capabilities: Capabilities, cores: int | None = None
) -> dict[str, object]:
    """Return the encoder's output options, for `cores` cores, or as many as it can use."""
    options: dict[str, object] = {"pix_fmt": "yuv420p", "crf": parameters.quality}
    if parameters.codec == "av1":
        small = min(size) < _SVT_LEAST_SIDE
        names = ("libaom-av1", "libsvtav1") if small else ("libsvtav1", "libaom-av1")
        name = require_encoder(capabilities, *names)
        if name == "libsvtav1":
            return {**options, "c:v": name, "preset": 8, "g": 240}
        return {**options, "c:v": name, "cpu-used": 6, "row-mt": 1, "b:v": 0}
    name = require_encoder(capabilities, "libvpx-vp9")
    crf = max(0, parameters.quality - _VP9_STEP)
    columns = max(0, min(4, (size[0] // 256).bit_length() - 1))
    if cores is not None:
        # At this speed libvpx uses one thread per tile column, whatever row-mt says. Columns
        # cost 1 % of the bytes and, with more threads than cores, 5 % of the CPU time; players
        # need some in large frames.
        columns = max(0, columns - 2, min(columns, (cores - 1).bit_length()))
    return {
        **options,
        "c:v": name,
        "crf": crf,
        "qmin": round(_VP9_KEY * crf),
        "b:v": 0,
        "deadline": "good",
        "cpu-used": _VP9_SPEED,
        "tile-columns": columns,
        "g": 240,
    }
