"""What connections stand on: a TCP transport, plain or with TLS."""

from __future__ import annotations

from twisted.internet.interfaces import IConsumer, IPushProducer, ITCPTransport


class IStreamTransport(ITCPTransport, IConsumer, IPushProducer):
    """A stream connection whose two directions can be paused.

    Twisted's TCP and TLS connections offer all of it, but only declare the interfaces one by one.
    """
