"""The steps for one video: upload, watch, details, download; for runs with one video or many."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThreadPool
from twisted.python.failure import Failure

from vidproc.client.client import Client
from vidproc.client.display import Display
from vidproc.client.errors import InputChanged, Refused, WaitOver
from vidproc.client.fetch import Fetch
from vidproc.client.log import Log
from vidproc.client.options import Options
from vidproc.client.source import Source
from vidproc.client.upload import UploadRequest
from vidproc.client.words import describe_status
from vidproc.reactor import IFullReactor
from vidproc.resume import ResumeFile

T = TypeVar("T")


class Steps:
    """The steps for one video: coroutines that raise `ClientError`."""

    def __init__(
        self, options: Options, reactor: IFullReactor, *, client: Client, display: Display, log: Log
    ) -> None:
        self._options = options
        self._reactor = reactor
        self._client = client
        self._display = display
        self._log = log

    async def upload(self, source: Source, resume: ResumeFile, begun_id: str | None = None) -> str:
        """Upload the file, or the rest of it after an earlier run; return the task's ID.

        `begun_id` is the upload_id of an upload that this run has begun.
        """
        options = self._options
        try:
            return await self._client.upload(
                UploadRequest(
                    operation=options.type,
                    parameters=options.parameters,
                    file=source.file,
                    size=source.size,
                    media_type=source.media_type,
                    filename=source.label,
                    on_progress=lambda sent: self._display.upload(sent, source.size),
                    unchanged=source.unchanged,
                    earlier_id=resume.upload_id,
                    begun_id=begun_id,
                    on_upload_id=resume.remember,
                    sha256=lambda: self.in_thread(source.sha256),
                )
            )
        except (InputChanged, Refused) as error:
            if isinstance(error, InputChanged) or error.for_good:
                resume.forget()
            raise

    async def watch(self, task_id: str) -> dict[str, Any]:
        """Follow a task and return its last status; raises `WaitOver` after `max_wait_time`."""
        last_seen = ""

        def seen(fields: dict[str, Any]) -> None:
            nonlocal last_seen
            what = f"{fields.get('status')} {fields.get('stage') or ''}"
            if what != last_seen:
                self._log.info("task %s: %s", task_id, describe_status(fields))
                last_seen = what
            self._display.status(fields)

        # Bars need one a second; an old server is not polled more often than that.
        interval = min(1.0, max(0.1, self._options.check_interval))
        watching = Deferred.fromCoroutine(self._client.watch(task_id, interval, seen))
        return await watching.addTimeout(self._options.max_wait_time, self._reactor, _wait_over)

    async def details(self, task_id: str, last: dict[str, Any]) -> dict[str, Any]:
        """Return the long form of a status, or the short one if the server has no other."""
        try:
            answer = await self._client.request("status", task_id=task_id, detail=True)
        except Refused as refusal:
            self._log.warning("no details of the task: %s", refusal)
            return last
        return answer.fields

    def fetch(
        self,
        folder: Path,
        output: Path | None = None,
        *,
        before_name: Callable[[Path, str], None] = lambda target, sha256: None,
    ) -> Fetch:
        """Return a `Fetch` that downloads results into `folder`, or to the file `output`."""
        return Fetch(
            self._client,
            self._display,
            self._log,
            self.in_thread,
            folder=folder,
            output=output,
            force=self._options.force,
            before_name=before_name,
        )

    async def in_thread(self, function: Callable[[], T]) -> T:
        """Call a function that may block in a thread, and return its result."""
        pool = self._reactor.getThreadPool()
        result: T = await deferToThreadPool(self._reactor, pool, function)
        return result


def _wait_over(result: dict[str, Any] | Failure, seconds: float) -> dict[str, Any]:
    """Turn the cancellation into `WaitOver`, unless the watch ended just then."""
    if isinstance(result, Failure):
        raise WaitOver("--max-wait-time passed")
    return result
