"""The requests that a server answers, each done in spite of broken connections.

An upload goes on at the offset that the server has, a watch with another watch, a download where
the file ends.
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
    """A server as seen from here: its requests, on one connection or on as many as it takes."""

    def __init__(self, link: Link) -> None:
        self._link = link

    async def request(self, action: str, **fields: Any) -> Answer:
        """Do a request without a payload; raises `Refused`, `ConnectFailed` and `LostForGood`."""

        async def attempt(connection: Connection) -> Answer:
            return (await self._link.ask(connection, action, **fields)).checked()

        return await self._link.persist(attempt)

    async def upload(self, request: UploadRequest) -> str:
        """Send a file and return the id of the task.

        Raises `Refused`, `ConnectFailed`, `LostForGood` and `InputChanged`.
        """
        return await Upload(self._link, request).run()

    async def watch(
        self, task_id: str, interval: float, on_status: Callable[[dict[str, Any]], None]
    ) -> dict[str, Any]:
        """Follow a task to its end and return the last status.

        `on_status` gets every status; `interval` is the seconds between two of them at most.
        A server that does not know ``watch`` is asked again and again.
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
                    # Some servers hang up on what they do not know.
                    silent = 0 if problem.answered else silent + 1
                    polling = silent >= 2
                    raise
                refusal = answer.refusal()
                if refusal is None:
                    return answer.fields
                if refusal.code not in (0, 400, 405, 501):
                    raise refusal
                self._link.log.info("the server does not know watch; asking for the status instead")
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
        """Fetch a task's result into `sink`, from the sink's offset on.

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
