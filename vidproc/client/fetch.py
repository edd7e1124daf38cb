"""Downloads a result, checks it and gives it its name; continues where an earlier run stopped."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

from vidproc.client.answer import Answer
from vidproc.client.client import Client
from vidproc.client.display import Display
from vidproc.client.errors import ChecksumMismatch, Refused
from vidproc.client.files import PartFile
from vidproc.client.log import Log

T = TypeVar("T")


class InThread(Protocol):
    """Calls a function that may block in a thread."""

    def __call__(self, function: Callable[[], T], /) -> Awaitable[T]:
        """Return its result."""


class Fetch:
    """Downloads results into `folder`, or to the file `output` if given, replacing that.

    With `force`, a file with the default name is replaced, too. `in_thread` calls blocking
    functions. `before_name` is called in a thread before the result gets a name, with the path and
    its SHA-256.
    """

    def __init__(
        self,
        client: Client,
        display: Display,
        log: Log,
        in_thread: InThread,
        *,
        folder: Path,
        output: Path | None,
        force: bool,
        before_name: Callable[[Path, str], None] = lambda target, sha256: None,
    ) -> None:
        self._client = client
        self._display = display
        self._log = log
        self._in_thread = in_thread
        self._folder = folder
        self._output = output
        self._force = force
        self._before_name = before_name
        self.size = 0
        """Bytes of the result, once it is fetched: it may be moved away as soon as it has its
        name."""

    async def fetch(self, task_id: str, stem: str) -> Path:
        """Download a task's result; return its path. `stem` is its default name."""
        for fresh in (False, True):
            part = PartFile(self._folder, task_id)
            resumed = False
            try:
                await self._in_thread(part.open)
                resumed = part.offset > 0
                try:
                    await self._client.download(task_id, _Shown(part, self._display))
                except Refused as refusal:
                    if refusal.code not in (409, 416) or not resumed:
                        raise
                    raise ChecksumMismatch("the part that was there does not fit") from None
                target = self._output or self._folder / f"{stem}.{part.media_type}"
                replace = self._output is not None or self._force
                finish = partial(part.finish, replace=replace, before_name=self._before_name)
                target = await self._in_thread(partial(finish, target))
            except ChecksumMismatch as problem:
                self._log.warning("download of %s: %s", task_id, problem)
                part.close(discard=True)
                if resumed and not fresh:
                    # The bytes of an earlier run may have been something else: once more from 0.
                    continue
                raise
            finally:
                part.close()
            self.size = part.offset
            self._log.info("task %s: %d bytes in %s", task_id, part.offset, target)
            return target
        raise AssertionError("unreachable")


class _Shown:
    """A sink that also moves the progress bar."""

    def __init__(self, part: PartFile, display: Display) -> None:
        self._part = part
        self._display = display

    @property
    def offset(self) -> int:
        return self._part.offset

    def begin(self, answer: Answer) -> None:
        self._part.begin(answer)
        self._show()

    def write(self, data: bytes | memoryview) -> None:
        self._part.write(data)
        self._show()

    def _show(self) -> None:
        self._display.download(self._part.offset, self._part.size or 0)
