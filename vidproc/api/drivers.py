"""Run calls on httpx: one driver blocks, the other is asynchronous; otherwise they are alike."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Generic, Self, TypeVar

import anyio
import anyio.to_thread
import httpx

from vidproc.api.effects import CHUNK, Broken, Call, Effect, FilePart, InThread, Reply, Send, Sleep

T = TypeVar("T")


def _timeout(send: Send) -> httpx.Timeout:
    return httpx.Timeout(send.patience, connect=10.0)


def _reply(response: httpx.Response, body: bytes) -> Reply:
    return Reply(response.status_code, dict(response.headers), body, str(response.url))


def _broken(error: httpx.TransportError) -> Broken:
    return Broken(str(error) or type(error).__name__)


class _Running(Generic[T]):
    """A call in progress: `effect` is what it asks for next, None once it has its `result`.

    Use it as a context manager, which closes the call.
    """

    effect: Effect | None
    result: T

    def __init__(self, call: Call[T]) -> None:
        self._call = call
        self._advance(lambda: next(call))

    def answer(self, answer: Any) -> None:
        """Give the call what it asked for."""
        self._advance(lambda: self._call.send(answer))

    def fail(self, problem: Exception) -> None:
        """Tell the call why it does not get what it asked for."""
        self._advance(lambda: self._call.throw(problem))

    def _advance(self, step: Callable[[], Effect]) -> None:
        try:
            self.effect = step()
        except StopIteration as stop:
            self.effect, self.result = None, stop.value

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._call.close()


class BlockingDriver:
    """Runs calls in the calling thread."""

    def __init__(self, http: httpx.Client) -> None:
        self._http = http

    def run(self, call: Call[T]) -> T:
        """Run a call to its end and return its result."""
        with _Running(call) as running:
            while running.effect is not None:
                try:
                    answer = self._do(running.effect)
                except (Broken, OSError) as error:
                    running.fail(error)
                else:
                    running.answer(answer)
            return running.result

    def _do(self, effect: Effect) -> Any:
        if isinstance(effect, Sleep):
            return time.sleep(effect.seconds)
        if isinstance(effect, InThread):
            return effect.function()
        try:
            return self._send(effect)
        except httpx.TransportError as error:
            raise _broken(error) from None

    def _send(self, send: Send) -> Reply:
        body = _chunks(send.body) if isinstance(send.body, FilePart) else send.body
        with self._http.stream(
            send.method,
            send.url,
            headers=dict(send.headers),
            content=body,
            timeout=_timeout(send),
        ) as response:
            receiver = send.receiver
            if receiver is None or not receiver.wants(_reply(response, b"")):
                return _reply(response, response.read())
            for data in response.iter_raw(CHUNK if "content-length" in response.headers else None):
                if not receiver.write(data):
                    break
            return _reply(response, b"")


class AsyncDriver:
    """Runs calls in an event loop; files are read and written in threads."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http

    async def run(self, call: Call[T]) -> T:
        """Run a call to its end and return its result."""
        with _Running(call) as running:
            while running.effect is not None:
                try:
                    answer = await self._do(running.effect)
                except (Broken, OSError) as error:
                    running.fail(error)
                else:
                    running.answer(answer)
            return running.result

    async def _do(self, effect: Effect) -> Any:
        if isinstance(effect, Sleep):
            return await anyio.sleep(effect.seconds)
        if isinstance(effect, InThread):
            return await anyio.to_thread.run_sync(effect.function)
        try:
            return await self._send(effect)
        except httpx.TransportError as error:
            raise _broken(error) from None

    async def _send(self, send: Send) -> Reply:
        body = _async_chunks(send.body) if isinstance(send.body, FilePart) else send.body
        async with self._http.stream(
            send.method,
            send.url,
            headers=dict(send.headers),
            content=body,
            timeout=_timeout(send),
        ) as response:
            receiver = send.receiver
            if receiver is None or not receiver.wants(_reply(response, b"")):
                return _reply(response, await response.aread())
            whole = "content-length" in response.headers
            async for data in response.aiter_raw(CHUNK if whole else None):
                if whole:
                    more = await anyio.to_thread.run_sync(receiver.write, data)
                else:
                    more = receiver.write(data)
                if not more:
                    break
            return _reply(response, b"")


def _chunks(part: FilePart) -> Iterator[bytes]:
    part.file.seek(part.offset)
    sent = 0
    while sent < part.size and (data := part.file.read(min(CHUNK, part.size - sent))):
        yield data
        sent += len(data)
        part.on_sent(sent)


async def _async_chunks(part: FilePart) -> AsyncIterator[bytes]:
    part.file.seek(part.offset)
    sent = 0
    while sent < part.size:
        data = await anyio.to_thread.run_sync(part.file.read, min(CHUNK, part.size - sent))
        if not data:
            break
        yield data
        sent += len(data)
        part.on_sent(sent)
