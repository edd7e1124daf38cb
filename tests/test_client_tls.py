"""``--tls``: which servers the client accepts, and its messages about others."""

from __future__ import annotations

import datetime
import ipaddress
from typing import Any

from twisted.internet import reactor, ssl
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorSSL

from tests.client_harness import (
    Peer,
    ScriptedServer,
    SessionCase,
    refusal,
)
from tests.ports import port_of
from vidproc.client.tls import tls_options


def certificate(host: str) -> tuple[bytes, ssl.PrivateCertificate]:
    """Return a fresh self-signed certificate for `host` in PEM, and with its key."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, host)])
    now = datetime.datetime.now(datetime.UTC)
    try:
        names: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        names = x509.DNSName(host)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = made.public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return pem, ssl.PrivateCertificate.loadPEM(private + pem)


class TLSTests(SessionCase):
    """``--tls``: the certificate and the name are checked."""

    def listen_tls(self, host: str) -> tuple[int, bytes]:
        pem, private = certificate(host)
        listening = IReactorSSL(reactor).listenSSL(
            0, self.server, private.options(), interface="127.0.0.1"
        )
        self.addCleanup(listening.stopListening)

        def hang_up() -> Deferred[None]:
            for peer in list(self.server.peers):
                peer.transport.abortConnection()
            return Deferred.fromCoroutine(self.settle())

        self.addCleanup(hang_up)
        return port_of(listening), pem

    async def test_a_trusted_server_is_talked_to(self) -> None:
        """A complete run over TLS, with the certificate given by --ca."""
        port, pem = self.listen_tls("127.0.0.1")
        status = await self.run_command(
            "FILM --type compress", port=port, tls=tls_options("127.0.0.1", pem)
        )
        self.assertEqual(status, 0, self.errors)
        self.assertTrue((self.folder / "film_processed.gif").exists())

    async def test_an_unknown_certificate_exits_with_3_and_sends_nothing(self) -> None:
        """Without --ca, the system's authorities are trusted; the message mentions --ca."""
        port, _ = self.listen_tls("127.0.0.1")
        status = await self.run_command(
            "FILM --type compress", port=port, tls=tls_options("127.0.0.1", None)
        )
        self.assertEqual(status, 3)
        self.assertIn("--ca", self.errors)
        self.assertEqual(self.server.requests, [])

    async def test_a_certificate_for_another_name_exits_with_3_and_sends_nothing(self) -> None:
        """A trusted certificate is not enough."""
        port, pem = self.listen_tls("elsewhere.example")
        status = await self.run_command(
            "FILM --type compress", port=port, tls=tls_options("127.0.0.1", pem)
        )
        self.assertEqual(status, 3)
        self.assertIn("--host", self.errors)
        self.assertEqual(self.server.requests, [])

    async def test_a_plain_port_is_named_as_such(self) -> None:
        """With --tls on a plain port, the message says to drop --tls or use another port."""

        class PlainPeer(Peer):
            def dataReceived(self, data: bytes) -> None:
                self.answer(refusal(400))

        class Plain(ScriptedServer):
            def buildProtocol(self, address: Any) -> Peer:
                return PlainPeer(self)

        port = self.listen(Plain())
        status = await self.run_command("--server-info", port=port, tls=tls_options("x", None))
        self.assertEqual(status, 3)
        self.assertIn("does not speak TLS", self.errors)

    async def test_a_tls_port_without_tls_is_named_as_such(self) -> None:
        """The answer is not MMP, and the message suggests --tls."""
        port, _ = self.listen_tls("127.0.0.1")
        status = await self.run_command("--server-info", port=port)
        self.assertEqual(status, 3)
