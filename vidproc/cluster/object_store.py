"""The object store: scratch space that the server and all workers reach. For threads.

Every call has patience: it tries again for a while if the store cannot be reached, and then raises
`StoreAway`. Files go both ways in pieces, so memory stays the same whatever their size.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

import obstore
from obstore.store import from_url

from vidproc.cluster.digest import DIGEST_SIZE, BlockHasher, Digest, block_size, root_of
from vidproc.topics import Topic, TopicLogger

R = TypeVar("R")

PATIENCE = 90.0
"""Seconds for which a call tries again."""
_PIECE = 1 << 20
_PART = 8 << 20
"""Bytes of a multipart upload's part; larger for files with more than `_MOST_PARTS`."""
_MOST_PARTS = 9000  # S3 allows 10,000
_PARTS_AT_ONCE = 2
_SINGLE = 4 << 20
"""Bytes up to which an object is put with a single request."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 2.0
_REQUEST_TIMEOUT = timedelta(seconds=60)
_CONNECT_TIMEOUT = timedelta(seconds=5)
_BACKOFF = timedelta(milliseconds=100)
_READ_AGAIN = 2
"""How many times a file that arrives damaged is fetched again."""

Stopped = Callable[[], bool]


class StoreAway(Exception):
    """The object store could not be reached, or lacks an object, for as long as we wait."""


class Lacking(StoreAway):
    """The object store is there, but an object, or the end of it, is not."""


class Damaged(Exception):
    """A file arrived damaged every time."""


class TransferStopped(Exception):
    """A transfer was stopped on request."""


class NoSpace(Exception):
    """This machine's disk is full."""


def never() -> bool:
    """Return False: nothing stops this transfer."""
    return False


