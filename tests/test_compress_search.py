"""The search's arithmetic, against made-up encoders."""

from __future__ import annotations

import math
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from vidproc.operations.compress.one_crf import plan_samples, time_limit
from vidproc.operations.compress.scoring import (
    Samples,
    film_bytes,
    frame_sizes,
    spread,
    vmaf_of_ssim,
    whole_film,
)
from vidproc.operations.compress.search import MAX_PROBES, Choice, Curve, Point, Search

X264 = Curve(
    (10.0, 45.0),
    0.1,
    score_slope=0.13,
    size_slope=-0.12,
    typical=((70, 36.3), (80, 33.3), (90, 28.3), (95, 22.8), (97, 18.5), (99, 12.5)),
)


class Encoder:
    """Answers as an encoder would: `lack` points are missing at CRF 23, growing by `slope`."""

    def __init__(self, lack: float, slope: float, size: float, shrink: float) -> None:
        self.lack, self.slope, self.size, self.shrink = lack, slope, size, shrink

    def measure(self, crf: float) -> Point:
        score = 100 - self.lack * math.exp(self.slope * (crf - 23))
        return Point(crf, max(score, 0.0), self.size * math.exp(-self.shrink * (crf - 23)))


def search_for(encoder: Encoder, target: float, limit: float = math.inf) -> tuple[Search, Any]:
    size_limit = limit if math.isfinite(limit) else 1e15
    search = Search(X264, target, target + 0.2, min(target, 90.0), size_limit, 23.0)
    while (crf := search.next_crf()) is not None:
        search.add(encoder.measure(crf))
    return search, search.choose()


encoders = st.builds(
    Encoder,
    st.floats(1.5, 14),
    st.floats(0.07, 0.2),
    st.floats(1e4, 1e9),
    st.floats(0.08, 0.16),
)


