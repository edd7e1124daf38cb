"""Command lines for continuing with a task, for people to copy."""

from __future__ import annotations

import os
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path

from vidproc.client.options import DEFAULT_HOST, DEFAULT_PORT, Options
from vidproc.client.words import printable


@dataclass
class RunState:
    """How far a run has come; if it ends early, the next steps depend on that.

    `accepted` is whether the server has the task, `finished` whether the task has ended,
    `upload_kept` whether the same command would resume the upload, `signal` what ended the run.
    """

    options: Options
    task_id: str
    accepted: bool
    finished: bool = False
    upload_kept: bool = False
    signal: int = 0

    @property
    def folder(self) -> Path:
        """The folder where the result goes."""
        options = self.options
        if options.output is not None:
            return options.output if options.output.is_dir() else options.output.parent
        return options.input.parent if options.input is not None else Path()

    def later(self, *, cancel: bool = False) -> list[str]:
        """Return how to continue with the task later; empty if there is no task."""
        if not self.accepted or self.options.action not in ("process", "watch", "download"):
            return []
        task_id = self.task_id
        lines = []
        if self.options.action != "download" and not self.finished:
            lines.append(f"Watch it:         {self.command('--watch', task_id)}")
        lines.append(f"Fetch the result: {self.command('--download', task_id)}")
        if cancel and self.options.action != "download" and not self.finished:
            lines.append(f"Cancel it:        {self.command('--cancel', task_id)}")
        return lines

    def again(self) -> list[str]:
        """Return what to do about an upload that did not reach the server."""
        if self.upload_kept:
            return [
                "Run the same command again when the server can be reached: the upload continues "
                "where it stopped."
            ]
        if self.options.action == "process":
            return ["Nothing was started. Run the command again when the server can be reached."]
        return ["Run the command again when the server can be reached."]

    def command(self, action: str, task_id: str) -> str:
        """Return the command line for `action` on a task of this run's server."""
        options = self.options
        words = ["vidproc", action, printable(task_id)]
        if action == "--download":
            if options.output is not None:
                words += ["--output", str(options.output)]
            elif options.input is not None and self.folder != Path():
                # Where this run would have put it, and where a partial file may already be.
                words += ["--output", str(self.folder)]
        if options.host != DEFAULT_HOST:
            words += ["--host", options.host]
        if options.port != DEFAULT_PORT:
            words += ["--port", str(options.port)]
        if options.tls:
            words += ["--tls"]
        if options.insecure:
            words += ["--insecure"]
        if options.ca is not None:
            words += ["--ca", str(options.ca)]
        if options.token_file is not None:
            words += ["--token-file", str(options.token_file)]
        return subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words)
