"""The arithmetic with which the compressor's benchmark compares encodes."""

from __future__ import annotations

import math
from xml.etree import ElementTree

from twisted.trial.unittest import SynchronousTestCase

from benchmarks.rate_quality import Curve, Encode, bd_rate, draw, p5_at, percentile, size_at


def encodes(factor: float, *scores: float) -> list[Encode]:
    """Return encodes whose bytes double every five points, times `factor`."""
    return [Encode(factor * 1000 * 2 ** (s / 5), s, s - 4) for s in scores]


class PointTests(SynchronousTestCase):
    def test_between_points(self) -> None:
        points = encodes(1.0, 96, 86)
        expected = 1000 * 2 ** (91 / 5)
        self.assertApproximates(size_at(points, "vmaf", 91), expected, 1e-6 * expected)
        self.assertApproximates(size_at(points, "p5", 87), expected, 1e-6 * expected)
        self.assertApproximates(p5_at(points, 91), 87, 1e-9)

    def test_nothing_is_extrapolated(self) -> None:
        points = encodes(1.0, 86, 96)
        self.assertIdentical(size_at(points, "vmaf", 96.1), None)
        self.assertIdentical(p5_at(points, 85.9), None)

    def test_percentile(self) -> None:
        self.assertEqual(percentile([3.0, 1.0, 2.0], 0.5), 2.0)
        self.assertApproximates(percentile([0.0, 100.0], 0.05), 5.0, 1e-9)
        self.assertEqual(percentile([7.0], 0.05), 7.0)


class BdRateTests(SynchronousTestCase):
    def test_a_tenth_fewer_bytes(self) -> None:
        rate = bd_rate(encodes(1.0, 84, 90, 98), encodes(0.9, 86, 93, 97), 85, 97)
        assert rate is not None
        self.assertApproximates(rate, -10.0, 1e-6)

    def test_scores_count_alike_however_points_lie(self) -> None:
        """The bytes are equal from 80 to 90; then the difference grows to a factor of two at
        100."""
        other = [*encodes(1.0, 80, 90), *encodes(2.0, 100)]
        rate = bd_rate(encodes(1.0, 80, 81, 82, 83, 100), other, 80, 100)
        assert rate is not None
        self.assertApproximates(rate, 100 * (math.exp(math.log(2) / 4) - 1), 1e-6)

    def test_points_that_do_not_overlap(self) -> None:
        self.assertIdentical(bd_rate(encodes(1.0, 70, 80), encodes(1.0, 81, 90), 60, 100), None)


class PictureTests(SynchronousTestCase):
    def test_each_encode_is_in_it(self) -> None:
        curve = Curve("film", encodes(1.0, 80, 90, 97), encodes(0.9, 90, 95))
        root = ElementTree.fromstring(draw([curve, curve]))
        space = "{http://www.w3.org/2000/svg}"
        self.assertEqual(len(root.findall(f"{space}polyline")), 2)
        circles = root.findall(f"{space}circle")
        self.assertEqual(len(circles), 4)
        low, high = (float(circle.attrib["cy"]) for circle in circles[:2])
        self.assertGreater(low, high)
