"""The requests to a server; each survives broken connections.

An upload resumes at the server's offset, a watch with another watch, a download at the end of the
file.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.task import deferLater

from vidproc.client.answer import TERMINAL, Answer
from vidproc.client.connection import Connection, Sink
from vidproc.client.errors import ConnectionBroken
from vidproc.client.link import Link
from vidproc.client.upload import Upload, UploadRequest


class Client:
    """Sends requests to a server, over as many connections as necessary."""

    def __init__(self, link: Link) -> None:
        self._link = link

    async def request(self, action: str, **fields: object) -> Answer:
        """Send a request without a payload; raises `Refused`, `ConnectFailed` and `LostForGood`."""

        async def attempt(connection: Connection) -> Answer:
            return (await self._link.ask(connection, action, **fields)).checked()

        return await self._link.persist(attempt)

    async def upload(self, request: UploadRequest) -> str:
        """Send a file and return the task ID.

        Raises `Refused`, `ConnectFailed`, `LostForGood` and `InputChanged`.
        """
        return await Upload(self._link, request).run()

    async def watch(
        self, task_id: str, interval: float, on_status: Callable[[dict[str, Any]], None]
    ) -> dict[str, Any]:
        """Follow a task to its end and return the last status.

        `on_status` gets every status; `interval` is the longest time between two of them, in
        seconds. A server that does not support ``watch`` is polled.
        Raises `Refused`, `ConnectFailed` and `LostForGood`.
        """
        polling = False
        silent = 0

        def seen(fields: dict[str, Any]) -> None:
            self._link.advance()
            on_status(fields)

        async def attempt(connection: Connection) -> dict[str, Any]:
            nonlocal polling, silent
            if not polling:
                fields = self._link.fields("watch", task_id=task_id, interval=interval)
                try:
                    answer = await connection.watch(fields, seen)
                except ConnectionBroken as problem:
                    # Some servers close the connection on unknown requests.
                    silent = 0 if problem.answered else silent + 1
                    polling = silent >= 2
                    raise
                refusal = answer.refusal()
                if refusal is None:
                    return answer.fields
                if refusal.code not in (0, 400, 405, 501):
                    raise refusal
                self._link.log.info("the server does not support watch; polling the status instead")
                polling = True
            while True:
                answer = await self._link.ask(
                    await self._link.connected(), "status", task_id=task_id
                )
                answer.checked()
                seen(answer.fields)
                if answer.fields.get("status") in TERMINAL:
                    return answer.fields
                await deferLater(self._link.clock, interval)

        return await self._link.persist(attempt, forgive=lambda: True)

    async def download(self, task_id: str, sink: Sink) -> Answer:
        """Download a task's result into `sink`, starting at the sink's offset.

        Raises `Refused`, `ConnectFailed`, `LostForGood`, and what the sink raises.
        """
        best = sink.offset

        async def attempt(connection: Connection) -> Answer:
            nonlocal best
            offset = {"offset": sink.offset} if sink.offset else {}
            self._link.log.info("download of %s begins at %d", task_id, sink.offset)
            fields = self._link.fields("download", task_id=task_id, **offset)
            try:
                return (await connection.download(fields, sink)).checked()
            finally:
                if sink.offset > best:
                    best = sink.offset
                    self._link.advance()

        return await self._link.persist(attempt, forgive=lambda: True)

    def close(self) -> None:
        """Close the connection, if there is one."""
        self._link.close()