class SearchTests(SynchronousTestCase):
    @settings(deadline=None)
    @given(encoders, st.floats(75, 96), st.floats(-0.3, 0.3))
    def test_reaches_the_target(self, encoder: Encoder, target: float, off: float) -> None:
        """The whole video differs from its samples, and what it measures corrects the search."""
        search, choice = search_for(encoder, target)
        trials = len(search.points)
        encoder.lack *= math.exp(off)
        while not -0.4 <= (measured := encoder.measure(choice.crf)).score - target <= 0.9:
            if choice.crf in X264.crf_range:
                return
            trials += 1
            search.calibrate(measured)
            choice = search.choose()
            assert choice is not None
            self.assertFalse(choice.gave_way)
        self.assertLessEqual(trials, MAX_PROBES)

    @settings(deadline=None)
    @given(encoders, st.floats(75, 96), st.floats(0.1, 3))
    def test_never_chooses_what_is_too_large(
        self, encoder: Encoder, target: float, fraction: float
    ) -> None:
        limit = encoder.size * fraction
        search, choice = search_for(encoder, target, limit)
        self.assertLessEqual(len(search.points), MAX_PROBES)
        if choice is not None:
            self.assertLessEqual(choice.size, limit * 1.02)
            self.assertGreaterEqual(choice.score, min(target, 90.0) - 0.5)

    @settings(deadline=None)
    @given(
        st.lists(st.tuples(st.floats(0, 100), st.floats(1, 1e12)), min_size=1, max_size=8),
        st.floats(70, 99),
        st.floats(1, 1e12),
    )
    def test_ends_on_any_measurements(
        self, answers: list[tuple[float, float]], target: float, limit: float
    ) -> None:
        search = Search(X264, target, target + 0.2, min(target, 90.0), limit, 23.0)
        probes = 0
        while (crf := search.next_crf()) is not None:
            probes += 1
            self.assertLessEqual(X264.crf_range[0], crf)
            self.assertLessEqual(crf, X264.crf_range[1])
            search.add(Point(crf, *answers[probes % len(answers)]))
        self.assertLessEqual(probes, MAX_PROBES)
        search.choose()

    def test_usual_films_take_few_trials(self) -> None:
        counts = [
            len(search_for(Encoder(lack, slope, 1e6, 0.12), 95.0)[0].points)
            for lack in (2.5, 4.0, 5.5, 8.0)
            for slope in (0.1, 0.13, 0.16)
        ]
        self.assertLessEqual(max(counts), 3)

    def test_one_look_is_enough_when_it_hits(self) -> None:
        search, choice = search_for(Encoder(4.8, 0.13, 1e6, 0.12), 95.0)
        self.assertEqual(len(search.points), 1)
        self.assertEqual(choice.crf, 23.0)

    def test_gives_way_to_the_size(self) -> None:
        encoder = Encoder(5.0, 0.13, 1e6, 0.12)
        _, choice = search_for(encoder, 95.0, 7e5)
        self.assertTrue(choice.gave_way)
        self.assertLess(encoder.measure(choice.crf).size, 7.2e5)
        self.assertGreater(encoder.measure(choice.crf).score, 90)

    def test_does_not_give_way_below_90(self) -> None:
        _, choice = search_for(Encoder(5.0, 0.13, 1e6, 0.12), 95.0, 3e5)
        self.assertIsNone(choice)

    def test_a_lower_wish_is_its_own_floor(self) -> None:
        _, choice = search_for(Encoder(20.0, 0.1, 1e6, 0.12), 80.0, 1.5e6)
        self.assertIsInstance(choice, Choice)

    def test_calibration_moves_the_curve(self) -> None:
        search, choice = search_for(Encoder(8.0, 0.12, 1e6, 0.12), 95.0)
        assert choice is not None
        off = Encoder(9.5, 0.12, 1.2e6, 0.12)
        search.calibrate(off.measure(choice.crf))
        better = search.choose()
        assert better is not None
        self.assertApproximates(off.measure(better.crf).score, 95.2, 0.3)
        self.assertApproximates(
            off.measure(better.crf).size / search.size_at(better.crf), 1.0, 0.05
        )

    def test_one_point_of_a_typical_video_leads_along_the_typical_curve(self) -> None:
        for target in (75.0, 85.0, 95.0):
            search = Search(X264, target, target, 70, 1e15, 23.0)
            for score, crf in X264.typical:
                search.points = [Point(crf, score, 1e6)]
                choice = search.choose()
                assert choice is not None
                self.assertApproximates(choice.crf, X264.typical_crf(target), 0.5)

    def test_one_point_tells_more_of_lower_scores(self) -> None:
        """A video far from the typical one is nearer to it at a higher CRF."""
        search = Search(X264, 80, 80, 70, 1e15, 23.0)
        search.points = [Point(22.8, 97.0, 1e6)]
        at_start = 97.0 - 95.0
        expected = search.score_at(X264.typical_crf(80))
        self.assertTrue(80 < expected < 80 + 4 * at_start, expected)
        scores = [search.score_at(crf) for crf in range(10, 46)]
        self.assertEqual(scores, sorted(scores, reverse=True))

    def test_choosing_needs_a_measurement(self) -> None:
        search = Search(X264, 95, 95.2, 90, 1e6, 23.0)
        self.assertRaises(ValueError, search.choose)


class SampleTests(SynchronousTestCase):
    @given(st.floats(0.1, 40_000), st.floats(0.1, 2.0))
    def test_lie_inside_the_film(self, duration: float, cost: float) -> None:
        samples = plan_samples(duration, cost)
        self.assertLessEqual(samples.fraction, 1.0)
        for start, following in zip(
            samples.starts, [*samples.starts[1:], duration + 0.01], strict=False
        ):
            self.assertGreaterEqual(start, 0.0)
            self.assertLessEqual(start + samples.length, following + 0.01)

    @given(st.floats(10, 40_000), st.floats(0.1, 2.0))
    def test_three_trials_are_in_time(self, duration: float, cost: float) -> None:
        samples = plan_samples(duration, cost)
        probes = 2.5 if duration < 60 else 3
        self.assertLessEqual(probes * samples.fraction * (1 + cost), time_limit(duration))

    def test_spread_evenly(self) -> None:
        samples = spread(100.0, 0.1, 5.0, 8)
        self.assertEqual(samples.starts, (22.5, 72.5))
        self.assertEqual(samples.seconds, 10.0)

    def test_samples_of_short_videos_are_counted_in_frames(self) -> None:
        for duration, rate in ((5.0, 25.0), (14.0, 30.0), (50.0, 60.0)):
            samples = plan_samples(duration, 0.7, rate)
            self.assertGreater(len(samples.frames), 2)
            edges = [edge for run in samples.frames for edge in run]
            self.assertEqual(edges, sorted(set(edges)))
            self.assertLessEqual(edges[-1], duration * rate)
            frames = sum(end - first for first, end in samples.frames)
            self.assertApproximates(frames / (duration * rate), samples.fraction, 0.05)
        self.assertEqual(plan_samples(70.0, 0.7, 25.0).frames, ())

    def test_nearly_everything_is_the_whole_film(self) -> None:
        self.assertEqual(spread(10.0, 0.9, 2.0, 6), whole_film(10.0))


