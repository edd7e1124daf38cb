"""Clips of videos that show a frame for long, such as recordings of a screen.

FFmpeg's cut begins with the first frame after the start, and ends where the last frame's own
duration ends. Here it begins with the frame that is being shown, and lasts as long as was asked.
"""

from __future__ import annotations

import ffmpeg
from ffmpeg.nodes import FilterableStream

from vidproc.ffmpeg.media import MediaInfo, VideoStream
from vidproc.operations import clips, frames, reading

_LONG = 0.5
"""Seconds: a frame is shown for that long in recordings of a screen, not in what cameras make."""
_LEAD = 10.0
"""Seconds that are read before the start to find the frame that is shown there."""
_ROUNDING = 0.001
"""Seconds: containers round times."""
_LAST = 0.04
"""Seconds before its end at which a clip has a frame in any case."""
_MARK = 20_000_000.0
"""Seconds, longer than any video: the time of the frame at the end until it gets its own."""
_MOST = 100_000.0
"""Seconds: FFmpeg has no lower frame rate than about one in ten times that."""
_MICROSECONDS = "1/1000000"


def shows_for_long(video: VideoStream, clip: clips.Clip) -> bool:
    """Return whether a frame of the clip may be shown for long."""
    longest = video.longest_interval
    return longest is not None and longest > _LONG and clip.length < _MOST


def source(media: MediaInfo, clip: clips.Clip) -> reading.Source:
    """Return an input node for the video of a clip alone, which `sample` shortens."""
    lead = min(clip.start, _LEAD)
    return reading.source(media, start=clip.start - lead, duration=clip.length + lead)


def sample(clip: clips.Clip) -> frames.Sample:
    """Return what turns the frames of `source` into those of the clip, from 0."""
    lead = min(clip.start, _LEAD)
    end = max(0.0, clip.length - _LAST)

    def cut(stream: FilterableStream) -> FilterableStream:
        first, rest, last = (stream.split()[number] for number in range(3))
        rest = rest.filter("trim", start=reading.seconds(lead + _ROUNDING))
        rest = rest.filter("settb", _MICROSECONDS).filter("setpts", f"PTS-{round(lead * 1e6)}")
        begun = ffmpeg.filter([_shown(first, lead, 0.0), rest], "interleave", nb_inputs=2)
        # Not interleaved, too, since all frames would wait for this one.
        whole = ffmpeg.concat(begun, _shown(last, lead + end, _MARK), n=2, v=1, a=0)
        whole = whole.filter("settb", _MICROSECONDS)
        whole = whole.filter("setpts", f"if(gte(T,{_MARK}),{round(end * 1e6)},PTS)")
        return whole.filter("select", "isnan(prev_selected_pts)+gt(pts,prev_selected_pts)")

    return cut


def _shown(stream: FilterableStream, at: float, becomes: float) -> FilterableStream:
    """Return the frame that is shown at a time, as one frame at another time; in seconds.

    At one frame in that time, rounded up, all frames up to there are one: the last of them.
    """
    until = at + _ROUNDING
    stream = stream.filter("fps", fps=f"1000000/{round(until * 1e6)}", round="up", start_time=0)
    stream = stream.filter("trim", start_frame=1, end_frame=2)
    return stream.filter("settb", _MICROSECONDS).filter("setpts", f"{round(becomes * 1e6)}")


def lasting(clip: clips.Clip) -> dict[str, str]:
    """Return output options with which the last frame is shown until the clip ends."""
    rest = f"{reading.seconds(clip.length)}/TB-PTS"
    last = f"if(eq(NEXT_PTS\\,NOPTS)\\,{rest}\\,min(DURATION\\,{rest}))"
    return {"bsf:v": f"setts=duration={last}"}
