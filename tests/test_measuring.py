"""Measurements on the real machine."""

from __future__ import annotations

import time
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.rig import Rig
from vidproc.app.measuring import Counters, Meter, usable_cores


class MeterTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.rig = Rig(Path(self.mktemp()))
        self.addCleanup(self.rig.close)
        self.meter = Meter(self.rig.clock, self.rig.runner, self.rig.gate.traffic, 2)

    def test_the_services_own_work_counts_as_its_own(self) -> None:
        """Half a second within one second on two cores is a quarter."""
        before = self.meter.count()
        start = time.process_time()
        while time.process_time() - start < 0.5:
            pass
        self.rig.clock.advance(1)
        figures = self.meter.figures(before, self.meter.count())
        self.assertGreaterEqual(figures.service_cpu, 0.24)
        self.assertEqual(figures.ffmpeg_cpu, 0.0)
        self.assertGreater(figures.service_memory, 1 << 20)
        self.assertLessEqual(figures.available_memory, figures.total_memory)

    def test_what_is_neither_idle_nor_ours_is_others(self) -> None:
        """Shares of all cores, over the time between the two counts."""
        before = Counters(0.0, 0.0, 0.0, 0.0, 0, 0, 0)
        now = Counters(10.0, 4.0, 6.0, 2.0, 100, 1000, 2000)
        figures = self.meter.figures(before, now)
        shares = (figures.idle_cpu, figures.ffmpeg_cpu, figures.service_cpu, figures.other_cpu)
        self.assertEqual([round(share, 3) for share in shares], [0.2, 0.3, 0.1, 0.4])
        rates = (figures.packets_in, figures.bytes_in, figures.bytes_out)
        self.assertEqual(rates, (10.0, 100.0, 200.0))

    def test_at_the_first_count_the_machine_is_taken_to_be_idle(self) -> None:
        now = self.meter.count()
        self.assertEqual(self.meter.figures(now, now).idle_cpu, 1.0)

    def test_there_is_a_core_to_use(self) -> None:
        self.assertGreaterEqual(usable_cores(), 1)
