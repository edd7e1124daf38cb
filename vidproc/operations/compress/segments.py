"""Encoding a video in segments, one command each, and joining them without loss.

Segments touch each other exactly: all inputs count time from the same moment, and one number of
seconds ends a segment and begins the next, whatever the video's timestamps are. A segment is scored
against the very stretch of the source that it was made from. Joining copies packets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import ffmpeg
from ffmpeg.nodes import FilterableStream, OutputStream

from vidproc.ffmpeg.command import SOURCE, Command, ffmpeg_command, input_file, output_file
from vidproc.ffmpeg.media import MediaInfo
from vidproc.operations.compress.encode import joined_parameters
from vidproc.operations.compress.scoring import PAIRING_RATE, mapping_memory, measured, numbered
from vidproc.operations.compress.shots import TICKS, Shot
from vidproc.operations.compress.work import Work
from vidproc.operations.delivery import (
    Delivery,
    deliver,
    encoding_memory,
)
from vidproc.operations.frames import as_shown, normalised, require_video
from vidproc.operations.reading import NO_SEEK, SAFE_INPUT, seconds, source

MOST = 8
"""Segments at once: more need memory."""
_MOST_PIXELS = 16_000_000
"""Pixels of the frames of all segments at once, for the same reason; two are always allowed."""
_SEEKABLE = ("mp4", "matroska")  # demuxers that never land behind the moment asked for
_LEAD = 0.5  # seconds read before a segment, for a deinterlacer needs the frames before it
_LEAST_RATE = 5.0  # frames/s below which a segment might have none
_LIST = "shots.ffconcat"


def possible(media: MediaInfo) -> bool:
    """Return whether a video can be encoded in segments."""
    video = require_video(media)
    return (
        not media.ends_early
        and video.duration is not None
        and (video.frame_rate or 0.0) >= _LEAST_RATE
        and video.start_time <= NO_SEEK
        and any(name in media.container.split(",") for name in _SEEKABLE)
    )


def at_once(work: Work, waiting: int = 0) -> int:
    """Return how many segments are encoded at once: more than cores, so that none stays idle.

    A cluster gets all of those that are `waiting`, and lets them wait for its cores.
    """
    pixels = work.size[0] * work.size[1]
    here = max(2, min(2 * work.job.threads, MOST, _MOST_PIXELS // pixels))
    spare = work.job.capabilities.spare_cores
    return max(here, 2 * spare, waiting if spare >= 2 else 0)


def encode_command(
    work: Work,
    shot: Shot,
    crf: float,
    name: str,
    *,
    stage: str,
    weight: float,
    zones: Sequence[tuple[int, float]] = (),
) -> Command:
    """Return the command that encodes a shot's video alone into the MP4 file `name`, which can be
    joined.

    `zones` are the frames from which the CRF differs from `crf`, and by how much.
    """
    zoned = work.video_encoder.zone_options(zones, follows=shot.start > 0)
    options = {**_options(work, crf, zoned), "format": "mp4", "video_track_timescale": TICKS}
    graph = ffmpeg.output(_video(work, shot), output_file(name), **options)
    return _encoding(work, shot, graph, stage=stage, weight=weight, encoders=1)


def sample_command(
    work: Work, sample: Shot, files: Sequence[tuple[str, float]], *, weight: float
) -> Command:
    """Return the command that encodes a sample of a shot at several CRFs, decoding it once: into
    the Matroska files, whose frames' sizes can be read, that `files` name with their CRFs."""
    streams = _video(work, sample).filter_multi_output("split", len(files))
    outputs = []
    for number, (name, crf) in enumerate(files):
        options = {**_options(work, crf, {}), "format": "matroska"}
        options.pop("tag:v", None)
        outputs.append(ffmpeg.output(streams.stream(number), output_file(name), **options))
    graph = ffmpeg.merge_outputs(*outputs)
    return _encoding(work, sample, graph, stage="searching", weight=weight, encoders=len(files))


def _options(work: Work, crf: float, zoned: Mapping[str, object]) -> dict[str, object]:
    encoder = work.video_encoder
    rate = joined_parameters(encoder.rate(crf), zoned)
    return {
        **encoder.output_options(joined_parameters(encoder.joinable or {}, rate)),
        "fps_mode": "vfr",
        "enc_time_base": f"1:{TICKS}",
        "threads": 1,
        "filter_complex_threads": 1,
        "map_metadata": -1,
        "abort_on": "empty_output",
    }


def _encoding(
    work: Work, shot: Shot, graph: OutputStream, *, stage: str, weight: float, encoders: int
) -> Command:
    return ffmpeg_command(
        graph,
        stage=stage,
        duration=shot.length,
        weight=weight,
        cpus=1.0,
        memory=encoders * _memory(work),
        part=work.parts.get((shot.start, shot.end)),
    )


