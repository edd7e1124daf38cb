"""The HTTP frontend: makes a connection's protocol for each connection."""

from __future__ import annotations

from collections.abc import Sequence

from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Factory

from vidproc.frontends.http.connection import HTTPConnection
from vidproc.frontends.http.options import Network
from vidproc.frontends.http.resources import ROUTES
from vidproc.frontends.http.site import Site
from vidproc.frontends.interface import Backend


class HTTPFactory(Factory):
    """Makes the protocols of one or more ports."""

    noisy = False

    def __init__(self, site: Site) -> None:
        self._site = site

    def buildProtocol(self, addr: IAddress | None) -> HTTPConnection | None:
        if self._site.backend.gate.shut:
            return None
        return HTTPConnection(self._site)


class HTTPFrontend:
    """Implements `vidproc.frontends.interface.Frontend`.

    `origins`, `trusted_proxies` and `hosts` are the values of its options.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        origins: Sequence[str] = (),
        trusted_proxies: Sequence[Network] = (),
        hosts: Sequence[str] = (),
    ) -> None:
        self.site = Site(
            backend, ROUTES, origins=origins, trusted_proxies=trusted_proxies, hosts=hosts
        )
        self.factory = HTTPFactory(self.site)

    def start(self) -> None:
        pass

    def reload(self) -> None:
        pass

    def stop(self) -> None:
        pass
