"""Mutual TLS between server, scheduler and workers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from support.blocking import wait_for
from support.cluster import Program, wait_until
from support.job import key_of_path
from tests_cluster.case import ClusterCase
from tests_cluster.test_commands import FLOWER, encode
from vidproc.cluster.security import checked
from vidproc.ffmpeg.command import Workspace

ROOT = Path(__file__).parents[1]


class TlsTests(ClusterCase):
    def certificates(self, name: str) -> tuple[str, str, str]:
        folder = self.root / name
        script = ROOT / "scripts" / "cluster_certs.py"
        subprocess.run([sys.executable, str(script), str(folder)], check=True, capture_output=True)
        return f"{folder}/ca.pem", f"{folder}/node.pem", f"{folder}/node-key.pem"

    def test_only_who_has_a_certificate_takes_part(self) -> None:
        """A worker with another authority's certificate never gets in, nor does one without."""
        ca, cert, key = self.certificates("ours")
        self.cluster.start_scheduler(
            *("--tls-ca-file", ca, "--tls-cert", cert, "--tls-key", key), tls=True
        )
        ours = self.cluster.worker("--cluster-ca", ca, "--cluster-cert", cert, "--cluster-key", key)
        other = self.certificates("others")
        foreign = self.cluster.worker(
            *("--cluster-ca", other[0], "--cluster-cert", other[1], "--cluster-key", other[2])
        )
        Program.start(foreign)
        ours.start()
        options = checked(
            self.cluster.scheduler.address, self.cluster.store, ca=ca, cert=cert, key=key
        )
        runner = self.runner(cluster=options)
        self.wait_for_workers(runner, 1)
        workspace = Workspace(key_of_path(FLOWER), key_of_path(self.folder))
        wait_for(runner.start(encode(), workspace, 1, lambda _: None).result)
        self.assertEqual([worker.done for worker in runner.workers], [1])
        wait_until(lambda: "no answer from a scheduler" in foreign.logged())
        self.assertIn("with this certificate authority", foreign.logged())
        self.assertNotIn(" serves ", foreign.logged())
