"""How many bytes the source spends on each stretch of its video.

A sample does not tell how busy the rest of its shot is. The source's own encoder has seen all of
it: the bytes of its packets tell how the rest differs from the sample.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

from vidproc.operations.compress.shots import Shot

FILE = "packets.framecrc"
"""The file of the packets, as FFmpeg's muxer `framecrc` writes it."""
_FROM_SOURCE = 0.25
"""The weight of the source in a shot's size, against that of the sample."""
_FARTHEST = 2.0
"""The most that a shot may differ from its sample: a factor, or one over it."""


@dataclass(frozen=True, slots=True)
class SourceRate:
    """The packets of a video in order of time: `times` are in seconds from the first, `sums` holds
    the bytes of all packets before each, and one more at the end."""

    times: Sequence[float]
    sums: Sequence[int]

    def per_frame(self, shot: Shot) -> float:
        """Return the mean bytes of a shot's packets, 0 where there are none."""
        frames, total = 0, 0
        for start, end in shot.stretches:
            first = bisect_left(self.times, start) if start else 0
            after = len(self.times) if shot.last else bisect_left(self.times, end)
            frames += after - first
            total += self.sums[after] - self.sums[first]
        return total / frames if frames > 0 else 0.0

    def first_frame(self, shot: Shot) -> int:
        """Return the number of a shot's first frame in the video."""
        return bisect_left(self.times, shot.start) if shot.start else 0

    def ratio(self, shot: Shot, sample: Shot) -> float:
        """Return how much busier a shot is than its sample: bytes per frame over bytes per frame,
        between 1/2 and 2; 1 where it is not known."""
        whole, fraction = self.per_frame(shot), self.per_frame(sample)
        if not whole or not fraction:
            return 1.0
        return min(max(whole / fraction, 1 / _FARTHEST), _FARTHEST)

    def corrected(self, shots: Sequence[tuple[Shot, Shot, float]]) -> list[float]:
        """Return the sizes of shots, given as (shot, its sample, its bytes by the sample).

        A shot's size is a weighted geometric mean of two estimates, each with an error of its own:
        what the sample says, times how much busier the shot is, and a part of all shots' bytes as
        large as the shot's part of the source. Without packets it is what the sample says.
        """
        sampled = [size * self.ratio(shot, sample) for shot, sample, size in shots]
        sources = [self.per_frame(shot) * shot.length for shot, _, _ in shots]
        if not all(sources):
            return sampled
        scale = sum(sampled) / sum(sources)
        means = [
            math.pow(a, 1 - _FROM_SOURCE) * math.pow(b * scale, _FROM_SOURCE)
            for a, b in zip(sampled, sources, strict=True)
        ]
        return [mean * sum(sampled) / sum(means) for mean in means]


def parse_packets(data: bytes) -> SourceRate:
    """Return what a `framecrc` file of one stream tells; of one that is cut short, what is there.

    Its lines are: stream, decoding time, presentation time, duration, size, checksum, flags.
    """
    seconds, found = 0.0, []
    for line in data.splitlines():
        if line.startswith(b"#tb 0:"):
            above, _, below = line.partition(b":")[2].partition(b"/")
            if above.strip().isdigit() and below.strip().isdigit():
                seconds = int(above) / max(int(below), 1)
            continue
        fields = line.split(b",")
        if line.startswith(b"#") or len(fields) < 6:
            continue
        try:
            found.append((int(fields[2]) * seconds, int(fields[4])))
        except ValueError:
            continue  # a packet without a time
    found.sort()
    times = [time - found[0][0] for time, _ in found]
    sums = [0]
    for _, size in found:
        sums.append(sums[-1] + size)
    return SourceRate(times, sums)
