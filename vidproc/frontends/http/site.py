"""What all HTTP connections share: the routes, and which clients are served."""

from __future__ import annotations

from collections.abc import Sequence

from vidproc.frontends.http.browsers import Hosts, Origins
from vidproc.frontends.http.options import Network
from vidproc.frontends.http.proxies import TrustedProxies
from vidproc.frontends.http.routing import Route, Router
from vidproc.frontends.http.shared import Shared
from vidproc.frontends.interface import Backend


class Site:
    """The resources of a server, and the host names, origins and proxies that it accepts."""

    def __init__(
        self,
        backend: Backend,
        routes: Sequence[Route],
        *,
        origins: Sequence[str] = (),
        trusted_proxies: Sequence[Network] = (),
        hosts: Sequence[str] = (),
    ) -> None:
        self.backend = backend
        self.shared = Shared(backend)
        self.router = Router(routes)
        self.hosts = Hosts(hosts)
        self.origins = Origins(origins)
        self.proxies = TrustedProxies(trusted_proxies)
        self.varies = bool(origins)
        """Whether answers depend on the Origin header."""
