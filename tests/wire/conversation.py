"""Plays a conversation with a server in memory, and records it.

`record.py` made `mmp1.json` with the version in which the promise was given; do not make it again.
Task IDs are replaced by their order.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.rig import Client, Rig, complete_step, message

UPLOAD_ID = "6e9b1a0e-54cb-4f10-9fd0-3c1b8a6e2f01"
Step = dict[str, Any]

GIF: Step = {"action": "upload", "type": "gif", "parameters": {"start_time": 0, "duration": 1}}
FILM = "f" * 100
PART = {**GIF, "upload_id": UPLOAD_ID, "size": 100}


def steps() -> list[Step]:
    """Return what is sent, and what happens in between: ``send`` (JSON, media type, payload) or
    ``raw`` bytes as text, and ``do``. ``TASK-1`` is the first task's id."""
    first, second, third = ({"task_id": f"TASK-{n}"} for n in (1, 2, 3))

    def send(request: dict[str, Any], payload: str = "", media_type: str = "") -> Step:
        return {"send": [request, media_type, payload]}

    return [
        send({"action": "info", "id": 1}),
        send({**GIF, "id": "up", "filename": "film.mp4"}, FILM, "mp4"),
        send({"action": "status", **first}),
        send({"action": "status", "detail": True, "id": 2, **first}),
        send(GIF, FILM, "mp4"),
        send({"action": "download", **first}),
        {**send({"action": "watch", "interval": 5, "id": "w", **first}), "do": "complete"},
        send({"action": "status", **first}),
        send({"action": "status", "detail": True, **first}),
        send({"action": "watch", **first}),
        send({"action": "download", **first}),
        send({"action": "download", "offset": 4, **first}),
        send({"action": "download", "offset": 400, **first}),
        send({"action": "cancel", **first}),
        send({"action": "download", **first}),
        send({**GIF, "type": "extract_audio", "parameters": {"bitrate": 128000}}, FILM, "mkv"),
        send({"action": "delete", "id": 3, **second}),
        send({"action": "status", **second}),
        send({"action": "upload_status", "upload_id": UPLOAD_ID}),
        send({**PART, "offset": 0}, FILM[:30], "mp4"),
        send({"action": "upload_status", "upload_id": UPLOAD_ID}),
        send({**PART, "offset": 50}, FILM[:50], "mp4"),
        send({**PART, "offset": 30, "type": "webm"}, FILM[30:], "mp4"),
        send({**PART, "offset": 30}, FILM[30:], "mp4"),
        send({**PART, "offset": 0}, FILM, "mp4"),
        send({"action": "upload_status", "upload_id": UPLOAD_ID, "id": 4}),
        {**send({"action": "status", **third}), "do": "fail"},
        send({"action": "status", **third}),
        send({"action": "download", **third}),
        send({**GIF, "sha256": "0" * 64}, FILM, "mp4"),
        send({**GIF, "parameters": {"start_time": 0}}, FILM, "mp4"),
        send({**GIF, "parameters": {"start_time": 0, "duration": 601}}, FILM, "mp4"),
        send({**GIF, "type": "dance"}, FILM, "mp4"),
        send({**GIF, "size": 5}, FILM, "mp4"),
        send({**GIF, "offset": 5}, FILM, "mp4"),
        send(GIF, "", "mp4"),
        send({"action": "dance", "id": 5}, FILM, "mp4"),
        send({"id": 6}),
        send({"action": "status", "id": 7}),
        send({"action": "status", "task_id": "0" * 32}),
        {"raw": '\x00\x05\x00\x00\x00\x00\x00\x00{"a":'},
        {"raw": "GET / HTTP/1.1\r\n\r\n"},
    ]


def play(root: Path) -> list[list[Any]]:
    """Play `steps` with a server in `root`. Return the recorded answers to each step: JSON, media
    type, payload."""
    rig = Rig(root)
    try:
        return _play(rig, rig.connect())
    finally:
        rig.close()


def _play(rig: Rig, client: Client) -> list[list[Any]]:
    tasks: dict[str, str] = {}
    answers = []
    for step in steps():
        if "raw" in step:
            client.send(step["raw"].encode("latin-1"))
        else:
            request, media_type, payload = step["send"]
            if "task_id" in request:
                request = {**request, "task_id": tasks.get(request["task_id"], "0" * 32)}
            client.send(message(request, payload.encode(), media_type))
        running = rig.runner.running
        while step.get("do") == "complete" and running:
            complete_step(running[0])
        if step.get("do") == "fail" and running:
            running[0].fail()
        found: list[list[Any]] = [
            [head, kind, data.decode()] for head, kind, data in client.answers()
        ]
        for head, _, _ in found:
            if head.get("status") == "accepted" and head["task_id"] not in tasks.values():
                tasks[f"TASK-{len(tasks) + 1}"] = head["task_id"]
        answers.append(_named(found, tasks))
    return answers


def _named(found: Any, tasks: dict[str, str]) -> Any:
    text = json.dumps(found)
    for name, task_id in tasks.items():
        text = text.replace(task_id, name)
    return json.loads(text)
