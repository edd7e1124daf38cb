"""The state of a compression: what it works with and what it has used so far."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from vidproc.ffmpeg.command import Command, CommandFailed, Completed, FailureKind, Part
from vidproc.operations.base import Expectation, Job, Product
from vidproc.operations.compress.encode import (
    Options,
    VideoEncoder,
    audio_for,
    audio_rate,
    film_command,
    sample_command,
    source_video_bytes,
    video_encoder_for,
)
from vidproc.operations.compress.scored_encode import scored_encode
from vidproc.operations.compress.scoring import (
    Metric,
    Samples,
    parse_best,
    parse_score,
    score_command,
)
from vidproc.operations.compress.search import Search
from vidproc.operations.frames import frame_warnings, require_video
from vidproc.operations.parameters import Compress
from vidproc.operations.sizes import Size, limited, scaled
from vidproc.operations.spread import Film
from vidproc.operations.tracks import Tracks, choose_tracks, track_warnings

SIZE_RULE = 0.9
"""The fraction of the source's video bytes that the compressed video may take."""
SPARSE = 3
"""Trials are scored on every third frame."""
_SPARSE_ERRORS = ((5, 2.5), (3, 1.5))
"""Whole videos are scored on every fifth or third frame where that is exact enough: (interval,
error). The error of the mean, which 95 % of measurements stay under, is this times the root of the
score points missing to 101 per frame. (2.0 to 2.4 and 1.0 to 1.2 over 4,000 stretches of 125 to 400
frames of six videos at 75 to 98, H.264, HEVC and AV1; up to 3.1 and 1.7 in clips of 180 to 240
lines.) Encoders give some frames more bits than others, in periods of 2, 4, 8 and more frames (x265
also of 5), so the interval must share no factor with those: every fourth frame scored up to 1.8 too
high."""
_IN_SEGMENTS = 2.0
"""How much larger that is where segments are scored one by one, on a cluster: all begin alike, so
that their errors are alike. (Noisy AV1 in four segments: 0.6 at 85, twice the error.)"""
_LARGEST_ERROR = 0.33
CAPPED_BY_SELF = 0.5
"""No target is higher than the source's score against itself, less this."""
_NEVER_CAPPED = 96.5
"""The quality up to which that can't matter: even a still scores 97.4 against itself."""
_MUX_BYTES_PER_FRAME = 14
_MOST_PIXELS = 2_100_000
"""Pixels of frames that are scored while they are encoded. The source's frames wait in memory until
the encoder has finished theirs: 500 MB at this size."""


