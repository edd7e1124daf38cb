"""compress: the same film in fewer bytes, at a perceived quality or under a size.

The quality is a VMAF score. Short samples are encoded and scored until the CRF is known that
gives the score; a film under a minute is scored as a whole afterwards and corrected when it
missed. The result is never larger than the source: when no CRF is good and small enough, the
source's own streams are the result.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from vidproc.ffmpeg.command import SOURCE, Command, CommandFailed, Completed, FailureKind
from vidproc.operations.base import Expectation, Job, Operation, Product
from vidproc.operations.compress.encode import (
    Coder,
    Options,
    coder_for,
    copy_command,
    film_command,
    sample_command,
    sound_for,
    sound_rate,
    source_video_bytes,
)
from vidproc.operations.compress.scoring import (
    Metric,
    Samples,
    film_bytes,
    parse_best,
    parse_score,
    score_command,
    spread,
    whole_film,
)
from vidproc.operations.compress.search import (
    GIVES_WAY_TO,
    MAX_PROBES,
    Choice,
    Point,
    Search,
)
from vidproc.operations.filters import (
    Size,
    Sound,
    kept_subtitles,
    limited,
    picture_warnings,
    require_video,
    scaled,
    sound_warnings,
    subtitle_warnings,
)
from vidproc.operations.parameters import Compress

SIZE_RULE = 0.9
"""The part of the source's video bytes that a compressed picture may have."""
SHORT = 60.0
"""Seconds below which a film is scored as a whole, and corrected by it."""
_LONG = 600.0
_AIM_ABOVE = 0.2
"""Score points above the target that are steered for: the allowed range reaches higher than
lower."""
_TOO_LOW, _TOO_HIGH = 0.35, 0.8
"""Score points below and above the target beyond which a short film is corrected."""
_CAPPED_BY_SELF = 0.5
"""Score points under what the source scores against itself: no target is higher."""
_UNPAIRED = 15.0
"""Score points: a film this far below its prediction has not the pictures of the source in their
order (it is damaged, or repeats time stamps), so that its score means nothing."""
_SAMPLES_BELOW = 0.25
"""Score points that samples lack to the whole film: an encoder that sees the end of its material
near spends less on what it shows last. Measured: 0.1 to 1, mostly under 0.5."""
_SPARSE = 4
"""Each so manieth picture is scored where all of them would cost too much time."""
_TINY = 3.0
"""Seconds below which a film is not sampled but tried as a whole."""
_TOO_SHORT_TO_COUNT = 5.0
"""Seconds below which a search may take its time."""
_FEW_PICTURES = 90
"""The same for pictures, for screen recordings of few pictures a second."""
_SAMPLE_PICTURES = 24
_PROBE_FILE = "probe.mkv"
_MUX_BYTES_PER_PICTURE = 14


class CompressOperation(Operation[Compress]):
    """Make a film smaller and keep how it looks."""

    name = "compress"

    async def run(self, job: Job[Compress]) -> Product:
        """Search, encode, check.

        Raises `ServiceError` 415 for a file without a picture, 422 for a size that can't be met.
        """
        from vidproc.operations.compress.target_size import compress_to_size

        work = Work.of(job)
        target = job.parameters.target_size
        if target is not None:
            if target < job.media.size:
                return await compress_to_size(work, target)
            job.warn(
                "The source is no larger than the target size; it was compressed to the quality "
                f"{job.parameters.quality:g}."
            )
        return await _to_quality(work)


