"""Finished tasks with results of any size, without processing anything."""

from __future__ import annotations

import time
from pathlib import Path

from vidproc.files.data_folder import result_key
from vidproc.tasks.model import State, Task, new_task_id
from vidproc.tasks.store.store import TaskStore


def add_result(
    data_dir: Path, size: int, *, fill: bool = False, filename: str | None = None
) -> tuple[str, Path]:
    """Add a finished task to the data folder of a stopped server; return its ID and its result.

    The result is `size` zero bytes, as a sparse file unless `fill`. Its SHA-256 is a wrong one.
    """
    store = TaskStore(data_dir / "tasks.sqlite")
    store.open()
    now = time.time()
    task = Task(
        task_id=new_task_id(),
        type="webm",
        parameters={},
        peer="127.0.0.9",
        created_at=now,
        input_size=1,
        filename=filename,
    )
    store.uploads.admit(task, 1, 100)
    store.move(task.task_id, State.QUEUED)
    store.attempts.claim_next("support", now, now)
    key = result_key(task.task_id, "webm")
    path = data_dir / key
    with path.open("wb") as file:
        file.truncate(size)
        for start in range(0, size if fill else 0, 1 << 20):
            file.write(bytes(min(1 << 20, size - start)))
    store.move(
        task.task_id,
        State.COMPLETED,
        completed_at=now,
        output_key=key,
        output_type="webm",
        output_size=size,
        output_sha256="0" * 64,
    )
    store.close()
    return task.task_id, path
