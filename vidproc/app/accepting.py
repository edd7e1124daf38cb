"""Accepting connections when file descriptors run out.

A port whose `accept` fails stays readable, so the reactor would call it again and again, and log
each failure. Instead the port pauses. Connections that wait in its queue are accepted once there
are descriptors again.
"""

from __future__ import annotations

import errno
import os

from twisted.internet.interfaces import IReactorTime
from twisted.internet.tcp import Port

from vidproc.topics import Topic, TopicLogger

REST = 0.2
"""Seconds for which a port pauses if there is no descriptor for a connection."""
QUIET = 60.0
"""A shortage is logged once in this many seconds."""


class PatientPort:
    """Pauses `port`, a listening port of Twisted's reactor, while there is no descriptor."""

    log = TopicLogger(Topic.SERVICE)

    def __init__(self, port: Port, reactor: IReactorTime) -> None:
        self._port = port
        self._reactor = reactor
        self._accept = port.doRead
        self._logged_at = float("-inf")
        # Twisted has no hook for this.
        port.doRead = self._accept_or_rest  # type: ignore[method-assign]

    def _accept_or_rest(self) -> object:
        if self._is_descriptor_left():
            return self._accept()
        now = self._reactor.seconds()
        if now - self._logged_at >= QUIET:
            self._logged_at = now
            self.log.warn("no descriptor is left for new connections; they wait")
        self._port.stopReading()
        self._reactor.callLater(REST, self._go_on)
        return None

    def _go_on(self) -> None:
        if self._port.connected:
            self._port.startReading()

    def _is_descriptor_left(self) -> bool:
        try:
            os.close(os.dup(self._port.fileno()))
        except OSError as error:
            return error.errno not in (errno.EMFILE, errno.ENFILE)
        return True