@dataclass(slots=True)
class Work:
    """A compression under way: what it works with, and what it has taken so far, in seconds.

    `notes` are the warnings about a film that is encoded; one left as it is has none of them.
    """

    job: Job[Compress]
    coder: Coder
    size: Size
    sound: Sound | None
    metric: Metric | None
    notes: list[str]
    search_time: float = 0.0
    probes: int = 0
    left: float = 1.0
    files: int = 0
    encode_time: float = 0.0
    sound_bytes: float | None = None

    @classmethod
    def of(cls, job: Job[Compress]) -> Work:
        """Look at what is to be done."""
        media, capabilities = job.media, job.capabilities
        video = require_video(media)
        shown = video.displayed_size
        size = scaled(limited(shown), 1.0)
        sound = sound_for(media)
        notes = [
            *picture_warnings(media, capabilities),
            *sound_warnings(media, sound),
            *subtitle_warnings(media, kept_subtitles(media)),
        ]
        if size != shown:
            notes.append(
                f"The picture became {size[0]}x{size[1]} instead of {shown[0]}x{shown[1]}: "
                "sides must be even and not too long."
            )
        metric: Metric | None = "vmaf"
        if "libvmaf" not in capabilities.filters:
            metric = "ssim" if "ssim" in capabilities.filters else None
            notes.append(
                "This server's FFmpeg can't measure VMAF; "
                + ("the quality was estimated from SSIM." if metric else "the quality is a guess.")
            )
        coder = coder_for(job.parameters.codec, job.parameters.preset, capabilities, video)
        return cls(job, coder, size, sound, metric, notes)

    @property
    def duration(self) -> float:
        """The film's length in seconds, 0 when nobody knows."""
        return self.job.media.duration or 0.0

    @property
    def pictures(self) -> float:
        """How many pictures the film has, about."""
        video = self.job.media.video
        rate = (video.frame_rate if video is not None else None) or 25.0
        return (video.frames if video is not None else None) or self.duration * rate

    @property
    def largest(self) -> float:
        """Bytes above which a result is not worth having."""
        return self.job.media.size * 0.99

    @property
    def sound_weight(self) -> float:
        """Bytes of the delivered sound: weighed, or reckoned by its rate."""
        if self.sound_bytes is not None:
            return self.sound_bytes
        return sound_rate(self.job.media, self.sound) * self.duration / 8

    @property
    def other_bytes(self) -> float:
        """Bytes of the delivered file that are no picture, about."""
        video = self.job.media.video
        rate = (video.frame_rate if video is not None else None) or 30.0
        frames = self.duration * rate * _MUX_BYTES_PER_PICTURE
        return self.sound_weight + frames + 2000

    def share(self, part: float) -> float:
        """Take `part` of what is left of the progress bar."""
        taken = self.left * part
        self.left -= taken
        return taken

    def film(self, rate: Options, *, share: float) -> tuple[str, Command]:
        """Return a new file's name and the command that encodes the film into it."""
        self.files += 1
        name = f"result-{self.files}.mp4"
        return name, film_command(
            self.job.media,
            self.job.capabilities,
            self.coder,
            rate,
            name=name,
            size=self.size,
            sound=self.sound,
            share=self.share(share),
        )

    async def score(
        self,
        name: str,
        samples: Samples,
        *,
        stage: str,
        share: float,
        every: int = 1,
        search: Search | None = None,
    ) -> tuple[float | None, float]:
        """Score a file; return the score and the seconds it took.

        The score is None when it could not be had. A `search` learns the source's own score.
        """
        assert self.metric is not None
        command = score_command(
            self.job.media,
            self.job.capabilities,
            name,
            metric=self.metric,
            size=self.size,
            pixel_format=self.coder.pixel_format,
            samples=samples,
            stage=stage,
            share=self.share(share),
            every=every,
            best=search is not None,
        )
        try:
            done = await self._run_twice(command)
        except CommandFailed as error:
            if stage == "searching" or not error.kind.may_be_the_files:
                raise
            return None, 0.0  # the film itself is there
        if search is not None:
            search.cap(parse_best(done, self.metric), _CAPPED_BY_SELF)
        return parse_score(done, self.metric), done.elapsed

    async def _run_twice(self, command: Command) -> Completed:
        """Run a command, and once more if it crashed: scoring does, one time in thousands."""
        try:
            return await self.job.run(command)
        except CommandFailed as error:
            if error.kind is not FailureKind.CRASHED:
                raise
            return await self.job.run(command)

    def product(self, name: str, details: dict[str, Any]) -> Product:
        """Return the finished file, and say what was changed on the way."""
        for sentence in self.notes:
            self.job.warn(sentence)
        media = self.job.media
        written = self.job.size_of(name)
        return Product(
            name,
            "mp4",
            Expectation(True, self.sound is not None, self.size, media.duration),
            {
                "codec": self.coder.codec,
                "preset": self.job.parameters.preset,
                **details,
                "percent_of_source": round(100 * written / media.size, 1),
                "already_optimal": False,
            },
        )


