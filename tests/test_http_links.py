"""Signed links: valid for one result and one hour, and nothing else."""

from __future__ import annotations

import stat
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from vidproc.files.keys import KEY_SIZE, KeyUnusable, load_key
from vidproc.frontends.http.links import LIFETIME, Links

TASK = "0123456789abcdef" * 2


class LinkTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.now = 1_700_000_000.0
        self.links = Links(b"k" * KEY_SIZE, lambda: self.now)

    def test_a_link_opens_its_own_result(self) -> None:
        token, ends = self.links.token_for(TASK)
        self.assertTrue(self.links.opens(TASK, token))
        self.assertFalse(self.links.opens(TASK[::-1], token))
        self.assertEqual(ends, self.now + LIFETIME)

    def test_it_ends_after_an_hour(self) -> None:
        token, _ = self.links.token_for(TASK)
        self.now += LIFETIME - 1
        self.assertTrue(self.links.opens(TASK, token))
        self.now += 1
        self.assertFalse(self.links.opens(TASK, token))

    def test_nothing_in_it_can_be_changed(self) -> None:
        """Neither its expiry nor any digit of its signature."""
        token, _ = self.links.token_for(TASK)
        ends, _, signature = token.partition(".")
        self.assertFalse(self.links.opens(TASK, f"{int(ends, 16) + 3600:x}.{signature}"))
        for place in range(len(token)):
            digit = "0" if token[place] != "0" else "1"
            changed = token[:place] + digit + token[place + 1 :]
            self.assertFalse(self.links.opens(TASK, changed), changed)

    def test_nonsense_opens_nothing(self) -> None:
        for token in (
            "",
            ".",
            "0",
            "a.b",
            "\u0661." + "0" * 64,
            "f" * 10_000,
            f"{'f' * 13}.{'0' * 64}",
        ):
            self.assertFalse(self.links.opens(TASK, token), token[:40])

    def test_another_key_opens_nothing(self) -> None:
        token, _ = Links(b"x" * KEY_SIZE, lambda: self.now).token_for(TASK)
        self.assertFalse(self.links.opens(TASK, token))


class KeyTests(SynchronousTestCase):
    def setUp(self) -> None:
        folder = Path(self.mktemp())
        folder.mkdir()
        self.path = folder / "link.key"

    def test_the_key_is_made_once_and_for_its_user_alone(self) -> None:
        key = load_key(self.path)
        self.assertEqual(len(key), KEY_SIZE)
        self.assertEqual(load_key(self.path), key)
        self.assertEqual(stat.S_IMODE(self.path.stat().st_mode), 0o600)
        self.assertEqual([path.name for path in self.path.parent.iterdir()], ["link.key"])

    def test_keys_differ(self) -> None:
        self.assertNotEqual(load_key(self.path), load_key(self.path.with_name("other.key")))

    def test_a_crash_while_it_was_made_does_no_harm(self) -> None:
        self.path.with_name("link.key.new").write_bytes(b"half")
        self.assertEqual(len(load_key(self.path)), KEY_SIZE)

    def test_a_file_that_holds_no_key_is_refused(self) -> None:
        """With an empty key, anybody could sign."""
        self.path.write_bytes(b"")
        self.assertRaises(KeyUnusable, load_key, self.path)
