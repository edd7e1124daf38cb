"""The base class of tests of MMP connections: a server and a client in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.rig import Client, Rig, complete_step, message

GIF = {"start_time": 0, "duration": 1}


UPLOAD: dict[str, Any] = {"action": "upload", "type": "gif", "parameters": GIF}


class ProtocolTestCase(SynchronousTestCase):
    def rig(self, **options: Any) -> Rig:
        rig = Rig(Path(self.mktemp()), **options)
        self.addCleanup(rig.close)
        return rig

    def code(self, answer: dict[str, Any]) -> int:
        return int(answer["error"]["code"])

    def upload(self, client: Client, payload: bytes = b"film", **fields: Any) -> str:
        client.send(message({**UPLOAD, **fields}, payload, "mp4"))
        answer = client.answer()
        self.assertEqual(answer.get("status"), "accepted", answer)
        return str(answer["task_id"])

    def complete(self, rig: Rig, content: bytes = b"GIF of the film") -> None:
        """Let the only running task succeed."""
        while rig.runner.running:
            complete_step(rig.runner.running[0], content)


def rig_turns(client: Client) -> None:
    """Give the connection all turns that it waits for."""
    clock = client.protocol.clock
    assert isinstance(clock, Clock)
    clock.pump([0.0] * 10)
