"""A port that stays the same when a server restarts."""

from __future__ import annotations

import random
import socket


def free_port() -> int:
    """Return a free port of 127.0.0.1 that the kernel assigns to nobody else.

    While a server is down its clients keep connecting to its port, and must not get that port as
    their own end of a connection.
    """
    ports = list(range(20000, 32000))  # Linux assigns those from 32768 on
    random.shuffle(ports)
    for port in ports:
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("there is no free port")
