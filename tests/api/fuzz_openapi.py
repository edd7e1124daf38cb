"""Tests of the HTTP API against its OpenAPI document, with schemathesis.

Not part of `make test`, because it takes a minute and needs the extra `fuzz`; run `make test-api`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from support.http_server import HTTPServerProcess

FOLDER = Path(__file__).parent
SECONDS = 60
"""Seconds for which requests are generated and sent."""


class SchemaTests(SynchronousTestCase):
    def test_no_request_gets_what_the_document_does_not_promise(self) -> None:
        """No internal error, undocumented answer, body of another type, or stuck connection."""
        root = Path(self.mktemp()).absolute()
        server = HTTPServerProcess(root, "--tasks-per-ip=10000", "--queue-size=10000")
        self.addCleanup(server.stop)
        url = f"http://127.0.0.1:{server.start().http_port}"
        command = [
            str(Path(sys.executable).with_name("schemathesis")),
            f"--config-file={FOLDER / 'schemathesis.toml'}",
            "run",
            f"{url}/api/v1/openapi.json",
            f"--url={url}",
            f"--max-time={SECONDS}",
            "--request-timeout=30",
            "--generation-deterministic",
            "--exclude-path-regex=events",  # their answers do not end before their tasks do
            "--continue-on-failure",
            "--no-color",
        ]
        hooks = {"SCHEMATHESIS_HOOKS": "tests.api.hooks", "PYTHONPATH": str(FOLDER.parents[1])}
        done = subprocess.run(
            command,
            cwd=root,
            env={**os.environ, **hooks},
            capture_output=True,
            text=True,
            timeout=SECONDS * 5,
        )
        self.assertEqual(done.returncode, 0, f"{done.stdout[-20000:]}\n{done.stderr[-2000:]}")
        self.assertNotIn("fault", server.log())
