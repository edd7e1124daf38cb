"""SIGHUP: both frontends reload tokens and certificates, and no connection is dropped."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import ssl
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from support.certificates import write_certificate
from support.http_server import HTTPServerProcess
from support.server_process import receive, send, wait_for


class TLSServer(HTTPServerProcess):
    """A server whose two frontends use TLS, with the certificate in `root`, and need a token."""

    def command(self) -> list[str]:
        tls = (
            f"ssl:0:interface=127.0.0.1:privateKey={self.root}/key.pem:certKey={self.root}/cert.pem"
        )
        plain = ("--port", "--http=")
        words = [word for word in super().command() if not word.startswith(plain)]
        return [*words, f"--port={tls}", f"--http={tls}", f"--token-file={self.root}/tokens"]


class ReloadTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.server = TLSServer(Path(self.mktemp()))
        self.replace_certificate()
        self.tokens = self.server.root / "tokens"
        self.tokens.write_text("ann first\n")
        self.server.start()
        self.addCleanup(self.server.stop)
        self.ports = self.server.ports
        self.assertEqual(len(self.ports), 2)

    def replace_certificate(self) -> None:
        """Replace the certificate."""
        folder = self.server.root / "new"
        folder.mkdir(exist_ok=True)
        certificate, key = write_certificate(folder)
        key.replace(self.server.root / "key.pem")
        certificate.replace(self.server.root / "cert.pem")

    def connect(self, port: int) -> ssl.SSLSocket:
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        plain = socket.create_connection(("127.0.0.1", port), timeout=60)
        self.addCleanup(plain.close)
        connection = context.wrap_socket(plain)
        self.addCleanup(connection.close)
        return connection

    def certificate_of(self, port: int) -> bytes | None:
        return self.connect(port).getpeercert(binary_form=True)

    def hang_up(self) -> str:
        """Send SIGHUP; return the log lines about it once everything was reloaded."""
        seen = len(self.server.log())
        os.kill(self.server.pid, signal.SIGHUP)
        # The frontends come last.
        wait_for(lambda: "the http frontend" in self.server.log()[seen:])
        return self.server.log()[seen:]

    def status(self, connection: ssl.SSLSocket, token: str) -> int:
        """Send a request with a token over an open HTTP connection; return its status."""
        request = (
            f"GET /api/v1/info HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\r\n"
        )
        connection.sendall(request.encode())
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        answer.read()
        return answer.status

    def test_both_are_read_again_and_open_connections_go_on(self) -> None:
        before = [self.certificate_of(port) for port in self.ports]
        self.assertEqual(before[0], before[1])
        mmp, web = (self.connect(port) for port in self.ports)
        self.replace_certificate()
        self.tokens.write_text("ann second\n")
        log = self.hang_up()
        self.assertEqual(log.count("the certificate of"), 2, log)
        after = [self.certificate_of(port) for port in self.ports]
        self.assertEqual(after[0], after[1])
        self.assertNotEqual(before[0], after[0])
        # Open connections stay, and the new tokens are valid for them, too.
        self.assertEqual([self.status(web, token) for token in ("first", "second")], [401, 200])
        send(mmp, {"action": "info", "token": "first"})
        self.assertEqual(receive(mmp)[0]["error"]["code"], 401)
        send(mmp, {"action": "info", "token": "second"})
        self.assertEqual(receive(mmp)[0]["status"], "ok")

    def test_what_is_wrong_stays_as_it_was(self) -> None:
        """A key that does not belong to the certificate, and a file without a token."""
        before = self.certificate_of(self.ports[1])
        (self.server.root / "cert.pem").write_text("nonsense")
        self.tokens.write_text("")
        log = self.hang_up()
        self.assertEqual(log.count("stays as it was"), 3, log)
        self.assertEqual(self.certificate_of(self.ports[1]), before)
        self.assertEqual(self.status(self.connect(self.ports[1]), "first"), 200)
