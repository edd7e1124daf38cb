"""The MMP frontend: makes a protocol for each connection."""

from __future__ import annotations

from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Factory

from vidproc.frontends.interface import Backend
from vidproc.frontends.mmp.protocol import MMPServerProtocol


class MMPFactory(Factory):
    """Makes the protocols of one or more ports."""

    noisy = False

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def buildProtocol(self, addr: IAddress | None) -> MMPServerProtocol | None:
        if self._backend.gate.shut:
            return None
        return MMPServerProtocol(self._backend)


class MMPFrontend:
    """Implements `vidproc.frontends.interface.Frontend`. It has only connections, so there is
    nothing to start, reload or stop."""

    def __init__(self, backend: Backend) -> None:
        self.factory = MMPFactory(backend)

    def start(self) -> None:
        pass

    def reload(self) -> None:
        pass

    def stop(self) -> None:
        pass