# The search


def plan_samples(duration: float, scoring_cost: float, frame_rate: float = 25.0) -> Samples:
    """Return what of a film is looked at in each probe.

    Two to three probes, each an encode and its scoring, must take less time than the encode of
    the whole film: three times as long under a minute, as long from one minute, 35 % of it from
    ten minutes. A short film keeps half of that for a correction. A sample with few pictures
    would tell more of its first than of the film.
    """
    fewest = _SAMPLE_PICTURES / max(frame_rate, 0.1)
    if duration < _TINY or (duration < SHORT and duration * frame_rate <= _FEW_PICTURES):
        return whole_film(duration)
    if duration < SHORT:
        part = 1.1 / (2.2 * (1 + scoring_cost))
        part = max(min(part, 0.5), min(1.0, 1.5 / max(duration, 0.1)))
        return spread(duration, part, max(2.0 if duration > 12 else 1.2, fewest), 6)
    part = 0.75 if duration < _LONG else 0.26
    part /= 3 * (1 + scoring_cost)
    return spread(duration, min(part, 120.0 / duration), max(4.0, fewest), 8)


def time_limit(duration: float) -> float:
    """Return the most that a search may take, as a part of the final encode's time."""
    return 3.0 if duration < SHORT else 1.0 if duration < _LONG else 0.35


async def _to_quality(work: Work) -> Product:
    coder = work.coder
    if not work.duration or work.metric is None:
        return await _without_search(work)
    rate = require_video(work.job.media).frame_rate or 25.0
    samples = plan_samples(work.duration, coder.scoring_cost, rate)
    try:
        quality = work.job.parameters.quality
        search = Search(
            coder.curve,
            target=quality,
            aim=quality + _AIM_ABOVE,
            floor=min(quality, GIVES_WAY_TO),
            size_limit=_size_limit(work),
            start=coder.start_crf(quality + _AIM_ABOVE),
        )
        if not samples.starts and work.duration < SHORT:
            start = search.next_crf()
            assert start is not None
            return await _encode(work, search, Choice(start, search.aim, search.size_limit), True)
        await _probe(work, search, samples)
    except CommandFailed as error:
        if error.command.stage != "searching" or not error.kind.may_be_the_files:
            raise
        # A damaged film may not let itself be sampled and can still be encoded from its start.
        return await _without_search(work)
    if not search.points:
        return await _without_search(work)
    choice = search.choose()
    if choice is None:
        return await untouched(work)
    return await _encode(work, search, choice)


def _size_limit(work: Work) -> float:
    """Return the most bytes that the picture may take."""
    media = work.job.media
    by_rule = SIZE_RULE * source_video_bytes(media)
    return max(min(by_rule, media.size * 0.98 - work.other_bytes), 1.0)


async def _probe(work: Work, search: Search, samples: Samples) -> None:
    """Encode and score samples until the search knows enough or has taken its time."""
    every = _SPARSE if work.coder.scoring_cost >= 0.5 and work.pictures * samples.part > 40 else 1
    while (crf := search.next_crf()) is not None:
        encoded = await work.job.run(
            sample_command(
                work.job.media,
                work.job.capabilities,
                work.coder,
                {"crf": _number(crf)},
                name=_PROBE_FILE,
                size=work.size,
                samples=samples,
                share=work.share(0.1),
            )
        )
        score, scored = await work.score(
            _PROBE_FILE,
            samples,
            stage="searching",
            share=0.05,
            every=every,
            search=None if search.points else search,
        )
        work.probes += 1
        cost = encoded.elapsed + scored
        work.search_time += cost
        if score is None:
            return
        size = film_bytes(
            work.job.read(_PROBE_FILE),
            work.job.size_of(_PROBE_FILE),
            samples,
            require_video(work.job.media).frames,
        )
        below = _SAMPLES_BELOW if samples.starts else 0.0
        search.add(Point(crf, min(score + below, 100.0), size))
        allowed = time_limit(work.duration) * encoded.elapsed / samples.part
        reserve = 0.0
        if work.duration < _TOO_SHORT_TO_COUNT:
            continue
        if work.duration < SHORT and len(search.points) >= 2:
            reserve = cost / samples.part
        if work.search_time + cost + reserve > allowed * 0.9:
            return


