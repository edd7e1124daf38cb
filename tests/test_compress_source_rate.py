"""How the source's packets correct what a sample says about its shot."""

from __future__ import annotations

from pathlib import Path

import av
from twisted.trial.unittest import SynchronousTestCase

from support.job import RealJob, probe
from vidproc.ffmpeg.command import Command
from vidproc.operations.compress import shots, source_rate
from vidproc.operations.compress.shots import Shot
from vidproc.operations.compress.source_rate import SourceRate, parse_packets
from vidproc.operations.parameters import Compress

CLIP = Path(__file__).parent / "media" / "flower-540p-aac.mp4"
LISTING = b"""#software: made up
#tb 0: 1/10
#media_type 0: video
0,         -1,          0,        1,     1000, 0x31acddc0
0,          0,          2,        1,      300, 0x0f1052af, F=0x0
0,          1,          1,        1,      100, 0x68385e23, F=0x0
0,          2,          3,        1,      200, 0x68385e23, F=0x0
"""


class SourceRateTests(SynchronousTestCase):
    def test_it_knows_every_packet_of_a_real_film(self) -> None:
        """Times and sizes are those that another reader of the file finds."""
        folder = Path(self.mktemp())
        folder.mkdir()
        job = RealJob(CLIP, folder, Compress(), media=probe(CLIP))
        wait_for_command(job, shots.cuts_command(job.media, packets=source_rate.FILE, weight=1.0))
        found = parse_packets(job.path_of(source_rate.FILE).read_bytes())
        with av.open(str(CLIP)) as container:
            stream = container.streams.video[0]
            assert stream.time_base is not None
            packets = sorted(
                (float(packet.pts * stream.time_base), packet.size)
                for packet in container.demux(stream)
                if packet.pts is not None
            )
        self.assertEqual(found.sums[-1], sum(size for _, size in packets))
        self.assertEqual(len(found.times), len(packets))
        for have, (want, _) in zip(found.times, packets, strict=True):
            self.assertApproximates(have, want - packets[0][0], 1e-4)

    def test_packets_are_counted_by_when_they_are_shown(self) -> None:
        rate = parse_packets(LISTING)
        self.assertEqual(rate.sums, [0, 1000, 1100, 1400, 1600])
        self.assertEqual(rate.per_frame(Shot(0, 0.05, 0.25)), 200.0)
        self.assertEqual(rate.per_frame(Shot(0, 0.05, 0.1, last=True)), 200.0)

    def test_a_busy_rest_counts_double_at_most(self) -> None:
        rate = parse_packets(LISTING)
        whole = Shot(0, 0.0, 0.4, last=True)
        self.assertEqual(rate.ratio(whole, Shot(0, 0.05, 0.15)), 2.0)
        self.assertEqual(rate.ratio(Shot(0, 0.05, 0.15), whole), 0.5)
        self.assertApproximates(rate.ratio(whole, Shot(0, 0.15, 0.25)), 400 / 300, 1e-9)

    def test_a_shot_is_between_what_sample_and_source_say(self) -> None:
        """The sum stays that of the samples; without packets the samples stand alone."""
        rate = parse_packets(LISTING)
        one, other = Shot(0, 0.0, 0.15), Shot(1, 0.15, 0.4, last=True)
        found = rate.corrected([(one, one, 600.0), (other, other, 600.0)])
        self.assertApproximates(sum(found), 1200.0, 1e-6)
        self.assertApproximates(found[0] / found[1], (550 * 0.15 / (250 * 0.25)) ** 0.25, 1e-6)
        nothing = SourceRate((), (0,))
        self.assertEqual(nothing.corrected([(one, one, 7.0), (other, other, 9.0)]), [7.0, 9.0])

    def test_what_is_not_known_changes_nothing(self) -> None:
        shot = Shot(0, 0.0, 1.0)
        self.assertEqual(SourceRate((), (0,)).ratio(shot, shot), 1.0)
        for data in (b"", b"#tb 0: x/y\nrubbish, 1, 2\n", LISTING[:-30]):
            self.assertGreater(parse_packets(data).ratio(shot, shot), 0.0)


def wait_for_command(job: RealJob, command: Command) -> None:
    """Run a command of a job to its end."""
    coroutine = job.run(command)
    try:
        coroutine.send(None)
    except StopIteration:
        return
    raise AssertionError("the job waits for its commands itself")
