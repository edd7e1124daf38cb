"""Counting packets, on real connections of the loopback interface."""

from __future__ import annotations

import socket
import sys
from typing import Any

from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from vidproc.frontends.traffic import Traffic


class Accepted:
    """The server's side of a connection, with the parts of a transport that `Traffic` uses."""

    def __init__(self, handle: socket.socket) -> None:
        self.handle = handle

    def getHandle(self) -> socket.socket:
        return self.handle


class TrafficTests(SynchronousTestCase):
    def setUp(self) -> None:
        if sys.platform != "linux":
            raise SkipTest("packets are counted on Linux only")
        self.traffic = Traffic()

    def connect(self) -> tuple[socket.socket, Any]:
        """Return a client's socket, and the server's side of it."""
        with socket.create_server(("127.0.0.1", 0)) as port:
            client = socket.create_connection(port.getsockname())
            handle, _ = port.accept()
        self.addCleanup(client.close)
        self.addCleanup(handle.close)
        transport: Any = Accepted(handle)
        self.traffic.opened(transport)
        return client, transport

    def send(self, client: socket.socket, transport: Accepted, count: int) -> None:
        """Send that many packets, one after another."""
        for _ in range(count):
            client.sendall(b"x")
            self.assertEqual(transport.handle.recv(1), b"x")

    def test_a_packet_is_a_segment_with_data(self) -> None:
        """Handshakes and acknowledgements do not count. All connections are added up."""
        first, second = self.connect(), self.connect()
        self.assertEqual(self.traffic.packets_received(), 0)
        self.send(*first, 3)
        self.send(*second, 2)
        self.assertEqual(self.traffic.packets_received(), 5)

    def test_a_connection_that_has_ended_still_counts(self) -> None:
        """With its last sample, because its socket can no longer be asked."""
        client, transport = self.connect()
        self.send(client, transport, 3)
        self.traffic.sample(transport)
        client.close()
        transport.handle.close()
        self.traffic.closed(transport)
        self.traffic.closed(transport)
        self.assertEqual(self.traffic.packets_received(), 3)

    def test_a_socket_that_is_not_tcp_counts_no_packets(self) -> None:
        """A UNIX socket, or a transport without one."""
        one, other = socket.socketpair()
        self.addCleanup(one.close)
        self.addCleanup(other.close)
        pair: Any = Accepted(one)
        for transport in (pair, StringTransport()):
            self.traffic.opened(transport)
            self.traffic.sample(transport)
            self.traffic.closed(transport)
        self.assertEqual(self.traffic.packets_received(), 0)
