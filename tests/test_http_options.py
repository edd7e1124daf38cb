"""The options of the HTTP frontend."""

from __future__ import annotations

import io
import sys
from ipaddress import ip_network
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from vidproc.frontends.http.options import host, network, origin
from vidproc.tap import Options


class OptionTests(SynchronousTestCase):
    def parse(self, *options: str) -> Options:
        parsed = Options()
        parsed.parseOptions([f"--data-dir={Path(self.mktemp())}", *options])
        return parsed

    def refused(self, *options: str) -> str:
        """Return the message about wrong options."""
        output = io.StringIO()
        self.patch(sys, "stderr", output)
        with self.assertRaises(SystemExit):
            self.parse(*options)
        return output.getvalue()

    def test_it_is_off_unless_asked_for(self) -> None:
        """If it is off, none of it is imported."""
        self.assertEqual(self.parse()["endpoints"]["http"], [])

    def test_a_bare_port_is_the_loopback(self) -> None:
        """As for MMP."""
        (endpoint,) = self.parse("--http=9980")["endpoints"]["http"]
        self.assertIn("tcp:9980:interface=127.0.0.1", endpoint)

    def test_its_own_options_are_parsed_and_may_be_repeated(self) -> None:
        """Each kind has its type."""
        options = self.parse(
            "--http=0",
            "--http-origin=https://Video.example/",
            "--http-origin=http://localhost:8080",
            "--trusted-proxy=10.0.0.0/8",
            "--http-host=Video.Example",
        )["frontend-options"]["http"]
        self.assertEqual(options["origins"], ("https://video.example", "http://localhost:8080"))
        self.assertEqual(options["trusted_proxies"], (ip_network("10.0.0.0/8"),))
        self.assertEqual(options["hosts"], ("video.example",))

    def test_they_need_the_frontend(self) -> None:
        """Otherwise they would have no effect, unnoticed."""
        self.assertIn("--http-host: it needs --http", self.refused("--http-host=a.example"))

    def test_a_wrong_value_is_one_line(self) -> None:
        """It names the option and says how to write the value."""
        for option, example in (
            ("--http-origin=video.example", "https://video.example"),
            ("--trusted-proxy=proxy", "10.0.0.0/8"),
            ("--http-host=https://video.example", "video.example"),
        ):
            said = self.refused("--http=0", option)
            self.assertIn(f"{option.partition('=')[0]}: ", said)
            self.assertIn(example, said)
            self.assertEqual(said.count("\n"), 1)

    def test_values(self) -> None:
        """Default ports are removed, as browsers do in origins; networks may have host bits."""
        self.assertEqual(origin("https://a.example:443"), "https://a.example")
        self.assertEqual(origin("http://[::1]:81"), "http://[::1]:81")
        self.assertEqual(network("127.0.0.1/8"), ip_network("127.0.0.0/8"))
        self.assertEqual(host("*"), "*")
        for text in ("ftp://a", "https://", "https://a/b", "https://u@a", "null", "https://a:x"):
            self.assertRaises(ValueError, origin, text)
