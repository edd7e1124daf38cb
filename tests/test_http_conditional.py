"""Conditions and ranges of requests for a file, as defined in RFC 9110."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from vidproc.frontends.http.conditional import Representation, Selection, select, select_range

PROPERTY = settings(max_examples=300, deadline=None, derandomize=True, database=None)

ETAG = "ab" * 32
MODIFIED = 784111777.9  # Sun, 06 Nov 1994 08:49:37 GMT, and a little more
DATE = "Sun, 06 Nov 1994 08:49:37 GMT"
EARLIER = "Sun, 06 Nov 1994 08:49:36 GMT"
LATER = "Sun, 06 Nov 1994 08:49:38 GMT"
FILE = Representation(ETAG, MODIFIED, 1000)


def get(method: str = "GET", /, **headers: str) -> Selection:
    """Return the answer to a request with these headers; `_` in names stands for `-`."""
    given_headers = {name.replace("_", "-"): value for name, value in headers.items()}
    return select(FILE, method, given_headers.get)


class ConditionTests(SynchronousTestCase):
    def test_the_validators(self) -> None:
        self.assertEqual(FILE.quoted_etag, f'"{ETAG}"')
        self.assertEqual(FILE.last_modified, DATE)

    def test_without_headers_the_whole_file(self) -> None:
        self.assertEqual(get(), Selection(200, 0, 1000))
        self.assertEqual(get("HEAD"), Selection(200, 0, 1000))

    def test_if_none_match(self) -> None:
        """A weak comparison, a list, or a star: 304."""
        for value in (f'"{ETAG}"', f'W/"{ETAG}"', f'"x", "{ETAG}"', "*", f'"a,b" , W/"{ETAG}"'):
            self.assertEqual(get(if_none_match=value).status, 304, value)
            self.assertEqual(get("HEAD", if_none_match=value).status, 304, value)
        for value in ('"x"', ETAG, "", f'"{ETAG[:-1]}"'):
            self.assertEqual(get(if_none_match=value).status, 200, value)

    def test_if_modified_since(self) -> None:
        """In all three date formats. Ignored together with If-None-Match, or if malformed."""
        for value in (DATE, LATER, "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"):
            self.assertEqual(get(if_modified_since=value).status, 304, value)
        for value in (EARLIER, "yesterday", "", "Sun, 99 Foo 1994 08:49:37 GMT", "\xff", "1"):
            self.assertEqual(get(if_modified_since=value).status, 200, value)
        self.assertEqual(get(if_modified_since=DATE, if_none_match='"x"').status, 200)

    def test_if_match(self) -> None:
        """A strong comparison; If-Unmodified-Since is ignored then."""
        for value in (f'"{ETAG}"', "*", f'"x", "{ETAG}"'):
            self.assertEqual(get(if_match=value).status, 200, value)
        for value in ('"x"', f'W/"{ETAG}"', ""):
            self.assertEqual(get(if_match=value).status, 412, value)
        self.assertEqual(get(if_match="*", if_unmodified_since=EARLIER).status, 200)

    def test_if_unmodified_since(self) -> None:
        self.assertEqual(get(if_unmodified_since=EARLIER).status, 412)
        for value in (DATE, LATER, "soon"):
            self.assertEqual(get(if_unmodified_since=value).status, 200, value)

    def test_the_order(self) -> None:
        """412 before 304 before ranges."""
        self.assertEqual(get(if_match='"x"', if_none_match="*", range="bytes=0-1").status, 412)
        self.assertEqual(get(if_none_match="*", range="bytes=5000-").status, 304)

    def test_if_range(self) -> None:
        """It must be exactly this file, by its strong tag or date; otherwise all of it is sent."""
        part = Selection(206, 0, 2)
        for value in (f'"{ETAG}"', DATE):
            self.assertEqual(get(range="bytes=0-1", if_range=value), part, value)
        for value in (f'W/"{ETAG}"', '"x"', EARLIER, LATER, "nonsense", ETAG):
            self.assertEqual(get(range="bytes=0-1", if_range=value).status, 200, value)
        # An unsatisfiable range of another file is not an error either.
        self.assertEqual(get(range="bytes=9999-", if_range='"x"').status, 200)


class RangeTests(SynchronousTestCase):
    def test_one_range(self) -> None:
        for value, start, end in (
            ("bytes=0-0", 0, 1),
            ("bytes=0-499", 0, 500),
            ("bytes=500-", 500, 1000),
            ("bytes=-300", 700, 1000),
            ("bytes=-5000", 0, 1000),
            ("bytes=999-999", 999, 1000),
            ("bytes=10-99999999999999999999999", 10, 1000),
            ("Bytes = 0-1", 0, 2),
            ("bytes= 0-1 ,", 0, 2),
            ("bytes=0000-0001", 0, 2),
        ):
            self.assertEqual(get(range=value), Selection(206, start, end), value)

    def test_beyond_the_end_is_416(self) -> None:
        for value in ("bytes=1000-", "bytes=1000-1001", "bytes=-0", f"bytes={'9' * 5000}-"):
            self.assertEqual(get(range=value).status, 416, value[:30])

    def test_what_is_ignored(self) -> None:
        """Several ranges, other units and malformed ranges get the whole file."""
        for value in (
            "bytes=0-1,5-6",
            "bytes=5000-,0-1",
            "lines=1-2",
            "bytes=2-1",
            "bytes=-",
            "bytes=",
            "bytes",
            "bytes=a-b",
            "bytes=1",
            "bytes=--1",
            "bytes=1-2-3",
            "bytes=\u0661-\u0662",
            "",
        ):
            self.assertEqual(get(range=value), Selection(200, 0, 1000), value)

    def test_head_ignores_ranges(self) -> None:
        self.assertEqual(get("HEAD", range="bytes=0-1"), Selection(200, 0, 1000))
        self.assertEqual(get("HEAD", range="bytes=5000-"), Selection(200, 0, 1000))

    def test_an_empty_file(self) -> None:
        self.assertEqual(select_range("bytes=0-", 0), Selection(416))
        self.assertIsNone(select_range("bytes=-5", 0))

    @PROPERTY
    @given(st.integers(0, 200), st.integers(0, 220), st.integers(0, 220))
    def test_a_range_names_the_bytes_that_the_rfc_says(self, size: int, a: int, b: int) -> None:
        """Compared with a list of all positions."""
        content = range(size)
        explicit = [n for n in content if a <= n <= b]
        got = select_range(f"bytes={a}-{b}", size)
        if a > b:
            self.assertIsNone(got)
        else:
            self.assertSelects(got, explicit)
        self.assertSelects(select_range(f"bytes={a}-", size), [n for n in content if n >= a])
        if size:
            self.assertSelects(select_range(f"bytes=-{a}", size), list(content)[-a:] if a else [])

    def assertSelects(self, got: Selection | None, positions: list[int]) -> None:
        assert got is not None
        if positions:
            self.assertEqual(got, Selection(206, positions[0], positions[-1] + 1))
        else:
            self.assertEqual(got.status, 416)

    @PROPERTY
    @given(
        st.text(max_size=40) | st.text(alphabet="bytes=0123456789-, \t", max_size=40),
        st.text(max_size=40) | st.text(alphabet='W/"*, ab\\', max_size=40),
        st.text(max_size=40) | st.text(alphabet="SunNov 0123456789:,GMT-", max_size=40),
    )
    def test_any_headers_get_an_answer(self, wanted: str, tags: str, date: str) -> None:
        """Never an exception, and never bytes outside the file."""
        for name in ("if_none_match", "if_match", "if_range"):
            for since in ("if_modified_since", "if_unmodified_since", "if_range"):
                got = get(**{name: tags, since: date, "range": wanted})
                self.assertIn(got.status, (200, 206, 304, 412, 416))
                self.assertTrue(0 <= got.start <= got.end <= 1000)