@dataclass(slots=True)
class Work:
    """What a compression works with, and what it has used so far: times are in seconds.

    `notes` are the warnings about a video that is encoded; one that is returned unchanged has none.
    """

    job: Job[Compress]
    video_encoder: VideoEncoder
    size: Size
    tracks: Tracks
    metric: Metric | None
    notes: list[str]
    search_time: float = 0.0
    probes: int = 0
    left: float = 1.0
    files: int = 0
    encode_time: float = 0.0
    decodes_own: bool = True
    """Whether FFmpeg can decode what it encodes (since version 7), as far as is known."""
    audio_bytes: float | None = None
    cut: Film | None = None
    """The segments of the video, once it has been cut for a cluster."""
    parts: dict[tuple[float, float], Part | None] = field(default_factory=dict)
    """What shots and samples read of the source, by their start and end; None is all of it."""

    @classmethod
    def of(cls, job: Job[Compress]) -> Work:
        """Return the work that a job needs. Raises `ServiceError` 415 for a file without video."""
        media, capabilities = job.media, job.capabilities
        video = require_video(media)
        shown = video.displayed_size
        size = scaled(limited(shown), 1.0)
        tracks = choose_tracks(
            media, "mp4", job.parameters.audio_tracks, lambda track: audio_for(media, track)
        )
        parameters = job.parameters
        assert parameters.codec != "auto"
        video_encoder = video_encoder_for(
            parameters.codec,
            parameters.preset,
            capabilities,
            video,
            keep_hdr=parameters.hdr != "sdr",
        )
        notes = [
            *frame_warnings(media, capabilities, video_encoder.pixels),
            *track_warnings(media, tracks),
        ]
        if size != shown:
            notes.append(
                f"The video became {size[0]}x{size[1]} instead of {shown[0]}x{shown[1]}: "
                "sides must be even and not too long."
            )
        metric: Metric | None = "vmaf"
        if "libvmaf" not in capabilities.filters:
            metric = "ssim" if "ssim" in capabilities.filters else None
            notes.append(
                "This server's FFmpeg can't measure VMAF; "
                + ("the quality was estimated from SSIM." if metric else "the quality is a guess.")
            )
        return cls(job, video_encoder, size, tracks, metric, notes)

    @property
    def duration(self) -> float:
        """The video's length in seconds, 0 when it is unknown."""
        return self.job.media.duration or 0.0

    @property
    def frames(self) -> float:
        """The approximate number of frames."""
        video = self.job.media.video
        rate = (video.frame_rate if video is not None else None) or 25.0
        return (video.frames if video is not None else None) or self.duration * rate

    def sparse(self, score: float) -> tuple[int, float]:
        """Return at what interval the frames of the whole video are scored, and the error of that.

        `score` is the expected mean; the error is in score points, 0 if every frame is scored.
        """
        for every, _ in _SPARSE_ERRORS if self.metric == "vmaf" else ():
            error = self.error(every, score)
            if error <= _LARGEST_ERROR and (every, self.video_encoder.codec) != (5, "hevc"):
                return every, error
        return 1, 0.0

    def error(self, every: int, score: float, fraction: float = 1.0) -> float:
        """Return the error of a score that was measured on each `every`-th frame of the video, or
        of a `fraction` of it."""
        factor = dict(_SPARSE_ERRORS).get(every, 0.0)
        if self.job.capabilities.spare_cores >= 2:
            factor *= _IN_SEGMENTS
        return factor * math.sqrt(max(101.0 - score, 0.0) / max(self.frames * fraction, 1.0))

    @property
    def largest(self) -> float:
        """The largest result that is worth having, in bytes."""
        return self.job.media.size * 0.99

    @property
    def video_limit(self) -> float:
        """The most bytes that the compressed video may take."""
        media = self.job.media
        by_rule = SIZE_RULE * source_video_bytes(media)
        return max(min(by_rule, media.size * 0.98 - self.other_bytes), 1.0)

    @property
    def audio_size(self) -> float:
        """Bytes of the delivered audio: measured, or estimated from its bit rate."""
        if self.audio_bytes is not None:
            return self.audio_bytes
        return audio_rate(self.job.media, self.tracks) * self.duration / 8

    @property
    def other_bytes(self) -> float:
        """The approximate bytes of the delivered file other than video."""
        video = self.job.media.video
        rate = (video.frame_rate if video is not None else None) or 30.0
        frames = self.duration * rate * _MUX_BYTES_PER_FRAME
        return self.audio_size + frames + 2000

    def weight(self, fraction: float) -> float:
        """Take `fraction` of the rest of the progress bar, and return its weight."""
        taken = self.left * fraction
        self.left -= taken
        return taken

    def film(self, rate: Options, *, weight: float) -> tuple[str, Command]:
        """Return a new file's name and the command that encodes the video into it."""
        self.files += 1
        name = f"result-{self.files}.mp4"
        return name, film_command(
            self.job.media,
            self.job.capabilities,
            self.video_encoder,
            rate,
            name=name,
            size=self.size,
            tracks=self.tracks,
            weight=self.weight(weight),
        )

    def sample_command(
        self, name: str, rate: Options, samples: Samples, *, weight: float
    ) -> Command:
        """Return the command that encodes samples into a file; `weight` is its weight in the
        progress."""
        return sample_command(
            self.job.media,
            self.job.capabilities,
            self.video_encoder,
            rate,
            name=name,
            size=self.size,
            samples=samples,
            weight=weight,
        )

    @property
    def capped(self) -> bool:
        """Whether the source's score against itself may limit the target."""
        return self.job.parameters.quality > _NEVER_CAPPED

    def score_command(
        self,
        name: str,
        samples: Samples,
        *,
        stage: str,
        weight: float,
        every: int,
        best: bool,
    ) -> Command:
        """Return the command that scores a file, and with `best` the source against itself;
        `weight` is its weight in the progress."""
        assert self.metric is not None
        return score_command(
            self.job.media,
            self.job.capabilities,
            name,
            metric=self.metric,
            size=self.size,
            pixels=self.video_encoder.pixels,
            samples=samples,
            stage=stage,
            weight=weight,
            every=every,
            best=best,
        )

    async def encode_and_score(
        self,
        encode: Command,
        name: str,
        samples: Samples,
        *,
        stage: str,
        weight: float,
        every: int,
        search: Search | None,
    ) -> tuple[float | None, float, float]:
        """Encode into the file `name` and score that, by one command where possible.

        Return the score, and the seconds that encoding and scoring took: of one command, these are
        what each usually takes of it. Otherwise it is as `score`.
        """
        command = self._scored_encode(encode, name, samples, weight, every, search)
        if command is not None:
            try:
                done = await self.job.run(command)
            except CommandFailed as error:
                if not (error.kind.may_be_the_files or error.kind is FailureKind.STALLED):
                    raise
                self.decodes_own = False  # two commands tell what is wrong, or do better
            else:
                self.weight(weight)  # it had that of both
                scoring = self.video_encoder.scoring_cost / every
                encoding = done.elapsed / (1 + scoring)
                return self._score_of(done, search), encoding, done.elapsed - encoding
        encoded = await self.job.run(encode)
        score, scored = await self.score(
            name, samples, stage=stage, weight=weight, every=every, search=search
        )
        return score, encoded.elapsed, scored

    def _scored_encode(
        self,
        encode: Command,
        name: str,
        samples: Samples,
        weight: float,
        every: int,
        search: Search | None,
    ) -> Command | None:
        if not self.decodes_own or self.size[0] * self.size[1] > _MOST_PIXELS:
            return None
        score = self.score_command(
            name,
            samples,
            stage=encode.stage,
            weight=self.left * weight,
            every=every,
            best=search is not None and self.capped,
        )
        return scored_encode(encode, score)

    def _score_of(self, done: Completed, search: Search | None) -> float | None:
        """Return the score that a command printed; a `search` is told the source's own score."""
        assert self.metric is not None
        if search is not None and self.capped:
            search.cap(parse_best(done, self.metric), CAPPED_BY_SELF)
        return parse_score(done, self.metric)

    async def score(
        self,
        name: str,
        samples: Samples,
        *,
        stage: str,
        weight: float,
        every: int = 1,
        search: Search | None = None,
    ) -> tuple[float | None, float]:
        """Score a file; return the score and the seconds it took.

        The score is None when there is none to be had. A `search` is told the source's own score.
        """
        assert self.metric is not None
        capping = search is not None and self.capped
        command = self.score_command(
            name, samples, stage=stage, weight=self.weight(weight), every=every, best=capping
        )
        try:
            done = await self.run_twice(command)
        except CommandFailed as error:
            if stage == "searching" or not error.kind.may_be_the_files:
                raise
            return None, 0.0  # the video itself is there
        return self._score_of(done, search), done.elapsed

    async def run_twice(self, command: Command) -> Completed:
        """Run a command, and again if it crashed: scoring crashes once in thousands of times."""
        try:
            return await self.job.run(command)
        except CommandFailed as error:
            if error.kind is not FailureKind.CRASHED:
                raise
            return await self.job.run(command)

    def product(self, name: str, details: dict[str, Any]) -> Product:
        """Return the finished file, and warn about what was changed."""
        for sentence in self.notes:
            self.job.warn(sentence)
        media = self.job.media
        written = self.job.size_of(name)
        return Product(
            name,
            "mp4",
            Expectation(
                video=True,
                audio=bool(self.tracks.audio),
                size=self.size,
                duration=media.duration,
                audio_tracks=len(self.tracks.audio),
            ),
            {
                "codec": self.video_encoder.codec,
                "preset": self.job.parameters.preset,
                **details,
                "percent_of_source": round(100 * written / media.size, 1),
                "already_optimal": False,
            },
        )
