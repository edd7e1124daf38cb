"""Bulk TLS: what arrives together is passed on together, and nothing is lost or reordered."""

from __future__ import annotations

import os
from pathlib import Path
from ssl import CERT_NONE, PROTOCOL_TLS_CLIENT, MemoryBIO, SSLContext, SSLWantReadError
from typing import Any

from twisted.internet import ssl
from twisted.internet.abstract import FileDescriptor
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.testing import StringTransport
from twisted.protocols.tls import TLSMemoryBIOFactory, TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from support.certificates import write_certificate
from vidproc.app import bulk_tls
from vidproc.app.bulk_tls import MOST_AT_ONCE, BulkTLSTransport, use_bulk_transport
from vidproc.app.certificates import Certificate


class Recorder(Protocol):
    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.lost = False

    def dataReceived(self, data: bytes) -> None:
        self.pieces.append(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost = True


class Wire(StringTransport):
    def abortConnection(self) -> None:
        self.disconnecting = True


class BulkTests(SynchronousTestCase):
    def setUp(self) -> None:
        certificate, key = write_certificate(Path(self.mktemp()))
        own = ssl.PrivateCertificate.loadPEM(certificate.read_bytes() + key.read_bytes())
        self.server, server = self.end(own.options(), is_client=False)
        self.client, client = self.end(ssl.CertificateOptions(trustRoot=None), is_client=True)
        self.ends: list[Any] = [server, client]
        self.pump()

    def end(self, options: Any, *, is_client: bool) -> tuple[Recorder, Any]:
        recorder = Recorder()
        factory = TLSMemoryBIOFactory(
            options,
            is_client,
            Factory.forProtocol(lambda: recorder),
        )
        if not is_client:
            use_bulk_transport(factory)
        transport: Any = factory.buildProtocol(None)
        transport.makeConnection(Wire())
        return recorder, transport

    def pump(self) -> None:
        """Transfer bytes until both sides have sent everything."""
        moved = True
        while moved:
            moved = False
            for source, target in (self.ends, self.ends[::-1]):
                source._aggregator.flush()
                data = source.transport.value()
                if data:
                    moved = True
                    source.transport.clear()
                    target.dataReceived(data)

    def test_the_server_has_the_bulk_transport(self) -> None:
        """The client of this test uses Twisted's own."""
        self.assertIsInstance(self.ends[0], BulkTLSTransport)
        self.assertNotIsInstance(self.ends[1], BulkTLSTransport)

    def test_records_that_arrive_together_are_one_piece(self) -> None:
        """Up to a limit."""
        sent = os.urandom(2 * MOST_AT_ONCE + 5)
        assert self.client.transport is not None
        self.client.transport.write(sent)
        self.pump()
        self.assertEqual(b"".join(self.server.pieces), sent)
        self.assertLessEqual(len(self.server.pieces), 4)

    def test_records_that_are_cut_anywhere(self) -> None:
        """Bytes may arrive in parts that contain the end of one record and the start of another."""
        sent = os.urandom(400_000)
        assert self.client.transport is not None
        self.client.transport.write(sent)
        self.ends[1]._aggregator.flush()
        wire = self.ends[1].transport.value()
        self.ends[1].transport.clear()
        start = 0
        for size in (1, 5, 100, 65_536, 65_537, 70_000, 200_000, len(wire)):
            self.ends[0].dataReceived(wire[start : start + size])
            start += size
        self.assertEqual(b"".join(self.server.pieces), sent)

    def test_what_is_written_arrives_whole(self) -> None:
        """Small and large, in order."""
        assert self.server.transport is not None
        sent = [b"head", os.urandom(300_000), b"", b"tail"]
        for data in sent:
            self.server.transport.write(data)
        self.pump()
        self.assertEqual(b"".join(self.client.pieces), b"".join(sent))

    def test_the_end_comes_after_what_was_said(self) -> None:
        """A close alert that arrives together with data does not discard the data."""
        assert self.client.transport is not None
        self.client.transport.write(b"last words")
        self.client.transport.loseConnection()
        self.pump()
        self.assertEqual(b"".join(self.server.pieces), b"last words")
        self.assertTrue(self.ends[0].transport.disconnecting)

    def test_garbage_ends_the_connection(self) -> None:
        """As with Twisted's own transport."""
        self.ends[0].dataReceived(b"\x17\x03\x03\x00\x05hello")
        self.assertTrue(self.ends[0].transport.disconnecting)

    def test_what_is_used_of_pyopenssl(self) -> None:
        """Names that it does not promise; without them each record is copied once more."""
        self.assertIsNotNone(bulk_tls._place)
        self.assertIsNotNone(self.ends[0]._tlsConnection._ssl)
        self.assertTrue(callable(self.ends[0]._tlsConnection._raise_ssl_error))

    def test_what_is_used_of_twisted(self) -> None:
        """Names that Twisted does not document; if they go, this module must be revised."""
        for name in ("_write", "_bufferedWrite", "_tlsShutdownFinished", "_flushReceiveBIO"):
            self.assertTrue(callable(getattr(TLSMemoryBIOProtocol, name)), name)
        self.assertGreater(FileDescriptor.SEND_LIMIT, 0)
        for name in ("_tlsConnection", "_lostTLSConnection"):
            self.assertTrue(hasattr(self.ends[1], name), name)


class NegotiationTests(SynchronousTestCase):
    """Clients that offer protocols (ALPN), as curl and browsers do."""

    def negotiate(self, *offered: str) -> str | None:
        """Return what a server agrees on with a client that offers this; raises `SSLError`."""
        certificate, key = write_certificate(Path(self.mktemp()))
        own = ssl.PrivateCertificate.loadPEM(certificate.read_bytes() + key.read_bytes())
        factory = TLSMemoryBIOFactory(
            Certificate(own.options()),
            False,
            Factory.forProtocol(Recorder),
        )
        use_bulk_transport(factory)
        server: Any = factory.buildProtocol(None)
        server.makeConnection(Wire())
        context = SSLContext(PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, CERT_NONE
        if offered:
            context.set_alpn_protocols(list(offered))
        incoming, outgoing = MemoryBIO(), MemoryBIO()
        client = context.wrap_bio(incoming, outgoing)
        for _ in range(10):
            try:
                client.do_handshake()
                break
            except SSLWantReadError:
                server.dataReceived(outgoing.read())
                server._aggregator.flush()
                incoming.write(server.transport.value())
                server.transport.clear()
        self.assertIsNotNone(client.version())
        return client.selected_alpn_protocol()

    def test_http_1_1_is_chosen_when_it_is_offered(self) -> None:
        self.assertEqual(self.negotiate("h2", "http/1.1"), "http/1.1")

    def test_what_we_do_not_speak_refuses_nobody(self) -> None:
        self.assertIsNone(self.negotiate("mmp"))
        self.assertIsNone(self.negotiate())


class PublicBulkTests(BulkTests):
    """With what pyOpenSSL promises alone."""

    def setUp(self) -> None:
        self.patch(bulk_tls, "_place", None)
        super().setUp()

    def test_what_is_used_of_pyopenssl(self) -> None:
        """Nothing of its own."""
        self.assertIsNone(self.ends[0]._tlsConnection._ssl)