def element(kind: bytes, content: bytes) -> bytes:
    return kind + (len(content) | 1 << 56).to_bytes(8, "big") + content


def simple_block(size: int, key: bool) -> bytes:
    return element(b"\xa3", b"\x81\x00\x00" + (b"\x80" if key else b"\x00") + bytes(size))


class WeightTests(SynchronousTestCase):
    def test_blocks_of_both_kinds(self) -> None:
        block = b"\x81\x00\x00\x00" + bytes(7)
        data = (
            element(b"\x1a\x45\xdf\xa3", b"matroska")
            + b"\x18\x53\x80\x67\x01\xff\xff\xff\xff\xff\xff\xff"
            + element(
                b"\x1f\x43\xb6\x75",
                element(b"\xe7", b"\x00")
                + simple_block(100, True)
                + simple_block(20, False)
                + element(b"\xa0", element(b"\xa1", block) + element(b"\xfb", b"\x01"))
                + element(b"\xa0", element(b"\xa1", block)),
            )
        )
        expected = [(100, True), (20, False), (7, False), (7, True)]
        self.assertEqual(frame_sizes(data), expected)
        self.assertEqual(frame_sizes(data[:-3]), expected[:-1])

    @given(st.binary(max_size=200))
    def test_any_bytes(self, data: bytes) -> None:
        frame_sizes(data)

    def test_first_keyframes_are_not_the_films(self) -> None:
        data = b"".join(simple_block(1000 if i % 50 == 0 else 100, i % 50 == 0) for i in range(100))
        samples = Samples((0.0, 10.0), 2.0, 0.1)
        whole = film_bytes(data, len(data), samples, 1000)
        self.assertApproximates(whole, 5 * 1000 + 995 * 100, 10)

    def test_samples_in_one_stream_begin_with_dear_frames(self) -> None:
        """These have the bytes of keyframes, a few frames early in coding order."""
        dear = {0, 8, 18}
        data = b"".join(simple_block(1000 if n in dear else 100, n == 0) for n in range(30))
        runs = ((0, 10), (100, 110), (200, 210))
        samples = Samples((0.0, 4.0, 8.0), 0.4, 0.1, runs)
        found = film_bytes(data, len(data), samples, 300)
        without, all_counted = 1000 * (1 + 300 / 250) + 298 * 100, (3 * 1000 + 27 * 100) / 0.1
        self.assertApproximates(found, math.sqrt(without * all_counted), 200)

    def test_the_whole_film_weighs_what_it_weighs(self) -> None:
        data = simple_block(1000, True) + simple_block(100, False)
        self.assertEqual(film_bytes(data, len(data), whole_film(1.0), 2), 1100)

    def test_unreadable_samples_are_taken_as_they_are(self) -> None:
        self.assertEqual(film_bytes(b"", 500, Samples((0.0,), 1.0, 0.5), None), 1000)


class MappingTests(SynchronousTestCase):
    @given(st.floats(0, 1), st.floats(0, 1))
    def test_better_ssim_is_never_a_worse_score(self, one: float, other: float) -> None:
        low, high = sorted((one, other))
        self.assertLessEqual(vmaf_of_ssim(low), vmaf_of_ssim(high))
        self.assertTrue(0 <= vmaf_of_ssim(low) <= 100)
