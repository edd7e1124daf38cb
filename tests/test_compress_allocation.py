"""How the compressor cuts a film into shots and shares its bytes out among them."""

from __future__ import annotations

import itertools
import math

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from vidproc.ffmpeg.media import MediaInfo, VideoStream
from vidproc.operations.compress.allocation import (
    PERFECT,
    ShotCurve,
    allocate,
    mean_score,
    one_crf,
    saving,
    shifted,
    together,
    total_size,
)
from vidproc.operations.compress.search import Curve, Point
from vidproc.operations.compress.shots import LONGEST, SHORTEST, divide, parse_cuts

X264 = Curve((10.0, 45.0), 0.1, score_slope=0.14, size_slope=-0.12)
EXACT = settings(deadline=None, derandomize=True, database=None)


def shot(seconds: float, score: float, drop: float, size: float, ratio: float) -> ShotCurve:
    """Return a shot that scores `drop` less at six CRF steps more, at `ratio` of the bytes."""
    points = (Point(21.0, score, size), Point(27.0, score - drop, size * ratio))
    return ShotCurve.between(X264, seconds, *points)


shots = st.lists(
    st.builds(
        shot,
        st.floats(2, 10),
        st.floats(88, 98),
        st.floats(0, 8),
        st.floats(1e4, 1e6),
        st.floats(0.3, 0.9),
    ),
    min_size=2,
    max_size=20,
)


class AllocationTests(SynchronousTestCase):
    @EXACT
    @given(shots, st.floats(80, 96))
    def test_meets_the_mean(self, curves: list[ShotCurve], aim: float) -> None:
        crfs = allocate(curves, aim)
        free = [10.1 < crf < 44.9 for crf in crfs]
        if all(free):
            self.assertApproximates(mean_score(curves, crfs), aim, 0.05)

    @EXACT
    @given(shots, st.floats(80, 96))
    def test_never_takes_more_bytes_than_one_crf(self, curves: list[ShotCurve], aim: float) -> None:
        crfs = allocate(curves, aim)
        if all(10.1 < crf < 44.9 for crf in [*crfs, one_crf(curves, aim)]):
            self.assertGreaterEqual(saving(curves, aim, crfs), -0.005)

    @EXACT
    @given(shots, st.floats(80, 96))
    def test_no_shot_falls_below_the_worst_tenth(self, curves: list[ShotCurve], aim: float) -> None:
        same = one_crf(curves, aim)
        before = sorted((curve.score_at(same), curve.seconds) for curve in curves)
        seen, worst = 0.0, 0.0
        for score, seconds in before:
            seen += seconds
            if seen >= 0.1 * sum(curve.seconds for curve in curves):
                worst = score
                break
        for curve, crf in zip(curves, allocate(curves, aim), strict=True):
            if crf > 10.0:
                self.assertGreaterEqual(
                    curve.score_at(crf), min(worst, curve.score_at(same)) - 0.05
                )

    def test_spends_where_a_point_costs_least(self) -> None:
        dear = shot(5.0, 97.0, 4.0, 1.4e6, 0.5)
        cheap = shot(5.0, 96.0, 4.0, 1.4e5, 0.5)
        for_dear, for_cheap = allocate([dear, cheap, cheap], 94.5)[:2]
        self.assertGreater(for_dear, for_cheap)

    def test_spends_where_points_are_gained(self) -> None:
        """Of shots with the same bytes and nearly the same score, one gains nothing by a lower
        CRF."""
        flat, steep = shot(5.0, 95.0, 0.3, 1e6, 0.5), shot(5.0, 96.0, 4.0, 1e6, 0.5)
        for_flat, for_steep = allocate([flat, steep], 94.5)
        self.assertGreater(for_flat, for_steep + 1.0)

    def test_equal_shots_have_one_crf(self) -> None:
        curve = shot(5.0, 97.0, 4.0, 1.4e6, 0.5)
        self.assertApproximates(max(allocate([curve] * 4, 93.0)), one_crf([curve] * 4, 93.0), 0.02)

    @EXACT
    @given(shots, st.floats(85, 96))
    def test_shifting_keeps_the_distances(self, curves: list[ShotCurve], aim: float) -> None:
        crfs = [20.0 + n for n in range(len(curves))]
        moved = shifted(curves, crfs, aim, most=3.0)
        by = {round(new - old, 6) for old, new in zip(crfs, moved, strict=True) if 10 < new < 45}
        self.assertLessEqual(len(by), 1)
        self.assertLessEqual(max((abs(each) for each in by), default=0.0), 3.01)

    @EXACT
    @given(st.floats(88, 97), st.floats(0.5, 8), st.floats(1e4, 1e6), st.floats(0.3, 0.8))
    def test_a_curve_goes_through_its_points(
        self, score: float, drop: float, size: float, ratio: float
    ) -> None:
        curve = shot(4.0, score, drop, size, ratio)
        for crf, want, weight in ((21.0, score, size), (27.0, score - drop, size * ratio)):
            if 0.16 < curve.score_slope / X264.score_slope < 2.49:
                self.assertApproximates(curve.score_at(crf), want, 1e-6)
            self.assertApproximates(curve.size_at(crf) / weight, 1.0, 1e-6)
        again = curve.through(24.0, 90.0, 5e5)
        self.assertApproximates(again.score_at(24.0), 90.0, 1e-6)
        self.assertApproximates(again.size_at(25.0) / again.size_at(24.0), ratio ** (1 / 6), 1e-6)

    def test_shots_that_are_encoded_together_move_like_one(self) -> None:
        curves = [shot(5.0, 95.0, 3.0, 1e6, 0.5), shot(2.5, 92.0, 6.0, 2e5, 0.6)]
        both, middle = together(curves, [22.0, 25.0])
        self.assertApproximates(middle, 23.0, 1e-9)
        for by in (-1.0, 0.0, 1.0):
            moved = [22.0 + by, 25.0 + by]
            self.assertApproximates(both.score_at(middle + by), mean_score(curves, moved), 0.02)
            self.assertApproximates(
                both.size_at(middle + by) / total_size(curves, moved), 1.0, 0.01
            )

    def test_a_curve_tells_the_crf_of_a_score(self) -> None:
        """Between the measured points and beyond, where it is as steep as usual."""
        curve = shot(4.0, 96.0, 2.0, 5e5, 0.5)
        for crf in (18.0, 21.0, 23.0, 27.0, 33.0):
            self.assertApproximates(curve.crf_for(curve.score_at(crf)), crf, 1e-6)
        steps = [PERFECT - curve.score_at(crf) for crf in (28.0, 29.0)]
        self.assertApproximates(math.log(steps[1] / steps[0]), X264.score_slope, 1e-9)
        self.assertApproximates(total_size([curve, curve], [21.0, 21.0]), 1e6, 1e-2)


