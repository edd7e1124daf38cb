"""A runner as a cluster's would be: it knows of a command only what the command declares."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from twisted.internet.defer import Deferred

from support.job import local_runner, path_of_key
from vidproc.ffmpeg.binary import FFmpeg
from vidproc.ffmpeg.command import SOURCE, Command, Completed, OnProgress, Workspace
from vidproc.runners.interface import RunningCommand


class TravellingRunner:
    """Runs each command in an empty folder under another path, with another number of threads.

    Exactly the declared inputs are copied there, and exactly the declared outputs back.
    """

    def __init__(self, threads: int = 3, path_of: Callable[[str], Path] = path_of_key) -> None:
        self._threads = threads
        self._path_of = path_of
        self._local = local_runner()
        self.running: set[RunningCommand] = set()
        self.journeys = 0

    @property
    def capabilities(self) -> FFmpeg:
        """What its FFmpeg can do."""
        return self._local.capabilities

    def start(
        self, command: Command, workspace: Workspace, threads: int, on_progress: OnProgress
    ) -> RunningCommand:
        """Take a command away, run it there and bring home what it made."""
        self.journeys += 1
        away = Path(tempfile.mkdtemp(prefix=f"journey-{self.journeys}-")).resolve()
        there = Workspace(f"{away}/task-input".lstrip("/"), f"{away}/folder".lstrip("/"))
        path_of_key(there.folder_key).mkdir()
        for name in command.inputs:
            shutil.copyfile(self._path_of(workspace.key_of(name)), path_of_key(there.key_of(name)))
        running = self._local.start(command, there, self._threads, on_progress)
        self.running.add(running)

        def bring_home(done: Completed) -> Completed:
            for name in command.outputs:
                assert name != SOURCE
                shutil.copyfile(
                    path_of_key(there.key_of(name)), self._path_of(workspace.key_of(name))
                )
            return done

        def leave(result: object) -> object:
            self.running.discard(running)
            shutil.rmtree(away)
            return result

        running.result.addCallback(bring_home)
        running.result.addBoth(leave)
        assert isinstance(running.result, Deferred)
        return running