def _number(crf: float) -> float | int:
    return int(crf) if crf == int(crf) else round(crf, 2)


# The film


async def _encode(work: Work, search: Search, choice: Choice, direct: bool = False) -> Product:
    """Encode the film; correct it when it is too large or, being short, misses the score.

    A `direct` one was not sampled before: its first encode is the first look, and looks are
    scored on some pictures until one is good.
    """
    everything = whole_film(work.duration)
    tried: list[_Film] = []
    while True:
        name, command = work.film({"crf": _number(choice.crf)}, share=0.65)
        encoded = await work.job.run(command)
        rough = direct and work.coder.scoring_cost >= 0.5 and work.pictures > 40
        measured, cost = None, encoded.elapsed
        if work.duration < SHORT:
            measured, scored = await work.score(
                name,
                everything,
                stage="scoring",
                share=0.8,
                every=_SPARSE if rough else 1,
                search=search if direct and not tried else None,
            )
            cost += scored
            if not direct and measured is not None and measured < choice.score - _UNPAIRED:
                measured = None
        film = _Film(name, choice, measured, work.job.size_of(name), encoded.elapsed)
        tried.append(film)
        better = _correction(work, search, film)
        usual = sum(film.encode_time for film in tried) / len(tried)
        # A film that was not sampled may be encoded far quicker the next time.
        allowed = time_limit(work.duration) * usual * (0.85 if direct else 0.99)
        in_time = work.search_time + cost <= allowed
        # One more look rather than none of the looks' work being of any use.
        in_time = in_time or (len(tried) == 2 and _best(work, search, tried) is None)
        in_time = in_time or work.duration < _TOO_SHORT_TO_COUNT
        too_large = film.written > work.largest
        if better is None or work.probes >= MAX_PROBES or not (in_time or too_large):
            break
        work.search_time += cost
        work.probes += 1
        choice = better
    best = _best(work, search, tried)
    if best is None:
        return await untouched(work)
    if rough and best.score is not None:
        score, _ = await work.score(best.name, everything, stage="scoring", share=0.8)
        best = replace(best, score=score)
    if best.choice.gave_way:
        work.job.warn(
            f"The quality {work.job.parameters.quality:g} takes about as many bytes as the source "
            "has; a lower one was chosen that makes the film smaller."
        )
    return work.product(best.name, _details(work, search, best))


@dataclass(frozen=True, slots=True)
class _Film:
    """The whole film as it was encoded by `choice`: its file, measured score, bytes, seconds."""

    name: str
    choice: Choice
    score: float | None
    written: int
    encode_time: float


def _best(work: Work, search: Search, tried: list[_Film]) -> _Film | None:
    """Return the film to deliver: the last one, or the smallest before it that is good when the
    last is not; None when none is good and small enough."""
    fitting = [film for film in tried if film.written <= work.largest]
    if not fitting:
        return None
    last = tried[-1]
    if last in fitting and (last.score is None or last.score >= search.target - _TOO_LOW):
        return last
    good = [f for f in fitting if f.score is not None and f.score >= search.target - _TOO_LOW]
    if good:
        return min(good, key=lambda film: film.written)
    nearly = [f for f in fitting if f.score is None or f.score >= search.floor - 1.0]
    return max(nearly, key=lambda film: film.score or 0.0) if nearly else None


def _correction(work: Work, search: Search, film: _Film) -> Choice | None:
    """Return what to encode with instead, None when the film is right or nothing is better."""
    choice, score = film.choice, film.score
    picture_bytes = max(film.written - work.other_bytes, 1.0)
    too_large = film.written > work.largest or picture_bytes > search.size_limit * 1.05
    wrong = score is not None and not _good(score, choice, search)
    if not (too_large or wrong or _wasteful(score, choice, search, picture_bytes)):
        return None
    search.calibrate(Point(choice.crf, choice.score if score is None else score, picture_bytes))
    better = search.choose()
    if better is None or abs(better.crf - choice.crf) < search.curve.step / 2:
        return None
    return better


