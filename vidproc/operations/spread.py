"""One film over many machines: cut into segments that are encoded anywhere, checked and joined.

A survey (`vidproc.ffmpeg.survey`) places the cuts between two frames, near keyframes where there
are some, and says which frames each segment must have and which bytes of the source that takes. A
segment is a command of its own, with its own encoder settings, for one core. Finished segments are
counted: one with other frames than it must have is encoded again from the whole source, and if that
does not help, the film is encoded as a whole. Joining copies packets and keeps their times; audio
and subtitles are taken from the source at that point, as a whole.

    lengths = spread.divide(media, duration, job.capabilities.spare_cores)
    film = await spread.cut(job, lengths, tick=spread.tick_for(media))
    if film is not None:
        join = spread.with_join(command_that_copies(film.joined()), film)
        encoded = await spread.encode(job, film, command_for, [join])
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial

import ffmpeg
from ffmpeg.nodes import FilterableStream

from vidproc.ffmpeg.command import (
    SOURCE,
    THREADS,
    Command,
    CommandFailed,
    Completed,
    Part,
    ffmpeg_command,
    input_file,
    output_file,
)
from vidproc.ffmpeg.media import MediaInfo
from vidproc.ffmpeg.survey import (
    Counted,
    Stretch,
    SurveyFailed,
    check_command,
    parse_check,
    parse_survey,
    survey_command,
)
from vidproc.operations import frames, reading, segments
from vidproc.operations.base import Job, P
from vidproc.topics import Topic, TopicLogger

LEAST_FILM = 30.0
"""Seconds of the shortest film that is cut for a cluster."""
LEAST = 4.0
"""The shortest segment, in seconds."""
MOST = 1000
"""The most segments of a film."""
FINEST = 16
"""The shortest segment that is worth it is so much shorter than a core's part of the film."""
LIST = "segments.ffconcat"
"""The name of the file that lists the segments for FFmpeg."""
SURVEYING, JOINING = 0.01, 0.03
"""The weights of the survey and of the join in the progress of an encode."""

_SNAP = 0.2  # of a segment's length: how far a cut may move to a keyframe
_FAR_SNAP = 0.35  # the same where shorter segments even it out
_LEAD = 0.5  # seconds that a deinterlacer has before a segment
_CAREFUL_LEAD = 10.0  # the same for a segment that is encoded again
_LEAST_TIMESCALE = 10_000  # as FFmpeg's: less is too coarse for some players
_GRID_RATE = 23.0  # frames/s from which times are put on the grid of a constant rate

FINE = Fraction(1, 90_000)
"""Ticks in seconds, for times that follow no grid."""

log = TopicLogger(Topic.TASKS)


@dataclass(frozen=True, slots=True)
class Segment:
    """A segment: the `stretch` of the film that it has, and `shift`, the moment in ticks that is
    its time 0. `from_zero` moves its first frame there."""

    number: int
    stretch: Stretch
    shift: int
    from_zero: bool = False

    @property
    def file(self) -> str:
        """The name of its file."""
        return f"segment-{self.number}.mp4"

    @property
    def expected(self) -> tuple[int, int, int]:
        """The number of its frames, and the times of the first and last one in its file."""
        first = 0 if self.from_zero else self.stretch.first - self.shift
        return self.stretch.frames, first, self.stretch.last - self.shift


