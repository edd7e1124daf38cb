"""The call that downloads a result. After a broken connection it continues at the byte that is on
the disk."""

from __future__ import annotations

import hashlib
from pathlib import Path

from vidproc.api.effects import Broken, Call, InThread, Reply, Send
from vidproc.api.errors import ResultDamaged, VidprocError
from vidproc.api.models import OnProgress, Progress, Result, Status
from vidproc.api.persistence import Persistence
from vidproc.api.receivers import PartReceiver
from vidproc.api.settings import Settings
from vidproc.api.tasks import status, task_path


def download(
    settings: Settings,
    task_id: str,
    target: Path,
    on_progress: OnProgress,
    last: Status | None = None,
    stem: str | None = None,
) -> Call[Result]:
    """Download a result, check it and return it.

    `target` is a file, which is replaced, or a folder. In a folder the name is `stem` with the
    result's extension; if that is taken, the next free name.
    """
    if last is None:
        last = yield from status(settings, task_id)
    persistence = Persistence(settings, on_progress)
    name = hashlib.sha256(task_id.encode()).hexdigest()[:32]
    folder = target if target.is_dir() else target.parent
    part = PartReceiver(folder / f".vidproc-{name}.part")
    part.on_progress = lambda share: on_progress(Progress("downloading", share))
    send = f"{task_path(task_id)}/result"
    try:
        yield InThread(part.open)
        while True:
            before = part.offset
            headers = {**settings.headers, **part.headers, "Accept-Encoding": "identity"}
            try:
                reply: Reply = yield Send(
                    "GET", settings.at(send), headers, receiver=part, patience=settings.timeout
                )
            except Broken as problem:
                if part.offset > before:
                    persistence.advance()
                yield from persistence.broke(problem)
                continue
            if reply.status == 416 and part.offset:
                break  # everything had arrived before
            if reply.status not in (200, 206):
                yield from persistence.refused(reply)
            elif part.offset == part.size:
                break
            else:
                yield from persistence.broke(Broken("the answer ended early"))
        default = stem or f"{task_id}_processed"
        finished = yield InThread(lambda: part.finish(target, default))
    except OSError as error:
        raise VidprocError(
            f"The result cannot be written: {error.strerror or error}.",
            solution="Free some space, or choose another place, and download it again.",
            task_id=task_id,
        ) from None
    finally:
        part.close()
    if finished is None:
        raise ResultDamaged(
            "The downloaded result is damaged and was discarded.",
            solution="Download it again.",
            task_id=task_id,
        )
    path, sha256 = finished
    return Result(path, part.offset, sha256, last)