def score_command(
    work: Work,
    shot: Shot,
    names: Sequence[str],
    *,
    stage: str,
    weight: float,
    every: int,
    skipped: int = 0,
) -> Command:
    """Return the command that scores encodes of a shot, decoding the source once, without their
    `skipped` first frames."""
    pixels, capabilities = work.video_encoder.pixels, work.job.capabilities
    video = require_video(work.job.media)

    def ready(stream: FilterableStream) -> FilterableStream:
        if skipped:
            stream = stream.filter("trim", start_frame=skipped)
        return numbered(as_shown(stream, video, capabilities, pixels))

    sources = ready(_video(work, shot)).filter_multi_output("split", len(names))
    results = []
    for number, name in enumerate(names):
        encoded = ffmpeg.input(input_file(name), threads=1)["v:0"].filter("format", pixels.format)
        pair = [ready(encoded), sources.stream(number)]
        compared = ffmpeg.filter(pair, "libvmaf", shortest=1, n_threads=1, n_subsample=every)
        results.append(measured(compared, 1))
    rate = video.frame_rate or PAIRING_RATE
    memory = encoding_memory(work.size) + mapping_memory(video, work.size, pixels)
    return ffmpeg_command(
        results[0] if len(results) == 1 else ffmpeg.merge_outputs(*results),
        stage=stage,
        duration=shot.length * rate / PAIRING_RATE,
        weight=weight,
        cpus=1.0,
        memory=len(names) * memory,
        part=work.parts.get((shot.start, shot.end)),
    )


def join_command(
    work: Work, files: Sequence[tuple[Shot, str]], name: str, weight: float
) -> Command:
    """Return the command that joins segments, with the video's audio, into the MP4 file `name`."""
    media = work.job.media
    lines = ["ffconcat version 1.0"]
    for shot, file in files:
        # Without an inpoint the first frame would be moved to the segment's very start.
        lines += [f"file {file}", "inpoint 0", f"duration {seconds(shot.length)}"]
    listing = "\n".join([*lines, ""]).encode()
    joined = ffmpeg.input(
        input_file(_LIST),
        format="concat",
        protocol_whitelist="file",
        format_whitelist="concat,mov,mp4,m4a,3gp,3g2,mj2",
    )["0"]
    video: dict[str, object] = {"c:v": "copy", "video_track_timescale": TICKS}
    if "tag:v" in work.video_encoder.options:
        video["tag:v"] = work.video_encoder.options["tag:v"]
    delivery = Delivery(name, "mp4", video, work.tracks)
    return ffmpeg_command(
        deliver(source(media), media, joined, delivery),
        stage="joining",
        duration=media.duration,
        weight=weight,
        files=((_LIST, listing),),
        reads=tuple(file for _, file in files),
        near=True,
    )


def _video(work: Work, shot: Shot) -> FilterableStream:
    """Return the clean video of a shot, its times counted from the shot's start."""
    media = work.job.media
    place: dict[str, object] = {}
    at = shot.start + shot.lead
    if require_video(media).interlaced:
        at = shot.start - _LEAD
    at = round(max(0.0, at), 6)
    if at:
        # Together they shift all inputs' times by the same, to the microsecond. Reading begins at
        # the keyframe before; `trim` finds the first frame, more exactly than a seek does.
        place = {"ss": seconds(at), "itsoffset": seconds(at), "noaccurate_seek": None}
    node = ffmpeg.input(input_file(SOURCE), **SAFE_INPUT, threads=1, **place)

    def exactly(stream: FilterableStream) -> FilterableStream:
        ends: dict[str, object] = {} if shot.last else {"end": seconds(shot.end)}
        if shot.start:
            ends["start"] = seconds(shot.start)
        stream = stream.filter("trim", **ends) if ends else stream
        if shot.gap is not None:
            left_out = f"gte(t,{seconds(shot.gap[0])})*lt(t,{seconds(shot.gap[1])})"
            rate = require_video(media).frame_rate or PAIRING_RATE
            stream = stream.filter("select", f"not({left_out})")
            return stream.filter("settb", f"1/{TICKS}").filter("setpts", f"N/({rate}*TB)")
        stream = stream.filter("settb", f"1/{TICKS}")
        if not shot.start:
            return stream.filter("setpts", "if(eq(N,0),0,PTS)")
        return stream.filter("setpts", f"max(PTS-{round(shot.start * TICKS)},0)")

    return normalised(
        node,
        media,
        work.job.capabilities,
        work.size,
        pixels=work.video_encoder.pixels,
        sample=exactly,
    )


def _memory(work: Work) -> int:
    video = require_video(work.job.media)
    decoded = encoding_memory(work.size, (video.width, video.height))
    return int(decoded * work.video_encoder.memory_factor)
