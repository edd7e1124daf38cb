"""What the handlers of all connections share."""

from __future__ import annotations

from vidproc.frontends.http.feeds import Feeds
from vidproc.frontends.http.links import Links
from vidproc.frontends.interface import Backend


class Shared:
    """The feeds of events and the links to results."""

    def __init__(self, backend: Backend) -> None:
        self.feeds = Feeds(backend.reactor, backend.tasks)
        self.links = Links(backend.secret("link.key"), backend.reactor.seconds)