class ShotTests(SynchronousTestCase):
    @EXACT
    @given(st.lists(st.floats(-1, 400), max_size=80), st.floats(4, 400))
    def test_segments_cover_the_film(self, cuts: list[float], duration: float) -> None:
        film = divide(cuts, duration)
        self.assertEqual(film[0].start, 0.0)
        self.assertApproximates(film[-1].end, duration, 1e-4)
        self.assertEqual([shot.last for shot in film], [False] * (len(film) - 1) + [True])
        for one, following in itertools.pairwise(film):
            self.assertEqual(one.end, following.start)
        for shot in film:
            self.assertGreaterEqual(shot.length, min(SHORTEST, duration) - 1e-3)
            self.assertLessEqual(shot.length, LONGEST + 1e-3)

    def test_short_shots_join_their_neighbour(self) -> None:
        film = divide([3.0, 4.0, 9.5], 10.0)
        self.assertEqual([shot.start for shot in film], [0.0, 3.0])

    def test_long_shots_are_cut_evenly(self) -> None:
        self.assertEqual([shot.length for shot in divide([], 24.0)], [8.0] * 3)

    def test_a_cut_lies_between_two_frames(self) -> None:
        media = MediaInfo(
            container="matroska,webm",
            size=1,
            duration=10.0,
            video=VideoStream(index=0, codec="h264", width=64, height=64, frame_rate=25.0),
        )
        printed = b"frame:1 pts:2 pts_time:2\nlavfi.scd.time=2.04\nlavfi.scd.time=7\n"
        found = parse_cuts(printed, media)
        for have, want in zip(found, (2.02, 6.98), strict=True):
            self.assertApproximates(have, want, 1e-9)

    def test_samples_lie_inside_their_shot(self) -> None:
        shot = divide([4.0], 10.0)[1]
        sample = shot.sample(2.0)
        for have, want in zip(sample.stretches, ((5.0, 6.0), (8.0, 9.0)), strict=True):
            self.assertApproximates(have[0], want[0], 1e-9)
            self.assertApproximates(have[1], want[1], 1e-9)
        self.assertApproximates(sample.length, 2.0, 1e-9)
        self.assertEqual(shot.sample(8.0), shot)

    def test_a_shot_after_a_cut_is_read_from_its_own_first_frame(self) -> None:
        shots = divide([4.0], 26.0, lead=0.02)
        self.assertEqual([shot.lead for shot in shots], [0.0, 0.02, 0.0, 0.0])
