"""Counts the bytes and packets of the connections."""

from __future__ import annotations

import socket
import struct
import sys

from twisted.internet.interfaces import ITransport

# struct tcp_info of Linux (include/uapi/linux/tcp.h): 8 bytes of flags, 24 u32, 4 u64, then u32
# segs_out, segs_in, notsent_bytes, min_rtt, data_segs_in, data_segs_out.
_DATA_SEGMENTS_IN = 8 + 24 * 4 + 4 * 8 + 4 * 4
_TCP_INFO_SIZE = _DATA_SEGMENTS_IN + 8


class Traffic:
    """Totals since the start. A packet is a TCP segment with data, as the kernel counts them
    (Linux; elsewhere packets are not counted)."""

    def __init__(self) -> None:
        self.received = 0
        self.sent = 0
        self._closed_packets = 0
        self._sockets: dict[ITransport, socket.socket] = {}
        self._packets: dict[ITransport, int] = {}

    def opened(self, transport: ITransport) -> None:
        """Start counting a connection's packets."""
        handle = getattr(transport, "getHandle", lambda: None)()
        if sys.platform == "linux" and isinstance(handle, socket.socket):
            self._sockets[transport] = handle
            self._packets[transport] = 0

    def sample(self, transport: ITransport) -> None:
        """Read a connection's count from the kernel, which is not possible once it is closed."""
        handle = self._sockets.get(transport)
        if handle is not None:
            self._packets[transport] = _packets_received(handle)

    def closed(self, transport: ITransport) -> None:
        """Keep the count of a connection that has ended, as of its last sample."""
        if self._sockets.pop(transport, None) is not None:
            self._closed_packets += self._packets.pop(transport)

    def packets_received(self) -> int:
        """Return the packets with data received so far, of all connections."""
        for transport in self._sockets:
            self.sample(transport)
        return self._closed_packets + sum(self._packets.values())


def _packets_received(handle: socket.socket) -> int:
    try:
        info = handle.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_SIZE)
    except OSError:
        return 0  # not TCP: a UNIX socket
    if len(info) < _TCP_INFO_SIZE:
        return 0
    count: int = struct.unpack_from("=I", info, _DATA_SEGMENTS_IN)[0]
    return count
