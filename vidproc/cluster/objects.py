"""What this server has in the object store: inputs of commands, outputs, and what is left behind.

    vidproc/<server id>/<task id>/<attempt>/<name>     a file, and its blocks' digests beside it
    vidproc/<server id>/lease/<number>                 the lease (`vidproc.cluster.lease`)

A file is put there once, however many commands read it, and everything of an attempt goes when the
attempt is over. What a crash or a late worker leaves is swept away: nothing is there rightly but
what belongs to an attempt that runs here, since the lease is ours.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from twisted.internet.defer import Deferred, ensureDeferred

from vidproc.cluster.lease import Lease
from vidproc.cluster.messages import MadeFile, ShippedFile
from vidproc.cluster.object_store import ObjectStore, StoreAway, TransferStopped
from vidproc.ffmpeg.command import SOURCE, Command, Workspace
from vidproc.files.threads import WorkerThreads, when_fired
from vidproc.topics import Topic, TopicLogger

INLINE = 64 << 10
"""Bytes of a file that travels within the order."""
_BLOCKS = ".blocks"

Signature = tuple[int, int, int]


@dataclass(eq=False)
class _Shipped:
    """A version of a file that is in the store, or on its way there."""

    signature: Signature
    file: ShippedFile | None = None
    arrived: Deferred[None] = field(default_factory=Deferred)
    fault: Exception | None = None


@dataclass(eq=False)
class _Attempt:
    """The objects of one attempt."""

    prefix: str
    files: dict[str, _Shipped] = field(default_factory=dict)
    numbers: int = 0
    transfers: int = 0
    over: threading.Event = field(default_factory=threading.Event)
    removing: bool = False


class Objects:
    """The objects of this server, below `prefix`."""

    log = TopicLogger(Topic.SERVICE)

    def __init__(
        self,
        store: ObjectStore,
        prefix: str,
        lease: Lease,
        threads: WorkerThreads,
        path_of_key: Callable[[str], Path],
    ) -> None:
        self._store = store
        self._prefix = prefix
        self._lease = lease
        self._threads = threads
        self._path_of_key = path_of_key
        self._attempts: dict[str, _Attempt] = {}
        self.bytes_put = 0
        self.bytes_fetched = 0

    def prefix_of(self, workspace: Workspace) -> str:
        """Return where the objects of an attempt are."""
        return self._attempt(workspace).prefix

    def _attempt(self, workspace: Workspace) -> _Attempt:
        attempt = self._attempts.get(workspace.folder_key)
        if attempt is None:
            parts = PurePosixPath(workspace.folder_key).parts[-2:]
            attempt = _Attempt("/".join((self._prefix, *parts)))
            self._attempts[workspace.folder_key] = attempt
        return attempt

    # --- to the workers -------------------------------------------------------------------------

    async def ship(self, command: Command, workspace: Workspace) -> tuple[ShippedFile, ...]:
        """Return what a worker must know of a command's inputs, once they are in the store.

        Raises `StoreAway`, `OSError` and `TransferStopped`.
        """
        ranges = command.part.ranges if command.part is not None else None
        files = []
        for name in command.inputs:
            file = await self._ship_file(name, workspace)
            if name == SOURCE and ranges is not None and file.blocks:
                file = ShippedFile(name, file.digest, file.key, None, file.blocks, ranges)
            files.append(file)
        return tuple(files)

    def ship_ahead(self, workspace: Workspace) -> None:
        """Begin to put the source into the store, for commands that come soon."""
        ensureDeferred(self._ship_file(SOURCE, workspace)).addErrback(
            # Those that need it try again, and see to the failure.
            lambda failure: self.log.info("the source could not be put: {why}", why=failure.value)
        )

    async def _ship_file(self, name: str, workspace: Workspace) -> ShippedFile:
        attempt = self._attempt(workspace)
        path = self._path_of_key(workspace.key_of(name))
        signature = await self._threads.call(_signature, path)
        shipped = attempt.files.get(name)
        if shipped is None or shipped.signature != signature or shipped.fault is not None:
            shipped = attempt.files[name] = _Shipped(signature)
            ensureDeferred(self._put(shipped, attempt, name, path)).addErrback(
                lambda failure: self.log.failure("a file could not be put", failure)
            )
        if shipped.file is None and shipped.fault is None:
            await when_fired(shipped.arrived)
        if shipped.fault is not None:
            raise shipped.fault
        assert shipped.file is not None
        return shipped.file

    async def _put(self, shipped: _Shipped, attempt: _Attempt, name: str, path: Path) -> None:
        attempt.numbers += 1
        number = attempt.numbers
        attempt.transfers += 1
        try:
            shipped.file = await self._threads.call(
                self._put_now, attempt, number, name, path, shipped.signature
            )
        except (StoreAway, TransferStopped, OSError) as error:
            shipped.fault = error
        finally:
            attempt.transfers -= 1
            shipped.arrived.callback(None)
            self._remove_if_over(attempt)

    def _put_now(
        self, attempt: _Attempt, number: int, name: str, path: Path, signature: Signature
    ) -> ShippedFile:
        from vidproc.cluster.digest import BlockHasher, block_size

        size = signature[1]
        if size <= INLINE:
            data = path.read_bytes()
            hasher = BlockHasher(block_size(len(data)))
            hasher.feed(data)
            return ShippedFile(name, hasher.digest(), data=data)
        key = f"{attempt.prefix}/{name}" if number == 1 else f"{attempt.prefix}/{name}.{number}"
        digest, blocks = self._store.put_file(path, key, attempt.over.is_set)
        self.bytes_put += digest.size
        if name != SOURCE:
            return ShippedFile(name, digest, key)
        self._store.put(key + _BLOCKS, blocks, attempt.over.is_set)
        return ShippedFile(name, digest, key, blocks=key + _BLOCKS)

    def distrust(self, files: tuple[ShippedFile, ...], workspace: Workspace) -> None:
        """Put files again when a command needs them: a worker found them lacking or damaged."""
        known = self._attempt(workspace).files
        for file in files:
            shipped = known.get(file.name)
            if shipped is not None and shipped.file is not None and shipped.file.key == file.key:
                del known[file.name]

    # --- from the workers -----------------------------------------------------------------------

    async def fetch(self, made: MadeFile, workspace: Workspace) -> None:
        """Write a command's output into the attempt's folder, checked.

        Another command can read it from the store. Raises `StoreAway`, `Damaged`, `NoSpace` and
        `TransferStopped`.
        """
        attempt = self._attempt(workspace)
        attempt.transfers += 1
        try:
            signature = await self._threads.call(self._fetch_now, attempt, made, workspace)
            shipped = _Shipped(signature, ShippedFile(made.name, made.digest, made.key))
            attempt.files[made.name] = shipped
        finally:
            attempt.transfers -= 1
            self._remove_if_over(attempt)

    def _fetch_now(self, attempt: _Attempt, made: MadeFile, workspace: Workspace) -> Signature:
        path = self._path_of_key(workspace.key_of(made.name))
        new = path.with_name(f".{made.name}.fetched")
        try:
            self._store.fetch(made.key, new, made.digest, attempt.over.is_set)
            new.replace(path)
        finally:
            new.unlink(missing_ok=True)
        self.bytes_fetched += made.digest.size
        return _signature(path)

    # --- what is left ---------------------------------------------------------------------------

    def release(self, workspace: Workspace) -> None:
        """Remove everything of an attempt, once its transfers have stopped."""
        attempt = self._attempts.get(workspace.folder_key)
        if attempt is not None:
            attempt.over.set()
            self._remove_if_over(attempt)

    def release_all(self) -> None:
        """Release all attempts, at a stop; what is on its way stops soon."""
        for attempt in list(self._attempts.values()):
            attempt.over.set()
            self._remove_if_over(attempt)

    def _remove_if_over(self, attempt: _Attempt) -> None:
        if attempt.over.is_set() and not attempt.transfers and not attempt.removing:
            attempt.removing = True
            ensureDeferred(self._remove(attempt)).addErrback(
                lambda failure: self.log.failure("objects could not be removed", failure)
            )

    async def _remove(self, attempt: _Attempt) -> None:
        try:
            await self._threads.call(self._store.remove_below, attempt.prefix)
        except StoreAway:
            pass  # swept later
        finally:
            for key, each in list(self._attempts.items()):
                if each is attempt:
                    del self._attempts[key]

    def sweep(self) -> int:
        """Remove what belongs to no attempt that runs; return how many objects. For a thread.

        Raises `StoreAway`. Does nothing unless the lease is held.
        """
        if not self._lease.held:
            return 0
        return self._store.remove_below(self._prefix, self._is_known)

    def _is_known(self, key: str) -> bool:
        prefixes = [
            attempt.prefix
            for attempt in list(self._attempts.values())
            if attempt.transfers or not attempt.over.is_set()
        ]
        return any(
            key.startswith(f"{prefix}/") or f"{prefix}/".startswith(key)
            for prefix in [*prefixes, self._lease.prefix]
        )


def _signature(path: Path) -> Signature:
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns
