"""SHA-256 of a file by blocks, so that a part of it can be checked as well as the whole.

A file is identified by its root, the SHA-256 of its blocks' digests. Whoever reads parts gets the
digests too, checks them against the root, and then each block against its own digest.
"""

from __future__ import annotations

import hashlib

import msgspec

LEAST_BLOCK = 32 << 10
"""The smallest block, in bytes."""
MOST_BLOCKS = 1 << 14
"""The most blocks of a file, so that their digests take at most 512 KiB."""
DIGEST_SIZE = 32


class Digest(msgspec.Struct, frozen=True):
    """What a file must be: its `size` and its blocks' size in bytes, and its root."""

    size: int
    block: int
    root: bytes


def block_size(size: int) -> int:
    """Return the size of the blocks of a file of `size` bytes.

    Who reads a part of it fetches all digests, and about a block too much: the sum is least where
    both are equal.
    """
    block = LEAST_BLOCK
    while block * block < DIGEST_SIZE * size or block * MOST_BLOCKS < size:
        block *= 2
    return block


def root_of(blocks: bytes) -> bytes:
    """Return the root of a file whose blocks have these digests, one after another."""
    return hashlib.sha256(blocks).digest()


class BlockHasher:
    """Computes the digests of a file's blocks as its bytes go by."""

    def __init__(self, block: int) -> None:
        self._block = block
        self._current = hashlib.sha256()
        self._filled = 0
        self._done = bytearray()
        self.size = 0

    def feed(self, data: bytes | memoryview) -> None:
        """Take the next bytes."""
        view = memoryview(data)
        self.size += len(view)
        while view:
            taken = view[: self._block - self._filled]
            self._current.update(taken)
            self._filled += len(taken)
            view = view[len(taken) :]
            if self._filled == self._block:
                self._close()

    def _close(self) -> None:
        self._done += self._current.digest()
        self._current = hashlib.sha256()
        self._filled = 0

    def finish(self) -> bytes:
        """Return the digests of all blocks; the last may be shorter than the others."""
        if self._filled:
            self._close()
        return bytes(self._done)

    def digest(self) -> Digest:
        """Return the digest of all that was fed."""
        return Digest(self.size, self._block, root_of(self.finish()))
