"""Reservations: the limit is kept whatever is requested."""

from __future__ import annotations

import itertools
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

import vidproc.files.space as space_module
from vidproc.errors import ServiceError
from vidproc.files.space import Space

LIMIT = 1000
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["reserve", "output", "stored", "parked", "release", "removed"]),
        st.integers(0, 5),
        st.integers(0, 1200),
    ),
    max_size=60,
)


class LimitTests(SynchronousTestCase):
    @settings(derandomize=True, database=None, max_examples=300, deadline=None)
    @given(STEPS)
    def test_the_limit_holds_at_every_moment(self, steps: list[tuple[str, int, int]]) -> None:
        """Usage and reservations together never exceed it, in whatever order reservations are
        made, filled, interrupted and released.
        """
        with tempfile.TemporaryDirectory() as root:
            space = Space(Path(root), LIMIT)
            for step, number, size in steps:
                task_id, peer = f"task-{number}", f"192.0.2.{number % 3}"
                reserved = space.reserved_for(task_id)
                if step == "reserve":
                    fits = space.lacking(task_id, size, peer) == 0
                    try:
                        space.reserve(task_id, size, peer)
                    except ServiceError as refused:
                        self.assertEqual((refused.code, fits), (507, False))
                        self.assertEqual(space.reserved_for(task_id), reserved)
                    else:
                        self.assertEqual((space.reserved_for(task_id), fits), (size, True))
                elif step == "output":
                    had = space.reserve_output(task_id, size, peer)
                    self.assertEqual(space.reserved_for(task_id), size if had else reserved)
                elif step == "stored":
                    space.stored(task_id, min(size, reserved))
                elif step == "parked":
                    # An upload is interrupted: its reservation is released, its bytes stay.
                    space.release(task_id)
                    space.parked(min(size, reserved))
                elif step == "release":
                    space.release(task_id)
                else:
                    space.removed(size)
                self.assertLessEqual(space.used + space.reserved, LIMIT)
                self.assertGreaterEqual(min(space.used, space.reserved), 0)

    @settings(derandomize=True, database=None, max_examples=200, deadline=None)
    @given(st.lists(st.integers(1, LIMIT), min_size=1, max_size=20))
    def test_an_address_never_gets_more_than_half_of_what_is_free(self, sizes: list[int]) -> None:
        """However it splits its requests; other addresses always get something."""
        with tempfile.TemporaryDirectory() as root:
            space = Space(Path(root), LIMIT)
            for number, size in enumerate(sizes):
                try:
                    space.reserve(f"task-{number}", size, "192.0.2.1")
                except ServiceError:
                    self.assertGreater(size, space.affordable("next", "192.0.2.1"))
            self.assertLessEqual(space.reserved, LIMIT // 2)
            space.reserve("another", LIMIT // 4, "192.0.2.2")

    def test_what_is_affordable_can_be_reserved_and_a_byte_more_can_not(self) -> None:
        with tempfile.TemporaryDirectory() as root:
            space = Space(Path(root), LIMIT)
            space.reserve("a", 300, "192.0.2.1")
            most = space.affordable("b", "192.0.2.2")
            self.assertRaises(ServiceError, space.reserve, "b", most + 1, "192.0.2.2")
            space.reserve("b", most, "192.0.2.2")


class CountTests(SynchronousTestCase):
    def test_a_walk_counts_all_but_what_was_reserved(self) -> None:
        """Bytes of uploads and attempts in progress are part of their reservations."""
        with tempfile.TemporaryDirectory() as root:
            folder = Path(root)
            for name, size in {
                "inputs/a": 10,
                "results/b.mp4": 20,
                "orphans/c": 30,
                "uploads/broken": 40,
                "uploads/going": 50,
                "work/going/1/x": 60,
            }.items():
                path = folder / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(bytes(size))
            space = Space(folder, LIMIT)
            space.restore("going", 200, "192.0.2.1")
            self.assertEqual(space.measure(), 100)
            self.assertEqual(space.free(), LIMIT - 100 - 200)

    def test_what_changes_during_a_walk_is_not_lost(self) -> None:
        """A result that is stored or removed meanwhile, whether or not the walk counted it."""
        with tempfile.TemporaryDirectory() as root:
            folder = Path(root)
            (folder / "results").mkdir()
            for number in range(10):
                (folder / "results" / str(number)).write_bytes(bytes(10))
            count = Space(folder, LIMIT)
            count.measure()
            self.patch(space_module, "BATCH", 5)
            self.patch(time, "sleep", lambda _: count.stored("a", 100))
            count.verify()
            self.assertEqual(count.used, 300)

    def test_a_walk_finds_what_nobody_noted(self) -> None:
        with tempfile.TemporaryDirectory() as root:
            count = Space(Path(root), LIMIT)
            count.measure()
            (Path(root) / "tasks.sqlite").write_bytes(bytes(70))
            count.verify()
            self.assertEqual(count.used, 70)

    def test_what_is_removed_during_a_walk_is_no_error(self) -> None:
        """Before any of the calls that look at it: counted or not, but the walk goes on."""
        for gone in ("uploads/a", "uploads/b", "tasks.sqlite-wal"):
            for call in ("stat", "lstat", "scandir"):
                for after in range(8):
                    with self.subTest(gone=gone, call=call, after=after):
                        self.assertIn(self._count_while_removing(gone, call, after), (7, 12))

    def _count_while_removing(self, gone: str, call: str, after: int) -> int:
        """Count 7 bytes that stay and 5 that go before one of the calls of `os.stat` and such."""
        with tempfile.TemporaryDirectory() as root, tempfile.TemporaryDirectory() as elsewhere:
            folder = Path(root)
            file = folder / gone / "c" if gone == "uploads/b" else folder / gone
            for path, size in {folder / "results" / "z": 7, file: 5}.items():
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(bytes(size))
            real = getattr(os, call)
            calls = itertools.count()

            def remove_first(*args: Any, **kwargs: Any) -> Any:
                if next(calls) == after:
                    patch.restore()  # for the removal itself
                    (folder / gone).replace(Path(elsewhere, "gone"))
                return real(*args, **kwargs)

            patch = self.patch(os, call, remove_first)
            try:
                return Space(folder, LIMIT).measure()
            finally:
                patch.restore()
