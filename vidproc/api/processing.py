"""The call that does everything: upload, wait, download."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from vidproc.api.downloads import download
from vidproc.api.effects import Call
from vidproc.api.errors import VidprocError
from vidproc.api.models import OnProgress, Result
from vidproc.api.settings import Settings
from vidproc.api.tasks import wait
from vidproc.api.uploads import upload
from vidproc.result_names import result_stem


def process(
    settings: Settings,
    path: Path,
    operation: str,
    parameters: Mapping[str, object],
    output: Path | None,
    on_progress: OnProgress,
    timeout: float | None,
) -> Call[Result]:
    """Upload, wait and download. Without `output`, the result goes next to the video."""
    target = path.parent if output is None else output
    if target.is_file() and path.is_file() and target.samefile(path):
        raise VidprocError(
            f"The output would overwrite the video: {target}.",
            solution="Choose another output.",
        )
    if not target.is_dir() and not target.parent.is_dir():
        raise VidprocError(
            f"The output folder does not exist: {target.parent}.", solution="Create it first."
        )
    task_id = yield from upload(settings, path, operation, parameters, on_progress)
    last = yield from wait(settings, task_id, on_progress, timeout)
    stem = result_stem(path.stem)
    return (yield from download(settings, task_id, target, on_progress, last, stem))
