"""The blocking and the asynchronous client: the same calls, run by different drivers."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Self

import httpx

from vidproc.api import downloads, processing, tasks, uploads
from vidproc.api.drivers import AsyncDriver, BlockingDriver
from vidproc.api.models import OnProgress, Result, Status
from vidproc.api.settings import Settings, ignore_progress

DEFAULT_URL = "http://localhost:9980"

StrPath = str | os.PathLike[str]


def _optional(path: StrPath | None) -> Path | None:
    return None if path is None else Path(path)


class Client:
    """A server's HTTP frontend, for scripts: each call returns when it is done.

    `url` is the frontend's root, `token` one from the server's `--token-file`. `timeout` is how
    long a connection may be silent, `slot_timeout` how long a call waits for a slot or for space in
    the queue, both in seconds. `http` is an `httpx.Client` to use, for proxies or certificates.

    Every call raises `VidprocError` or one of its subclasses.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        token: str | None = None,
        *,
        timeout: float = 60.0,
        slot_timeout: float = 3600.0,
        http: httpx.Client | None = None,
    ) -> None:
        self._settings = Settings(url, token, timeout, slot_timeout=slot_timeout)
        self._http = httpx.Client() if http is None else http
        self._driver = BlockingDriver(self._http)

    def process(
        self,
        path: StrPath,
        operation: str,
        *,
        output: StrPath | None = None,
        on_progress: OnProgress = ignore_progress,
        wait_timeout: float | None = None,
        **parameters: object,
    ) -> Result:
        """Send a video, wait for the task and fetch the result.

        The result goes to the file or folder `output`, by default next to the video. Raises
        `TimedOut` if the task takes longer than `wait_timeout` seconds.
        """
        source, target = Path(path), _optional(output)
        return self._driver.run(
            processing.process(
                self._settings, source, operation, parameters, target, on_progress, wait_timeout
            )
        )

    def upload(
        self,
        path: StrPath,
        operation: str,
        *,
        on_progress: OnProgress = ignore_progress,
        resume: str | None = None,
        **parameters: object,
    ) -> str:
        """Send a video and return the id of its task.

        `resume` is the `upload_url` of the `Unreachable` that an earlier call raised.
        """
        return self._driver.run(
            uploads.upload(self._settings, Path(path), operation, parameters, on_progress, resume)
        )

    def wait(
        self,
        task_id: str,
        *,
        on_progress: OnProgress = ignore_progress,
        timeout: float | None = None,
    ) -> Status:
        """Wait until a task ends. Raises `TaskFailed`, `TaskCancelled` and `TimedOut`."""
        return self._driver.run(tasks.wait(self._settings, task_id, on_progress, timeout))

    def download(
        self, task_id: str, target: StrPath, *, on_progress: OnProgress = ignore_progress
    ) -> Result:
        """Fetch a result. `target` is a file, which is replaced, or a folder."""
        return self._driver.run(
            downloads.download(self._settings, task_id, Path(target), on_progress)
        )

    def status(self, task_id: str) -> Status:
        """Return a task's status."""
        return self._driver.run(tasks.status(self._settings, task_id))

    def cancel(self, task_id: str) -> None:
        """Cancel a task; if it is finished, remove its files."""
        self._driver.run(tasks.request(self._settings, "DELETE", f"tasks/{task_id}"))

    def tasks(self) -> list[Status]:
        """Return the token's tasks, newest first, at most 100."""
        answer = self._driver.run(tasks.request(self._settings, "GET", "tasks"))
        return [Status.of(task) for task in answer["tasks"]]

    def info(self) -> dict[str, Any]:
        """Return the server's version, limits and operations with their parameters."""
        answer: dict[str, Any] = self._driver.run(tasks.request(self._settings, "GET", "info"))
        return answer

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


class AsyncClient:
    """As `Client`, for asyncio (and trio). Progress callbacks are plain functions.

    `http` is an `httpx.AsyncClient` to use. A call that is cancelled leaves its task on the server.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        token: str | None = None,
        *,
        timeout: float = 60.0,
        slot_timeout: float = 3600.0,
        http: httpx.AsyncClient | None = None,
    ) -> None:
        self._settings = Settings(url, token, timeout, slot_timeout=slot_timeout)
        self._http = httpx.AsyncClient() if http is None else http
        self._driver = AsyncDriver(self._http)

    async def process(
        self,
        path: StrPath,
        operation: str,
        *,
        output: StrPath | None = None,
        on_progress: OnProgress = ignore_progress,
        wait_timeout: float | None = None,
        **parameters: object,
    ) -> Result:
        """See `Client.process`."""
        source, target = Path(path), _optional(output)
        return await self._driver.run(
            processing.process(
                self._settings, source, operation, parameters, target, on_progress, wait_timeout
            )
        )

    async def upload(
        self,
        path: StrPath,
        operation: str,
        *,
        on_progress: OnProgress = ignore_progress,
        resume: str | None = None,
        **parameters: object,
    ) -> str:
        """See `Client.upload`."""
        return await self._driver.run(
            uploads.upload(self._settings, Path(path), operation, parameters, on_progress, resume)
        )

    async def wait(
        self,
        task_id: str,
        *,
        on_progress: OnProgress = ignore_progress,
        timeout: float | None = None,
    ) -> Status:
        """See `Client.wait`."""
        return await self._driver.run(tasks.wait(self._settings, task_id, on_progress, timeout))

    async def download(
        self, task_id: str, target: StrPath, *, on_progress: OnProgress = ignore_progress
    ) -> Result:
        """See `Client.download`."""
        call = downloads.download(self._settings, task_id, Path(target), on_progress)
        return await self._driver.run(call)

    async def status(self, task_id: str) -> Status:
        """See `Client.status`."""
        return await self._driver.run(tasks.status(self._settings, task_id))

    async def cancel(self, task_id: str) -> None:
        """See `Client.cancel`."""
        await self._driver.run(tasks.request(self._settings, "DELETE", f"tasks/{task_id}"))

    async def tasks(self) -> list[Status]:
        """See `Client.tasks`."""
        answer = await self._driver.run(tasks.request(self._settings, "GET", "tasks"))
        return [Status.of(task) for task in answer["tasks"]]

    async def info(self) -> dict[str, Any]:
        """See `Client.info`."""
        call = tasks.request(self._settings, "GET", "info")
        answer: dict[str, Any] = await self._driver.run(call)
        return answer

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()


def process(
    path: StrPath,
    operation: str,
    *,
    url: str = DEFAULT_URL,
    token: str | None = None,
    output: StrPath | None = None,
    on_progress: OnProgress = ignore_progress,
    wait_timeout: float | None = None,
    **parameters: object,
) -> Result:
    """Process one video: see `Client.process`."""
    with Client(url, token) as client:
        return client.process(
            path,
            operation,
            output=output,
            on_progress=on_progress,
            wait_timeout=wait_timeout,
            **parameters,
        )