@dataclass(frozen=True, slots=True)
class Film:
    """A film that is cut into `segments`. `tick` is the length of a tick in seconds; `duration` is
    that of all of them; `end` is where a clip ends, in seconds from the container's start."""

    media: MediaInfo
    segments: tuple[Segment, ...]
    tick: Fraction
    duration: float
    end: float | None = None

    @property
    def files(self) -> tuple[str, ...]:
        """The names of the segments' files."""
        return tuple(segment.file for segment in self.segments)

    @property
    def timescale(self) -> int:
        """The time scale of MP4 files, in which ticks are whole."""
        scale = self.tick.denominator
        while scale < _LEAST_TIMESCALE:
            scale *= 2
        return scale

    def length(self, segment: Segment) -> float:
        """Return the length of a segment in seconds."""
        stretch = segment.stretch
        end = stretch.end if stretch.end is not None else self.segments[0].stretch.start
        if stretch.end is None:
            end += self.duration
        return max(end - stretch.start, float(self.tick))

    def encoding_weight(self, segment: Segment) -> float:
        """Return a segment's part of the progress, where encoding has what surveying and joining
        leave."""
        return (1 - SURVEYING - JOINING) * self.length(segment) / self.duration

    @property
    def listing(self) -> bytes:
        """The contents of `LIST`: the segments in order, with their lengths.

        Lengths are in microseconds, and rounded so that their sum does not drift.
        """
        lines = ["ffconcat version 1.0"]
        starts = [_microseconds(segment.shift * self.tick) for segment in self.segments]
        for segment, start, end in zip(self.segments, starts, [*starts[1:], None], strict=True):
            # Without an inpoint the first frame would be moved to the start of the segment.
            lines += [f"file {segment.file}", "inpoint 0"]
            if end is not None:
                lines.append(f"duration {end - start}us")
        return "\n".join([*lines, ""]).encode()

    def joined(self) -> FilterableStream:
        """Return the video stream of the joined segments, to be copied."""
        # FFmpeg moves the start of each input to 0; the video may begin after the audio.
        _, first, _ = self.segments[0].expected
        options = {}
        if first:
            options["itsoffset"] = f"{_microseconds(first * self.tick)}us"
        node = ffmpeg.input(
            input_file(LIST),
            format="concat",
            protocol_whitelist="file",
            format_whitelist="concat,mov,mp4,m4a,3gp,3g2,mj2",
            **options,
        )
        return node["0"]


