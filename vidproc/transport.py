"""What connections stand on: a TCP transport, plain or with TLS."""

from __future__ import annotations

from twisted.internet.interfaces import IConsumer, IPushProducer, ISSLTransport, ITCPTransport


class IStreamTransport(ITCPTransport, IConsumer, IPushProducer):
    """A stream connection whose two directions can be paused.

    Twisted's TCP and TLS connections offer all of it, but only declare the interfaces one by one.
    """


def half_closes(transport: object) -> bool:
    """Return whether a connection can close its sending side alone. TLS cannot."""
    return ITCPTransport.providedBy(transport) and not ISSLTransport.providedBy(transport)