def _good(measured: float, choice: Choice, search: Search) -> bool:
    if choice.gave_way:
        return measured >= search.floor - _TOO_LOW
    return -_TOO_LOW <= measured - search.target <= _TOO_HIGH


def _wasteful(measured: float | None, choice: Choice, search: Search, size: float) -> bool:
    """Whether a film gave up quality for its size and then became smaller than it had to."""
    if measured is None or not choice.gave_way:
        return False
    return measured < search.target - _TOO_LOW and size < search.size_limit * 0.93


def _details(work: Work, search: Search, film: _Film) -> dict[str, Any]:
    details: dict[str, Any] = {
        "crf": film.choice.crf,
        "metric": work.metric,
        "target_score": round(search.target, 2),
        "predicted_score": round(film.choice.score, 2),
    }
    if film.score is not None:
        details["measured_score"] = round(film.score, 2)
    details.update(
        target_lowered=film.choice.gave_way,
        probes=work.probes,
        search_time=round(work.search_time, 2),
        encode_time=round(film.encode_time, 2),
    )
    return details


async def _without_search(work: Work) -> Product:
    """Encode at the usual CRF of the quality, once more at a higher one if that was too large."""
    crf = work.coder.start_crf(work.job.parameters.quality)
    for more in (0.0, 5.0):
        wanted = min(crf + more, work.coder.curve.crf_range[1])
        crf_now = round(wanted) if work.coder.curve.step >= 1 else round(wanted, 1)
        name, command = work.film({"crf": _number(crf_now)}, share=0.7)
        encoded = await work.job.run(command)
        if work.job.size_of(name) <= work.largest:
            return work.product(
                name,
                {
                    "crf": crf_now,
                    "probes": 0,
                    "search_time": round(work.search_time, 2),
                    "encode_time": round(encoded.elapsed, 2),
                },
            )
    return await untouched(work)


# The film as it is


_CONTAINERS = {
    "mp4": ("mp4", "mp4"),
    "webm": ("webm", "webm"),
    "matroska": ("matroska", "mkv"),
    "avi": ("avi", "avi"),
    "mpegts": ("mpegts", "ts"),
    "flv": ("flv", "flv"),
    "mov": ("mov", "mov"),
    "asf": ("asf", "wmv"),
    "mpeg": ("mpeg", "mpg"),
    "ogg": ("ogg", "ogv"),
    "mxf": ("mxf", "mxf"),
    "gif": ("gif", "gif"),
}
"""A demuxer's name -> the muxer of the same kind of file, and the kind's name."""


async def untouched(work: Work) -> Product:
    """Return the source's own streams in their own container, or the source's very bytes when
    that is smaller or nothing else works."""
    job, media = work.job, work.job.media
    job.warn("The film is compressed as far as it can be without harm; it was left as it is.")
    video = require_video(media)
    muxer, kind = _container(work)
    if any(video.crop):
        muxer = None  # not every muxer writes the cropping down
    details: dict[str, Any] = {
        "codec": video.codec,
        "probes": work.probes,
        "search_time": round(work.search_time, 2),
        "encode_time": 0.0,
        "already_optimal": True,
    }
    name = f"untouched.{kind}"
    written = media.size
    if muxer is not None:
        try:
            await job.run(copy_command(media, name=name, container=muxer, share=work.share(0.5)))
            written = job.size_of(name)
        except CommandFailed as error:
            if not error.kind.may_be_the_files:
                raise
            written = media.size + 1
    if muxer is None or not 0 < written <= media.size:
        name, written = SOURCE, media.size
    details["percent_of_source"] = round(100 * written / media.size, 1)
    return Product(
        name,
        kind,
        Expectation(True, bool(media.audio), video.displayed_size, media.duration),
        details,
    )


def _container(work: Work) -> tuple[str | None, str]:
    """Return the muxer for the source's own container, None without one, and its media type."""
    media = work.job.media
    return _CONTAINERS.get(media.container_name, (None, media.container_name[:10]))