class ObjectStore:
    """The object store at `url`: file:, s3:, gs: or az:.

    Credentials and endpoints come from the usual environment variables.
    """

    log = TopicLogger(Topic.SERVICE)

    def __init__(self, url: str, patience: float = PATIENCE) -> None:
        self.url = url
        self._patience = patience
        self._folder: Path | None = None
        options: dict[str, Any] = {}
        if urlsplit(url).scheme == "file":
            self._folder = Path(unquote(urlsplit(url).path))
            options["automatic_cleanup"] = True
        else:
            # Its own tries are short: a transfer that is to stop must not wait for them.
            options["retry_config"] = {
                "max_retries": 2,
                "retry_timeout": _CONNECT_TIMEOUT,
                "backoff": {"init_backoff": _BACKOFF, "max_backoff": _BACKOFF, "base": 2},
            }
            options["client_options"] = {
                "timeout": _REQUEST_TIMEOUT,
                "connect_timeout": _CONNECT_TIMEOUT,
                **({"allow_http": True} if _plain_endpoint() else {}),
            }
        self._options = options
        self._opened: Any = None

    @property
    def _store(self) -> Any:
        # Not before it is used: a folder may be away when we start.
        if self._opened is None:
            self._opened = from_url(self.url, **self._options)
        return self._opened

    # --- small objects --------------------------------------------------------------------------

    def put(self, key: str, data: bytes, stopped: Stopped = never) -> None:
        """Put a small object, replacing any."""
        self._try(f"putting {key}", lambda: obstore.put(self._store, key, data), stopped)

    def create(self, key: str, data: bytes) -> bool:
        """Put a small object unless there is one; return whether it was put. Tries once."""
        self._check_folder()
        try:
            obstore.put(self._store, key, data, mode="create")
        except (obstore.exceptions.AlreadyExistsError, FileExistsError):
            return False
        except _ERRORS as error:
            raise StoreAway(_said(error)) from error
        return True

    def get(self, key: str, stopped: Stopped = never) -> bytes:
        """Return a small object."""
        return self._try(
            f"getting {key}", lambda: bytes(obstore.get(self._store, key).bytes()), stopped
        )

    def keys(self, prefix: str) -> list[tuple[str, int]]:
        """Return the key and size of each object below `prefix`. Tries once."""
        self._check_folder()
        try:
            found = [
                (meta["path"], meta["size"])
                for page in obstore.list(self._store, prefix)
                for meta in page
            ]
        except _ERRORS as error:
            raise StoreAway(_said(error)) from error
        return sorted(found)

    def remove(self, keys: list[str]) -> None:
        """Remove objects; those that are gone already do not matter. Tries once."""
        self._check_folder()
        for key in keys:
            try:
                obstore.delete(self._store, key)
            except (obstore.exceptions.NotFoundError, FileNotFoundError):
                pass
            except _ERRORS as error:
                raise StoreAway(_said(error)) from error

    def remove_below(self, prefix: str, keep: Callable[[str], bool] = lambda key: False) -> int:
        """Remove the objects below `prefix` but those that `keep` says; return how many."""
        found = [key for key, _ in self.keys(prefix) if not keep(key)]
        self.remove(found)
        return len(found) + self._remove_staged(prefix, keep)

    def _remove_staged(self, prefix: str, keep: Callable[[str], bool]) -> int:
        """Remove what a process that was killed has left of its uploads, and empty folders.

        On a file system only, where the store does not list them ("name#1"). In a bucket a
        lifecycle rule does this.
        """
        if self._folder is None:
            return 0
        top = self._folder / prefix
        removed = 0
        for folder, _, names in os.walk(top, topdown=False):
            for name in names:
                path = Path(folder, name)
                if "#" in name and not keep(str(path.relative_to(self._folder))):
                    path.unlink(missing_ok=True)
                    removed += 1
            if not keep(str(Path(folder).relative_to(self._folder)) + "/"):
                try:
                    Path(folder).rmdir()
                except OSError:
                    pass  # it holds something, or another has removed it
        return removed

    # --- files ----------------------------------------------------------------------------------

    def put_file(self, path: Path, key: str, stopped: Stopped = never) -> tuple[Digest, bytes]:
        """Put a file; return its digest and its blocks' digests."""
        size = path.stat().st_size

        def put() -> tuple[Digest, bytes]:
            hasher = BlockHasher(block_size(size))
            pieces = _pieces(path, hasher, stopped)
            if size <= _SINGLE:
                obstore.put(self._store, key, b"".join(pieces))
            else:
                obstore.put(
                    self._store,
                    key,
                    pieces,
                    use_multipart=True,
                    chunk_size=max(_PART, -(-size // _MOST_PARTS)),
                    max_concurrency=_PARTS_AT_ONCE,
                )
            digest = hasher.digest()
            if digest.size != size:
                raise OSError(f"{path.name} changed while it was read")
            return digest, hasher.finish()

        return self._try(f"putting {key}", put, stopped)

    def fetch(self, key: str, path: Path, digest: Digest, stopped: Stopped = never) -> None:
        """Write an object to the file `path`, and check it against `digest`.

        Raises `Damaged` if it differs, `NoSpace`, and otherwise as all calls.
        """
        for _ in range(_READ_AGAIN + 1):
            hasher = BlockHasher(digest.block)
            with _writing(path, "wb") as file:

                def go_on(file: Any = file, hasher: BlockHasher = hasher) -> None:
                    for data in self._read(key, hasher.size, digest.size):
                        _check(stopped)
                        _write(file, data)
                        hasher.feed(data)

                if digest.size:
                    self._try(f"getting {key}", go_on, stopped)
            if hasher.digest() == digest:
                return
        raise Damaged(f"{key} arrived damaged")

    def fetch_blocks(self, key: str, path: Path, digest: Digest, stopped: Stopped = never) -> bytes:
        """Return the digests of a file's blocks, which are the object `key`, checked."""
        for _ in range(_READ_AGAIN + 1):
            blocks = self.get(key, stopped)
            if root_of(blocks) == digest.root:
                return blocks
        raise Damaged(f"{key} arrived damaged")

    def fetch_range(
        self,
        key: str,
        path: Path,
        digest: Digest,
        blocks: bytes,
        first: int,
        last: int,
        stopped: Stopped = never,
    ) -> None:
        """Write the blocks `first` to `last` (exclusive) of an object into the file `path`.

        Each is checked before it is written. Raises as `fetch` does.
        """
        at, end = first * digest.block, min(last * digest.block, digest.size)
        with _writing(path, "r+b") as file:

            def go_on() -> None:
                nonlocal at
                pending = bytearray()
                for data in self._read(key, at, end):
                    _check(stopped)
                    pending += data
                    while len(pending) >= digest.block or (pending and at + len(pending) == end):
                        taken = bytes(pending[: digest.block])
                        if not _is_block(taken, blocks, at // digest.block):
                            raise Damaged(f"{key} arrived damaged")
                        file.seek(at)
                        _write(file, taken)
                        at += len(taken)
                        del pending[: len(taken)]

            tries_left = _READ_AGAIN
            while at < end:
                try:
                    self._try(f"getting {key}", go_on, stopped)
                except Damaged:
                    if not tries_left:
                        raise
                    tries_left -= 1

    def _read(self, key: str, start: int, end: int) -> Iterator[bytes]:
        if start >= end:
            return
        found = obstore.get(self._store, key, options={"range": (start, end)})
        got = start
        for data in found.stream(min_chunk_size=_PIECE):
            got += len(data)
            yield data
        if got != end:
            raise _Incomplete(f"{key} ended after {got} of {end} bytes")

    # --- patience -------------------------------------------------------------------------------

    def _check_folder(self) -> None:
        # The store itself would create a folder whose disk is not mounted.
        if self._folder is not None and not self._folder.is_dir():
            raise StoreAway(f"there is no folder {self._folder}")

    def _try(self, what: str, call: Callable[[], R], stopped: Stopped) -> R:
        give_up_at = time.monotonic() + self._patience
        pause = _FIRST_PAUSE
        told = lacking = False
        while True:
            _check(stopped)
            try:
                self._check_folder()
                return call()
            except (StoreAway, *_ERRORS) as error:
                # What comes after the end of an object is asked for next, which is another error.
                lacking = lacking or isinstance(error, _LACKING)
                if time.monotonic() >= give_up_at:
                    kind = Lacking if lacking else StoreAway
                    raise kind(f"{what}: {_said(error)}") from error
                if not told and pause > _FIRST_PAUSE:
                    self.log.warn(
                        "object store: {what}: {error}; trying again", what=what, error=_said(error)
                    )
                    told = True
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)


class _Incomplete(OSError):
    """An object is shorter than it was when it was put."""


_LACKING = (obstore.exceptions.NotFoundError, FileNotFoundError, _Incomplete)
_ERRORS = (obstore.exceptions.BaseError, OSError, ValueError)
"""What obstore raises: some of its errors are Python's own."""


def _said(error: Exception) -> str:
    """Return an error's text without the structures that obstore adds to it."""
    return " ".join(str(error).partition("\n\nDebug source:")[0].split())


def _plain_endpoint() -> bool:
    return any(
        os.environ.get(name, "").startswith("http://")
        for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT", "AWS_ENDPOINT_URL_S3")
    )


def _check(stopped: Stopped) -> None:
    if stopped():
        raise TransferStopped


def _pieces(path: Path, hasher: BlockHasher, stopped: Stopped) -> Iterator[bytes]:
    with path.open("rb") as file:
        while data := file.read(_PIECE):
            _check(stopped)
            hasher.feed(data)
            yield data


class _writing:
    """Opens a file for writing; what the disk refuses is `NoSpace`, not the store's fault."""

    def __init__(self, path: Path, mode: str) -> None:
        self._path, self._mode = path, mode

    def __enter__(self) -> Any:
        try:
            self._file = self._path.open(self._mode, buffering=0)
        except OSError as error:
            raise NoSpace(str(error)) from error
        return self._file

    def __exit__(self, *_: object) -> None:
        self._file.close()


def _write(file: Any, data: bytes) -> None:
    view = memoryview(data)
    try:
        while view:
            view = view[file.write(view) :]
    except OSError as error:
        raise NoSpace(str(error)) from error


def _is_block(data: bytes, blocks: bytes, number: int) -> bool:
    return root_of(data) == blocks[number * DIGEST_SIZE : (number + 1) * DIGEST_SIZE]
