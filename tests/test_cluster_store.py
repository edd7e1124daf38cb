"""The object store: files in both directions, checked; patience; the lease; what is left behind."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from vidproc.cluster.digest import LEAST_BLOCK, MOST_BLOCKS, BlockHasher, block_size, root_of
from vidproc.cluster.lease import Lease
from vidproc.cluster.messages import ShippedFile
from vidproc.cluster.object_store import (
    Damaged,
    Lacking,
    NoSpace,
    ObjectStore,
    StoreAway,
    TransferStopped,
)
from vidproc.cluster.scratch import Scratch, missing


class DigestTests(SynchronousTestCase):
    def test_pieces_of_any_size_give_the_same_digest(self) -> None:
        """However the bytes arrive."""
        data = os.urandom(1_000_003)
        found = set()
        for piece in (1, 7, 65536, len(data)):
            hasher = BlockHasher(65536)
            for at in range(0, len(data), piece * 997):
                hasher.feed(data[at : at + piece * 997])
            found.add((hasher.digest().root, hasher.finish()))
        self.assertEqual(len(found), 1)
        root, blocks = found.pop()
        self.assertEqual(len(blocks), 32 * 16)
        self.assertEqual(blocks[32:64], root_of(data[65536 : 2 * 65536]))
        self.assertEqual(root, root_of(blocks))

    def test_large_files_have_large_blocks(self) -> None:
        """So that the digests stay small."""
        self.assertEqual(block_size(0), LEAST_BLOCK)
        for size in (1 << 32, 64 << 30, 1 << 40):
            self.assertLessEqual(size, block_size(size) * MOST_BLOCKS)


class StoreCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.root = Path(self.mktemp()).absolute()
        self.folder = self.root / "store"
        self.folder.mkdir(parents=True)
        self.store = ObjectStore(f"file://{self.folder}", patience=0.0)
        self.path = self.root / "file"

    def put(self, size: int, key: str = "a/b") -> tuple[Any, bytes, bytes]:
        data = os.urandom(size)
        self.path.write_bytes(data)
        digest, blocks = self.store.put_file(self.path, key)
        return digest, blocks, data


class FileTests(StoreCase):
    def test_files_arrive_as_they_were(self) -> None:
        """Empty, small, and in several parts."""
        for size in (0, 1, 5 << 20, 20_000_001):
            digest, _, data = self.put(size)
            self.store.fetch("a/b", self.root / "back", digest)
            self.assertEqual((self.root / "back").read_bytes(), data)

    def test_parts_arrive_in_a_sparse_file(self) -> None:
        """With just the blocks that were asked for."""
        digest, blocks, data = self.put(10 * LEAST_BLOCK + 5)
        back = self.root / "back"
        with back.open("wb") as file:
            file.truncate(digest.size)
        for first, last in ((2, 4), (10, 11)):
            self.store.fetch_range("a/b", back, digest, blocks, first, last)
        found, block = back.read_bytes(), LEAST_BLOCK
        self.assertEqual(found[2 * block : 4 * block], data[2 * block : 4 * block])
        self.assertEqual(found[10 * block :], data[10 * block :])
        self.assertEqual(found[: 2 * block], bytes(2 * block))

    def test_a_changed_object_is_noticed(self) -> None:
        """Whole or in part."""
        digest, blocks, data = self.put(4 * LEAST_BLOCK)
        changed = bytearray(data)
        changed[3 * LEAST_BLOCK] ^= 1
        self.store.put("a/b", bytes(changed))
        back = self.root / "back"
        self.assertRaises(Damaged, self.store.fetch, "a/b", back, digest)
        self.store.fetch_range("a/b", back, digest, blocks, 0, 3)
        self.assertRaises(Damaged, self.store.fetch_range, "a/b", back, digest, blocks, 3, 4)
        self.store.put("a/c", blocks[:-1])
        self.assertRaises(Damaged, self.store.fetch_blocks, "a/c", back, digest)

    def test_what_is_lacking_is_told_from_a_store_that_is_away(self) -> None:
        """An object that is gone, or cut off; not a folder that is not mounted."""
        digest, _, data = self.put(2 * LEAST_BLOCK)
        back = self.root / "back"
        (self.folder / "a" / "b").write_bytes(data[:LEAST_BLOCK])
        self.assertRaises(Lacking, self.store.fetch, "a/b", back, digest)
        (self.folder / "a" / "b").unlink()
        self.assertRaises(Lacking, self.store.fetch, "a/b", back, digest)
        error = self.assertRaises(Lacking, self.store.get, "a/b")
        self.assertIn("not found", str(error))
        self.assertNotIn("Debug", str(error))
        self.folder.rename(self.root / "away")
        away = self.assertRaises(StoreAway, self.store.fetch, "a/b", back, digest)
        self.assertNotIsInstance(away, Lacking)

    def test_a_transfer_stops_when_asked(self) -> None:
        """And leaves nothing behind."""
        self.path.write_bytes(bytes(30 << 20))
        asked: list[int] = []

        def stopped() -> bool:
            asked.append(1)
            return len(asked) > 10

        self.assertRaises(TransferStopped, self.store.put_file, self.path, "a/b", stopped)
        self.assertEqual([path for path in self.folder.rglob("*") if path.is_file()], [])

    def test_a_store_that_is_away_is_not_created(self) -> None:
        """A folder whose disk is not mounted must not be written to."""
        self.path.write_bytes(b"x")
        self.folder.rename(self.root / "elsewhere")
        for call in (
            lambda: self.store.put("a", b"x"),
            lambda: self.store.put_file(self.path, "a"),
            lambda: self.store.keys("a"),
            lambda: self.store.create("a", b"x"),
            lambda: self.store.remove(["a"]),
        ):
            self.assertRaises(StoreAway, call)
        self.assertFalse(self.folder.exists())

    def test_a_store_that_comes_back_is_waited_for(self) -> None:
        """Within the patience."""
        self.store.put("a", b"x")
        away = self.root / "elsewhere"
        self.folder.rename(away)
        looks: list[int] = []

        def stopped() -> bool:
            looks.append(1)
            if len(looks) == 3:
                away.rename(self.folder)
            return False

        patient = ObjectStore(f"file://{self.folder.parent}/store", patience=60.0)
        self.assertEqual(patient.get("a", stopped), b"x")
        self.assertGreaterEqual(len(looks), 3)

    def test_what_killed_processes_left_is_removed(self) -> None:
        """Staged files, which the store does not list, and empty folders; but not what is known."""
        for name in ("a/1/x", "a/2/y", "a/2/y#3", "a/3/z#1"):
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"x")
        self.store.remove_below("a", lambda key: key.startswith("a/1/") or "a/1/".startswith(key))
        self.assertEqual(
            sorted(str(path.relative_to(self.folder)) for path in self.folder.rglob("*")),
            ["a", "a/1", "a/1/x"],
        )


class LeaseTests(StoreCase):
    def setUp(self) -> None:
        super().setUp()
        self.time = 100.0

    def lease(self) -> Lease:
        return Lease(self.store, "vidproc/id", term=10.0, now=lambda: self.time)

    def test_one_of_two_has_it(self) -> None:
        """For as long as it renews it."""
        first, second = self.lease(), self.lease()
        self.assertTrue(first.renew())
        for _ in range(10):
            self.assertFalse(second.renew())
            self.time += 4
            self.assertTrue(first.renew())
        self.assertEqual(len(self.store.keys("vidproc/id/lease")), 1)
        self.assertFalse(second.held)

    def test_a_dead_owners_lease_is_taken_after_a_term(self) -> None:
        """Not sooner; and the owner notices when it wakes up."""
        first, second = self.lease(), self.lease()
        first.renew()
        self.assertFalse(second.renew())
        self.time += 9
        self.assertFalse(second.renew())
        self.time += 1
        self.assertFalse(first.held)
        self.assertTrue(second.renew())
        self.assertFalse(first.renew())
        self.assertTrue(second.renew())

    def test_a_lease_that_is_given_up_is_free(self) -> None:
        """At once."""
        first, second = self.lease(), self.lease()
        first.renew()
        first.give_up()
        self.assertFalse(first.held)
        self.assertTrue(second.renew())


class ScratchTests(StoreCase):
    def scratch(self, limit: int) -> Scratch:
        scratch = Scratch(self.root / "scratch", limit)
        scratch.open()
        return scratch

    def shipped(self, size: int, key: str, **more: Any) -> tuple[ShippedFile, bytes]:
        digest, blocks, data = self.put(size, key)
        self.store.put(f"{key}.blocks", blocks)
        return ShippedFile("source", digest, key, blocks=f"{key}.blocks", **more), data

    def test_an_input_is_fetched_once(self) -> None:
        """And evicted when another needs its place, the least recently used first."""
        scratch = self.scratch(25 << 20)
        files = [self.shipped(10 << 20, f"a/{n}")[0] for n in range(3)]
        for number, expected in (
            (0, True),
            (1, True),
            (0, False),
            (2, True),
            (0, False),
            (1, True),
        ):
            with scratch.input(self.store, files[number], lambda: False) as (path, fetched):
                self.assertEqual(path.stat().st_size, 10 << 20)
                self.assertEqual(bool(fetched), expected, number)

    def test_what_is_in_use_stays(self) -> None:
        """There is no space then."""
        scratch = self.scratch(15 << 20)
        first, second = (self.shipped(10 << 20, f"a/{n}")[0] for n in range(2))
        with scratch.input(self.store, first, lambda: False):
            manager = scratch.input(self.store, second, lambda: False)
            self.assertRaises(NoSpace, manager.__enter__)
            self.assertRaises(NoSpace, scratch.folder(6 << 20).__enter__)
        with scratch.folder(6 << 20) as folder:
            self.assertTrue(folder.is_dir())
        self.assertFalse(folder.exists())

    def test_parts_add_up(self) -> None:
        """Only what is missing is fetched; the whole replaces them."""
        scratch = self.scratch(100 << 20)
        size = 40 * LEAST_BLOCK
        file, data = self.shipped(size, "a/0", ranges=((0, 10), (size - 10, size)))
        with scratch.input(self.store, file, lambda: False) as (path, fetched):
            self.assertEqual(fetched, 2 * LEAST_BLOCK + 40 * 32)
            self.assertEqual(path.read_bytes()[:LEAST_BLOCK], data[:LEAST_BLOCK])
            self.assertLess(path.stat().st_blocks * 512, size // 2)
        more = ShippedFile(
            "source", file.digest, file.key, blocks=file.blocks, ranges=((5, LEAST_BLOCK + 1),)
        )
        with scratch.input(self.store, more, lambda: False) as (_, fetched):
            self.assertEqual(fetched, LEAST_BLOCK)
        whole = ShippedFile("source", file.digest, file.key)
        with scratch.input(self.store, whole, lambda: False) as (path, fetched):
            self.assertEqual(path.read_bytes(), data)

    def test_missing_blocks(self) -> None:
        """Neighbours in one run, each once."""
        self.assertEqual(missing([(0, 10), (5, 25)], 10, 5, set()), [(0, 3)])
        self.assertEqual(missing([(0, 50)], 10, 5, {1, 3}), [(0, 1), (2, 3), (4, 5)])
        self.assertEqual(missing([(48, 60)], 10, 5, set()), [(4, 5)])
