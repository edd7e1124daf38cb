"""Every command of docs/http.md does what the page says, with real curl against a real server."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from support.http_server import HTTPServerProcess
from support.programs import need_program

PAGE = Path(__file__).resolve().parents[1] / "docs" / "http.md"
CLIP = Path(__file__).parent / "media" / "friday-480p-aac.mp4"


class PageTests(SynchronousTestCase):
    def test_every_command_of_the_page(self) -> None:
        """In the page's order, in one shell that stops at the first failure."""
        for program in ("curl", "jq"):
            need_program(program)
        folder = Path(self.mktemp())
        options = ("--tasks-per-ip=20", "--max-concurrent=4")
        server = HTTPServerProcess(folder / "server", *options).start()
        self.addCleanup(server.stop)
        shutil.copyfile(CLIP, folder / "film.mp4")
        blocks = re.findall(r"^```sh\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
        self.assertGreater(len(blocks), 10)
        script = "".join(f"echo '== block {n}'\n{text}" for n, text in enumerate(blocks, 1))
        script = script.replace("localhost:9980", f"localhost:{server.http_port}")
        done = subprocess.run(
            ["/bin/sh", "-eu", "-c", script],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=180,
        )
        self.assertEqual(done.returncode, 0, f"{done.stdout}\n{done.stderr}")
        for said in (
            '"status":"accepted"',
            "Tus-Extension: creation,",
            "Upload-Offset: 1000",
            "Vidproc-Task: ",
            "event: status",
            '"status": "completed"',
            'Content-Disposition: attachment; filename="result.gif"',
            "\n304\n",
            '"unit": "frames/s"',
            "vidproc_tasks_ended_total",
            "\n3.1.0\n/api/v1/events\n",
            '"type": "about:blank"',
        ):
            self.assertIn(said, done.stdout)
