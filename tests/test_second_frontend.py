"""A second frontend needs only a line in the list of frontends to obey the same rules."""

from __future__ import annotations

import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.trial.unittest import SynchronousTestCase

from support.server_process import PlainClient, ServerProcess, wait_for
from tests.rig import Rig, Transport
from tests.toy_frontend import ToyFrontend, ToyProtocol
from vidproc.files.file_writer import HIGH_WATER
from vidproc.frontends.throttle import LEAST_RATE
from vidproc.tasks.settings import Settings

LISTING = """
import sys
sys.path.insert(0, {root!r})
from vidproc.frontends import registry
registry.FRONTENDS += (
    registry.ListedFrontend("toy", "tests.toy_frontend.ToyFrontend", option="toy", help="A toy."),
)
from twisted.scripts.twistd import run
run()
"""


class ToyServer(ServerProcess):
    """A server whose frontends include the toy."""

    def command(self) -> list[str]:
        root = str(Path(__file__).parent.parent)
        line = LISTING.format(root=root)
        return [sys.executable, "-c", line, *super().command()[1:], "--toy=0"]

    @property
    def toy_port(self) -> int:
        return self.ports[1]


class InMemoryTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.rig = Rig(Path(self.mktemp()), settings=Settings(tasks_per_ip=2))
        self.addCleanup(self.rig.close)
        self.factory = ToyFrontend(self.rig.backend).factory

    def connect(self, host: str = "192.0.2.1") -> tuple[ToyProtocol, Transport]:
        address = IPv4Address("TCP", host, 1)
        transport = Transport(peerAddress=address)
        protocol: Any = self.factory.buildProtocol(address)
        transport.protocol = protocol
        protocol.makeConnection(transport)
        return protocol, transport

    def test_it_takes_an_upload(self) -> None:
        """Its task is like any other."""
        protocol, transport = self.connect()
        protocol.dataReceived(b"gif 4\nfilm")
        answer = transport.value().decode().split()
        self.assertEqual(answer[0], "accepted")
        self.assertIsNotNone(self.rig.store.get(answer[1]))

    def test_both_frontends_share_the_limits(self) -> None:
        """Slots and connections are counted together."""
        self.rig.gate._peers._max_connections_per_ip = 2
        self.rig.connect()
        self.connect()
        _, transport = self.connect()
        self.assertTrue(transport.value().startswith(b"429"))

    def test_it_gives_way_to_video(self) -> None:
        """Its uploads count against the same limit, and pause when they are ahead of their
        share."""
        self.rig.gate.throttle.limit(LEAST_RATE)
        protocol, transport = self.connect()
        protocol.dataReceived(b"gif 100000000\n")
        protocol.dataReceived(bytes(int(2 * LEAST_RATE)))
        self.assertEqual(transport.producerState, "paused")
        self.rig.clock.advance(2.1)
        self.assertEqual(transport.producerState, "producing")

    def test_a_client_that_leaves_gives_its_slot_back(self) -> None:
        """Before, during and after its admission."""
        for step in range(3):
            protocol, _ = self.connect()
            store = self.rig.store_thread.hold()
            if step:
                protocol.dataReceived(b"gif 4\n")
            if step == 2:
                store.run_all()
            protocol.connectionLost()
            store.run_all()
            self.assertEqual((self.rig.tasks.uploads.active, self.rig.gate.connections), (0, 0))
            self.assertEqual(self.rig.storage.space.reserved, 0)

    def test_a_lagging_disk_pauses_its_client(self) -> None:
        """Independently of the limit on uploads: it resumes when both allow it."""
        self.rig.gate.throttle.limit(LEAST_RATE)
        protocol, transport = self.connect()
        protocol.dataReceived(b"gif 100000000\n")
        disk = self.rig.disk.hold()
        protocol.dataReceived(bytes(HIGH_WATER))
        self.rig.clock.advance(60.0)
        self.assertEqual(transport.producerState, "paused")
        disk.run_all()
        self.assertEqual(transport.producerState, "producing")


class RealServerTests(SynchronousTestCase):
    def test_it_is_served_and_drained_at_a_stop(self) -> None:
        """Its upload gets the grace period; its idle connection ends at once."""
        server = ToyServer(Path(self.mktemp()), "--grace=20s").start()
        self.addCleanup(server.stop)
        idle, busy = (socket.create_connection(("127.0.0.1", server.toy_port)) for _ in range(2))
        for connection in (idle, busy):
            self.addCleanup(connection.close)
            connection.settimeout(30)
        busy.sendall(b"gif 8\nfilm")
        self.assertEqual(PlainClient(server.port).request({"action": "info"})[0]["status"], "ok")
        wait_for(lambda: "upload for task" in server.log())
        os.kill(server.pid, signal.SIGTERM)
        self.assertEqual(idle.recv(100), b"")
        busy.sendall(b"film")
        self.assertTrue(busy.recv(100).startswith(b"accepted"))