def _microseconds(seconds: Fraction) -> int:
    return int((seconds * 1_000_000 + Fraction(1, 2)) // 1)


def tick_for(media: MediaInfo) -> Fraction:
    """Return the ticks, in seconds, of a film in MP4: a frame of a constant rate, which removes the
    rounding of the source's times, else 1/90000."""
    video = frames.require_video(media)
    rate = video.frame_rate or 0.0
    if video.constant_rate and rate >= _GRID_RATE:
        exact = Fraction(rate).limit_denominator(1001)
        if exact.denominator in (1, 1001) and abs(exact - Fraction(rate)) < 1e-4:
            return 1 / exact
    return FINE


def divide(media: MediaInfo, length: float | None, cores: int) -> list[float]:
    """Return the lengths in seconds of the segments into which `length` seconds of a film are cut
    for so many cores; an empty list if it must stay whole.

    Each core first gets half of what would be its part, then half of what is left, and so on: some
    segments take longer than others of their length, and the short ones that come last even it
    out.
    """
    if length is None or length < LEAST_FILM or cores < 2 or not segments.possible(media):
        return []
    cores = max(2, min(cores, int(length / LEAST), MOST))
    least = max(LEAST, length / cores / FINEST)
    left = length
    found: list[float] = []
    while left / (2 * cores) >= least and len(found) + 3 * cores <= MOST:
        found += [left / (2 * cores)] * cores
        left -= left / 2
    rest = cores if len(found) + cores <= MOST else MOST - len(found)
    return [*found, *[left / rest] * rest]


async def cut(
    job: Job[P],
    lengths: Sequence[float],
    *,
    tick: Fraction,
    start: float = 0.0,
    length: float | None = None,
) -> Film | None:
    """Return the film cut into segments of about these `lengths` in seconds; None if it must stay
    whole.

    A clip begins at `start` (seconds from the container's start) and has `length` seconds; its
    first frame is moved to 0. Without `length` it is the whole film, with its times.
    """
    media = job.media
    video = frames.require_video(media)
    if len(lengths) < 2 or video.duration is None:
        return None
    begin = start if length is not None else video.start_time
    shown = video.start_time + video.duration - begin
    if length is not None:
        shown = min(length, shown)
    scale = shown / sum(lengths)
    snap = _FAR_SNAP if lengths[-1] < lengths[0] else _SNAP
    ends = itertools.accumulate(scale * each for each in lengths[:-1])
    command = survey_command(
        media,
        [begin + end for end in ends],
        tick=tick,
        start=start,
        end=None if length is None else start + length,
        snap=[snap * scale * min(pair) for pair in itertools.pairwise(lengths)],
        least=scale * min(lengths) / 2,
        lead=_LEAD if video.interlaced else 0.0,
        weight=SURVEYING,
    )
    try:
        found = await job.run(command)
        stretches, _ = parse_survey(found.stdout)
    except (CommandFailed, SurveyFailed) as error:
        if isinstance(error, CommandFailed) and not error.kind.may_be_the_files:
            raise
        log.info("not cut into segments: {error}", error=str(error))
        return None
    if len(stretches) < 2:
        return None
    clip = length is not None
    origin = int(Fraction(start) / tick + Fraction(1, 2)) if clip else 0
    shifts = [origin, *(stretch.first for stretch in stretches[1:])]
    made = tuple(
        Segment(number, stretch, shift, from_zero=clip or number > 0)
        for number, (stretch, shift) in enumerate(zip(stretches, shifts, strict=True))
    )
    return Film(media, made, tick, shown, start + length if length is not None else None)


Scaled = Callable[[reading.Source, frames.Sample], FilterableStream]
"""Returns the video at its size from an input node and a function that selects frames (`sample` of
`frames.normalised`)."""


def encode_command(
    film: Film,
    segment: Segment,
    scaled: Scaled,
    options: dict[str, object],
    *,
    memory: int,
    weight: float,
    careful: bool = False,
) -> Command:
    """Return the command that encodes a segment; `options` are the encoder's, `memory` is in bytes.

    `careful` decodes from an earlier moment, and reads the whole source for it.
    """
    stretch = segment.stretch
    at = stretch.at
    if careful and at is not None:
        at = at - _CAREFUL_LEAD if at > _CAREFUL_LEAD else None
    graph = ffmpeg.output(
        source_frames(film, segment, scaled, at),
        output_file(segment.file),
        **{
            "format": "mp4",
            "fps_mode": "vfr",
            "enc_time_base": f"{film.tick.numerator}:{film.tick.denominator}",
            "video_track_timescale": film.timescale,
            "threads": THREADS,
            "filter_complex_threads": THREADS,
            "map_metadata": -1,
            "map_chapters": -1,
            "abort_on": "empty_output",
            **options,
        },
    )
    return ffmpeg_command(
        graph,
        stage="encoding",
        duration=film.length(segment),
        weight=weight,
        cpus=1.0,
        memory=memory,
        part=Part(at or 0.0, stretch.end) if careful else stretch.part(film.media.size),
    )


def source_frames(
    film: Film, segment: Segment, scaled: Scaled, at: float | None
) -> FilterableStream:
    """Return the frames of the source that a segment has, decoded from `at` on."""
    place: dict[str, object] = {}
    if at is not None:
        # Times stay those of the whole film, and frames from the keyframe on go to the filters.
        moment = reading.seconds(at)
        place = {"noaccurate_seek": None, "ss": moment, "itsoffset": moment}
    node = ffmpeg.input(input_file(SOURCE), **reading.SAFE_INPUT, threads=f"{THREADS}+1", **place)
    return scaled(node, partial(_exactly, film, segment))


def _exactly(film: Film, segment: Segment, stream: FilterableStream) -> FilterableStream:
    """Keep a segment's frames, with times from its start."""
    ends: dict[str, object] = {}
    end = segment.stretch.end if segment.stretch.end is not None else film.end
    if end is not None:
        ends["end"] = reading.seconds(end)
    if segment.from_zero:
        ends["start"] = reading.seconds(segment.stretch.start)
    if ends:
        stream = stream.filter("trim", **ends)
    stream = stream.filter("settb", f"{film.tick.numerator}/{film.tick.denominator}")
    if not segment.from_zero:
        return stream
    moved = f"max(PTS-{segment.shift},0)"
    return stream.filter("setpts", f"if(eq(N,0),0,{moved})")


@dataclass(frozen=True, slots=True)
class Encoded:
    """A film whose segments are right: what their encodes took, and the results of the commands
    that read them."""

    encodes: list[Completed]
    readers: list[Completed]


async def encode(
    job: Job[P],
    film: Film,
    command_for: Callable[[Segment, bool], Command],
    readers: Sequence[Command],
) -> Encoded | None:
    """Encode and check all segments, and run the `readers`: the commands that read them, such as
    the join. Return None if the film must be encoded as a whole.

    `command_for` returns the command for a segment, a careful one (see `encode_command`) for its
    second encode. The readers run while the segments are checked, and again if one was wrong.
    Raises `CommandStopped`, and `CommandFailed` for failures that the file did not cause.
    """
    waiting: Sequence[Segment] = film.segments
    counted: dict[int, Counted] = {}
    done: list[Completed] = []
    try:
        for careful in (False, True):
            done += await job.run_together([command_for(segment, careful) for segment in waiting])
            found, read = await _check(job, film, waiting, readers)
            counted |= found
            waiting = [each for each in waiting if not right(film, each, counted[each.number])]
            if not waiting:
                break
            for segment in waiting:
                log.warn(
                    "segment {number} has other frames than it must: {found}, not {expected}",
                    number=segment.number,
                    found=counted[segment.number],
                    expected=segment.expected,
                )
        if waiting:
            return None
        if len({each.headers for each in counted.values()}) > 1:
            log.warn("the segments' headers differ: they can't be joined")
            return None
        if read is None:
            read = await job.run_together(readers)
    except SurveyFailed as error:
        log.warn("the segments can't be checked: {error}", error=str(error))
        return None
    except CommandFailed as error:
        if not error.kind.may_be_the_files:
            raise
        log.warn("a segment can't be encoded or joined: {error}", error=str(error))
        return None
    return Encoded(done, read)


async def _check(
    job: Job[P], film: Film, encoded: Sequence[Segment], readers: Sequence[Command]
) -> tuple[dict[int, Counted], list[Completed] | None]:
    """Count the frames of segments, and run the readers meanwhile. Return what was counted, by the
    segments' numbers, and the readers' results, None if they failed."""
    files = [segment.file for segment in encoded]
    check = check_command(files, tick=film.tick)
    read: list[Completed] | None
    try:
        found, *read = await job.run_together([check, *readers])
    except CommandFailed as error:
        if not error.kind.may_be_the_files:
            raise
        # If a segment is wrong, that is why.
        found, read = await job.run(check), None
    counted = parse_check(found.stdout, len(files))
    return {each.number: one for each, one in zip(encoded, counted, strict=True)}, read


def right(film: Film, segment: Segment, found: Counted) -> bool:
    """Return whether a segment has the frames that it must have, at their times."""
    frames_expected, first, last = segment.expected
    # Times in finer ticks than frames are rounded on the way, at most to the next tick.
    off = 0 if film.tick > Fraction(1, 1000) else 1
    return (
        found.rising
        and found.frames == found.packets == frames_expected
        and abs(found.first - first) <= off
        and abs(found.last - last) <= off
    )


def with_join(command: Command, film: Film) -> Command:
    """Return a command that reads `film.joined()`, with the files that this takes."""
    return replace(
        command,
        files=(*command.files, (LIST, film.listing)),
        reads=(*command.reads, *film.files),
        near=True,
    )
