"""The base class of tests of the task service: a server in memory, and its tasks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.rig import (
    Rig,
    complete_step,
)
from vidproc.tasks.model import State
from vidproc.tasks.settings import Caller, Settings
from vidproc.tasks.uploads.session import AcceptedTask, UploadSession
from vidproc.tasks.uploads.submission import Submission
from vidproc.tasks.views import TaskView

GIF = {"start_time": 0, "duration": 1}


class SchedulerTestCase(SynchronousTestCase):
    def rig(self, **settings: Any) -> Rig:
        rig = Rig(Path(self.mktemp()), settings=Settings(**settings))
        self.addCleanup(rig.close)
        return rig

    def submit(self, rig: Rig, peer: str = "192.0.2.1", payload: bytes = b"film") -> str:
        submission = Submission("extract_audio", {}, "mp4", payload_size=len(payload))
        if payload == b"film":
            submission = Submission("gif", GIF, "mp4", payload_size=4)
        session = self.run_coroutine(rig.tasks.admit(submission, Caller(peer)))
        assert isinstance(session, UploadSession)
        session.write(payload)
        accepted = self.successResultOf(session.finish())
        assert isinstance(accepted, AcceptedTask)
        return accepted.task_id

    def run_coroutine(self, coroutine: Any) -> Any:
        return self.successResultOf(coroutine)

    def view(self, rig: Rig, task_id: str) -> TaskView:
        view: TaskView = self.run_coroutine(rig.tasks.status(task_id, Caller("192.0.2.1")))
        return view

    def state(self, rig: Rig, task_id: str) -> State:
        return self.view(rig, task_id).task.state

    def finish_all(self, rig: Rig) -> None:
        while rig.runner.running:
            complete_step(rig.runner.running[0])

    def leftovers(self, rig: Rig) -> list[str]:
        """Files of tasks other than results."""
        root = rig.storage.root
        return [
            str(path.relative_to(root))
            for folder in ("inputs", "uploads", "work")
            for path in (root / folder).rglob("*")
            if path.is_file()
        ]
