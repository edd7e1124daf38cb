"""Following a task to its end."""

from __future__ import annotations

from typing import Any

from tests.client_harness import (
    TASK,
    ServerCase,
    refusal,
)
from vidproc.client.errors import (
    Refused,
)


class WatchTests(ServerCase):
    """Following a task."""

    async def watch(self, **options: Any) -> tuple[dict[str, Any], list[str]]:
        seen: list[str] = []
        client = self.client(**options)
        last = await client.watch(TASK, 0.01, lambda fields: seen.append(fields["status"]))
        return last, seen

    async def test_every_status_is_seen_until_the_last(self) -> None:
        """One request is answered until there is a terminal status."""
        last, seen = await self.watch()
        self.assertEqual(seen, ["queued", "processing", "completed"])
        self.assertEqual(last["status"], "completed")
        self.assertEqual(self.server.actions(), ["watch"])

    async def test_a_broken_watch_is_watched_again(self) -> None:
        """The break has no effect but a notice."""
        self.server.cut_watch = True
        _, seen = await self.watch()
        self.assertEqual(seen, ["queued", "processing", "completed"])
        self.assertEqual(self.server.actions(), ["watch", "watch"])

    async def test_a_server_without_watch_is_polled(self) -> None:
        """After a 400 to watch, the client polls the status."""
        self.server.unknown = {"watch"}
        _, seen = await self.watch()
        self.assertEqual(seen, ["queued", "processing", "completed"])
        self.assertEqual(self.server.actions(), ["watch", "status", "status", "status"])

    async def test_a_simple_server_is_polled_with_a_connection_each(self) -> None:
        """It needs neither watch nor connections that stay open."""
        self.server.unknown = {"watch"}
        self.server.closes_after_answer = True
        _, seen = await self.watch()
        self.assertEqual(seen, ["queued", "processing", "completed"])

    async def test_an_unknown_task_is_refused(self) -> None:
        """A 404 does not lead to polling."""
        self.server.refuse["watch"] = refusal(404)
        self.assertEqual((await self.fails(Refused, self.watch())).code, 404)

    async def test_a_server_that_restarts_is_waited_for(self) -> None:
        """A 503 in the middle is tried again."""
        self.server.refuse["watch"] = refusal(503)
        real = self.notices.append

        class Healing(list[str]):
            def append(inner, text: str) -> None:
                self.server.refuse.clear()
                real(text)

        self.notices = Healing()
        last, _ = await self.watch()
        self.assertEqual(last["status"], "completed")
