"""The options of a cluster: what is refused, and that nothing of it is imported without them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from support.certificates import write_cluster_certificates
from vidproc.app.worker_command import main
from vidproc.cluster import certificates, security
from vidproc.cluster.security import ClusterOptions, checked, is_loopback

LOCAL = "tcp://127.0.0.1:8786"
REMOTE = "tcp://192.0.2.1:8786"


class OptionTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.root = Path(self.mktemp()).absolute()
        self.root.mkdir()
        self.store = f"file://{self.root}"

    def assert_refused(
        self, words: str, address: str = LOCAL, **options: str | bool | None
    ) -> None:
        store = options.pop("object_store", self.store)
        error = self.assertRaises(ValueError, checked, address, store, **options)
        self.assertIn(words, str(error))

    def test_a_scheduler_and_a_store_are_enough_on_the_loopback(self) -> None:
        """IPv6 and names, too."""
        for address in (LOCAL, "tcp://[::1]:8786", "tcp://localhost:8786"):
            self.assertEqual(checked(address, self.store), ClusterOptions(address, self.store))

    def test_beyond_the_loopback_tls_is_needed(self) -> None:
        """Unless the operator says that the network is private."""
        self.assert_refused("--cluster-insecure", REMOTE)
        self.assert_refused("--cluster-insecure", "tcp://0.0.0.0:8786")
        self.assertTrue(checked(REMOTE, self.store, insecure=True).insecure)
        write_cluster_certificates(self.root, 100)
        self.assertTrue(checked("tls://192.0.2.1:8786", self.store, **self.files()).tls)

    def files(self, **changed: str) -> dict[str, Any]:
        """Return the options for certificates in the test's folder."""
        names = {"ca": "ca.pem", "cert": "node.pem", "key": "node-key.pem", **changed}
        return {option: str(self.root / name) for option, name in names.items()}

    def test_wrong_certificates_are_refused_at_the_start(self) -> None:
        """Rather than by a connection that never comes about."""
        write_cluster_certificates(self.root, 100)
        write_cluster_certificates(self.root / "other", 100)
        (self.root / "text").write_text("text")
        for changed, words in (
            ({"ca": "other/ca.pem"}, "certificates of one authority"),
            ({"key": "other/node-key.pem"}, "made together"),
            ({"ca": "text"}, "holds no certificate"),
            ({"cert": "text"}, "in PEM format"),
            ({"key": "text"}, "in PEM format"),
        ):
            self.assert_refused(words, "tls://192.0.2.1:8786", **self.files(**changed))
        write_cluster_certificates(self.root / "past", -1 / 48)
        old = self.files(ca="past/ca.pem", cert="past/node.pem", key="past/node-key.pem")
        self.assert_refused("expired on", "tls://192.0.2.1:8786", **old)

    def test_a_certificate_that_expires_soon_is_named(self) -> None:
        """In the log, with what to do."""
        write_cluster_certificates(self.root, 10)
        warnings = [certificates.check(*(Path(name) for name in self.files().values()))]
        write_cluster_certificates(self.root, 100)
        warnings.append(certificates.check(*(Path(name) for name in self.files().values())))
        self.assertIn("replace it before", str(warnings[0]))
        self.assertIsNone(warnings[1])

    def test_mistakes_are_named(self) -> None:
        """Each with what to write."""
        self.assert_refused("tcp://host:8786", "scheduler:8786")
        self.assert_refused("tcp://host:8786", "tcp://scheduler")
        self.assert_refused("needs --cluster-ca", "tls://127.0.0.1:8786")
        self.assert_refused("tcp://host:8786", "http://127.0.0.1:8786")
        self.assert_refused("together", ca=str(self.root))
        self.assert_refused("--object-store is missing", object_store=None)
        self.assert_refused("no folder", object_store=f"file://{self.root}/missing")
        self.assert_refused("absolute path", object_store="file://relative")
        self.assert_refused("names no bucket", object_store="s3:///x")
        self.assert_refused("starts with", object_store="http://host/x")

    def test_what_is_not_installed_is_named(self) -> None:
        """With the command that installs it."""
        self.patch(security, "find_spec", lambda name: None)
        self.assert_refused('pip install "vidproc[cluster]"')

    def test_names_that_cannot_be_resolved_are_not_the_loopback(self) -> None:
        """They may be anything tomorrow."""
        self.assertFalse(is_loopback("no-such-host.invalid"))

    def test_the_worker_refuses_the_same(self) -> None:
        """In one line, with status 1."""
        self.assertEqual(main([REMOTE, "--object-store", self.store]), 1)
        self.assertRaises(SystemExit, main, [LOCAL, "--memory", "much"])

    def test_a_folder_that_cannot_be_is_named(self) -> None:
        """With its option, in one line."""
        path = Path(self.mktemp()).absolute()
        path.touch()
        worker = [sys.executable, "-m", "vidproc.app.worker_command", LOCAL]
        done = subprocess.run(  # it installs a reactor
            [*worker, "--object-store", self.store, "--log-dir", str(path)],
            capture_output=True,
            text=True,
        )
        self.assertEqual(done.returncode, 1)
        self.assertEqual(
            done.stderr.split(" (")[0],
            f"vidproc-worker: --log-dir: the folder {path} cannot be created",
        )


class ImportTests(SynchronousTestCase):
    def test_without_a_cluster_nothing_of_it_is_imported(self) -> None:
        """Neither Dask nor obstore, nor our own code but the options."""
        code = (
            "import sys, vidproc.tap, vidproc.app.service, vidproc.client.cli\n"
            "print([m for m in sys.modules if m.split('.')[0] in ('distributed','dask','obstore')"
            " or m.startswith('vidproc.cluster.') and m != 'vidproc.cluster.security'])"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
        self.assertEqual(done.stdout.strip(), "[]")

    def test_the_scheduler_imports_little(self) -> None:
        """It takes our commands apart, and needs none of what runs them."""
        code = (
            "import sys, vidproc.cluster.entry\n"
            "print([m for m in sys.modules if m.startswith(('vidproc.', 'twisted', 'obstore'))])"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
        self.assertEqual(done.stdout.strip(), "['vidproc.cluster', 'vidproc.cluster.entry']")
