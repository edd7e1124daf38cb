"""Which bytes of a film its segments fetch, computed without running them.

    python -m benchmarks.cluster_bytes FILM... [--cores 2] [--segments]

Each film is surveyed and cut as for a cluster with so many free cores. A segment's share is its
part of the film's bytes, by length.

apart     what all segments fetch, over the film's size, if each has a worker of its own
together  the same with a worker for each core, which keeps what it has fetched
most      the bytes of the segment that fetches the most of its share, over its share

--segments prints each of them.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

from support.job import RealJob
from vidproc.cluster.digest import DIGEST_SIZE, block_size
from vidproc.cluster.scratch import missing
from vidproc.operations import frames, spread


class Disk:
    """What a worker has fetched of a film."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._block = block_size(size)
        self._count = -(-size // self._block)
        self._present: set[int] = set()

    def fetch(self, ranges: list[tuple[int, int]] | None) -> int:
        """Fetch what is missing; return how many bytes that takes."""
        fetched = 0 if self._present else self._count * DIGEST_SIZE
        for first, last in missing(
            ranges or [(0, self._size)], self._block, self._count, self._present
        ):
            self._present.update(range(first, last))
            fetched += min(last * self._block, self._size) - first * self._block
        return fetched


def cut(path: Path, cores: int) -> spread.Film | None:
    """Survey a film and cut it."""
    with tempfile.TemporaryDirectory() as folder:
        job: Any = RealJob(path, Path(folder), None)
        length = frames.require_video(job.media).duration
        lengths = spread.divide(job.media, length, cores)
        cutting = spread.cut(job, lengths, tick=spread.tick_for(job.media))
        try:
            cutting.send(None)
        except StopIteration as done:
            film: spread.Film | None = done.value
            return film
    raise RuntimeError("the survey waited for something")


def report(path: Path, cores: int, each: bool) -> None:
    """Print what the segments of a film fetch."""
    film = cut(path, cores)
    if film is None:
        print(f"{path.name:<20} stays whole")
        return
    size = film.media.size
    disks = [Disk(size) for _ in range(cores)]
    busy = [0.0] * cores
    apart = together = 0
    most = 0.0
    # The longest are encoded first.
    for segment in sorted(film.segments, key=film.length, reverse=True):
        length, ranges = film.length(segment), segment.stretch.ranges
        share = size * length / film.duration
        alone = Disk(size).fetch(ranges)
        apart += alone
        core = busy.index(min(busy))
        busy[core] += length
        together += disks[core].fetch(ranges)
        most = max(most, alone / share)
        if each:
            named = size if ranges is None else sum(end - start for start, end in ranges)
            print(
                f"    {segment.stretch.start:8.2f} s, {length:6.2f} s long, from"
                f" {segment.stretch.at or 0.0:8.2f} s: needs {named / share:5.2f} of its share,"
                f" fetches {alone / share:5.2f}"
            )
    print(
        f"{path.name:<20}{size / 1e6:8.1f} MB{len(film.segments):4d} segments, the last core"
        f" {max(busy) * cores / sum(busy):.2f} of its part: apart {apart / size:.3f},"
        f" together {together / size:.3f}, most {most:.2f}"
    )


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("films", nargs="+", type=Path)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--segments", action="store_true")
    options = parser.parse_args()
    for path in options.films:
        report(path, options.cores, options.segments)
    return 0


if __name__ == "__main__":
    sys.exit(main())
