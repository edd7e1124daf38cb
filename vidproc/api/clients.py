"""The blocking and the asynchronous client: the same calls, run by another driver."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Self

import httpx

from vidproc.api import calls
from vidproc.api.calls import Settings, ignore_progress
from vidproc.api.drivers import AsyncDriver, BlockingDriver
from vidproc.api.models import OnProgress, Result, Status

DEFAULT_URL = "http://localhost:9980"

StrPath = str | os.PathLike[str]


def _optional(path: StrPath | None) -> Path | None:
    return None if path is None else Path(path)


class Client:
    """A server's HTTP frontend, for scripts: each call waits for its end.

    `url` is where the frontend's root is, `token` one of the server's `--token-file`. `timeout` is
    how long a connection may be silent, `slot_timeout` how long a call waits for a slot or for
    space in the queue, in seconds. `http` is an `httpx.Client` to use, for proxies or certificates.

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
        **parameters: Any,
    ) -> Result:
        """Send a video, wait for the task and fetch the result.

        The result goes to the file or folder `output`, by default next to the video. It raises
        `TimedOut` when the task takes longer than `wait_timeout` seconds.
        """
        source, target = Path(path), _optional(output)
        return self._driver.run(
            calls.process(
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
        **parameters: Any,
    ) -> str:
        """Send a video and return the id of its task.

        `resume` is the `upload_url` of the `Unreachable` that an earlier call raised.
        """
        return self._driver.run(
            calls.upload(self._settings, Path(path), operation, parameters, on_progress, resume)
        )

    def wait(
        self,
        task_id: str,
        *,
        on_progress: OnProgress = ignore_progress,
        timeout: float | None = None,
    ) -> Status:
        """Wait for a task's end. Raises `TaskFailed`, `TaskCancelled` and `TimedOut`."""
        return self._driver.run(calls.wait(self._settings, task_id, on_progress, timeout))

    def download(
        self, task_id: str, target: StrPath, *, on_progress: OnProgress = ignore_progress
    ) -> Result:
        """Fetch a result into the file `target`, which is replaced, or into that folder."""
        return self._driver.run(calls.download(self._settings, task_id, Path(target), on_progress))

    def status(self, task_id: str) -> Status:
        """Return how a task stands."""
        return self._driver.run(calls.status(self._settings, task_id))

    def cancel(self, task_id: str) -> None:
        """Cancel a task; of a finished one, remove the files."""
        self._driver.run(calls.request(self._settings, "DELETE", f"tasks/{task_id}"))

    def tasks(self) -> list[Status]:
        """Return the token's tasks, newest first, at most 100."""
        answer = self._driver.run(calls.request(self._settings, "GET", "tasks"))
        return [Status.of(task) for task in answer["tasks"]]

    def info(self) -> dict[str, Any]:
        """Return the server's version, limits and operations with their parameters."""
        answer: dict[str, Any] = self._driver.run(calls.request(self._settings, "GET", "info"))
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
        **parameters: Any,
    ) -> Result:
        """See `Client.process`."""
        source, target = Path(path), _optional(output)
        return await self._driver.run(
            calls.process(
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
        **parameters: Any,
    ) -> str:
        """See `Client.upload`."""
        return await self._driver.run(
            calls.upload(self._settings, Path(path), operation, parameters, on_progress, resume)
        )

    async def wait(
        self,
        task_id: str,
        *,
        on_progress: OnProgress = ignore_progress,
        timeout: float | None = None,
    ) -> Status:
        """See `Client.wait`."""
        return await self._driver.run(calls.wait(self._settings, task_id, on_progress, timeout))

    async def download(
        self, task_id: str, target: StrPath, *, on_progress: OnProgress = ignore_progress
    ) -> Result:
        """See `Client.download`."""
        call = calls.download(self._settings, task_id, Path(target), on_progress)
        return await self._driver.run(call)

    async def status(self, task_id: str) -> Status:
        """See `Client.status`."""
        return await self._driver.run(calls.status(self._settings, task_id))

    async def cancel(self, task_id: str) -> None:
        """See `Client.cancel`."""
        await self._driver.run(calls.request(self._settings, "DELETE", f"tasks/{task_id}"))

    async def tasks(self) -> list[Status]:
        """See `Client.tasks`."""
        answer = await self._driver.run(calls.request(self._settings, "GET", "tasks"))
        return [Status.of(task) for task in answer["tasks"]]

    async def info(self) -> dict[str, Any]:
        """See `Client.info`."""
        call = calls.request(self._settings, "GET", "info")
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
    **parameters: Any,
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
