"""Which client a connection belongs to, and the token file."""

from __future__ import annotations

from pathlib import Path

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.trial.unittest import SynchronousTestCase

from vidproc.errors import ServiceError
from vidproc.frontends.peers import peer_key
from vidproc.frontends.tokens import Tokens


class AccessTests(SynchronousTestCase):
    def test_ipv6_addresses_count_by_their_network(self) -> None:
        """A client can choose any address of its /64; IPv4 within IPv6 counts as IPv4."""
        cases = {
            "192.0.2.1": "192.0.2.1",
            "2001:db8:1:2:3:4:5:6": "2001:db8:1:2::/64",
            "::ffff:192.0.2.1": "192.0.2.1",
            "fe80::1%eth0": "fe80::/64",
        }
        for host, key in cases.items():
            family = IPv6Address if ":" in host else IPv4Address
            self.assertEqual(peer_key(family("TCP", host, 1)), key)
        self.assertEqual(peer_key(UNIXAddress("/run/x")), "local")

    def test_a_token_file_names_its_bad_line_but_never_its_text(self) -> None:
        """Comments and blank lines are fine."""
        path = Path(self.mktemp())
        path.write_text("# who may\n\nann s3cret\nbob  t0ken\n")
        self.assertEqual(Tokens.read(path).check("t0ken"), "bob")
        path.write_text("ann s3cret\njust-one-word\n")
        error = self.assertRaises(ValueError, Tokens.read, path)
        self.assertIn("line 2", str(error))
        self.assertNotIn("just-one-word", str(error))
        path.write_text("# nobody\n")
        self.assertRaises(ValueError, Tokens.read, path)
        self.assertRaises(ServiceError, Tokens({"a": "b"}).check, None)
