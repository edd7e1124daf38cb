"""JSON from strangers: the values, and that the time for decoding depends only on its length."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from vidproc.untrusted_json import decode_json

SLOW_NUMBERS = b"[" + b",".join([b"1e308"] * 10_000) + b"]"
"""JSON for which msgspec takes 30 times as long as Python's own decoder."""

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 63), 1 << 63) | st.text()
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)  # fmt: skip


def cpu_time(decode: Callable[[bytes], Any]) -> float:
    """Return the least CPU time of three tries at decoding `SLOW_NUMBERS`, in seconds."""
    taken = []
    for _ in range(3):
        began = time.thread_time()
        decode(SLOW_NUMBERS)
        taken.append(time.thread_time() - began)
    return min(taken)


class DecodeTests(SynchronousTestCase):
    @settings(derandomize=True, database=None, max_examples=100)
    @given(VALUES)
    def test_what_it_returns_is_what_was_written(self, value: Any) -> None:
        self.assertEqual(decode_json(json.dumps(value).encode()), value)

    def test_numbers_take_no_longer_than_their_length(self) -> None:
        """64 KiB of them blocked the server for 0.3 s."""
        self.assertLess(cpu_time(decode_json), 5 * cpu_time(json.loads))

    def test_what_is_not_json_raises_one_error(self) -> None:
        """Also for numbers that are too large for a float, and for too much nesting."""
        for data in (b"", b"{", b"\xff", b'"\xff"', b"[1e400]", b"NaN", b"[" * 5000 + b"]" * 5000):
            self.assertRaises(msgspec.DecodeError, decode_json, data)
