"""TLS endpoints whose certificate can be reloaded while they serve.

A TLS endpoint reads its certificate only once, when it is made. Here it listens with a
`Certificate` instead, which gives each new connection the one that was read last; open connections
keep theirs. Endpoints ask the reactor to listen, so they get a stand-in for the reactor.
"""

from __future__ import annotations

from typing import Any

from OpenSSL.SSL import NO_OVERLAPPING_PROTOCOLS, Connection
from twisted.internet.endpoints import serverFromString
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator
from twisted.internet.protocol import Factory
from twisted.internet.ssl import CertificateOptions
from zope.interface import implementer


@implementer(IOpenSSLServerConnectionCreator)
class Certificate:
    """The certificate of one TLS endpoint, as last read."""

    def __init__(self, options: CertificateOptions) -> None:
        self.replace(options)

    def replace(self, options: CertificateOptions) -> None:
        """Use another certificate for new connections. Raises OpenSSL's exception if it is not
        one."""
        context = options.getContext()
        # Twisted's own refuses a client that offers protocols, as curl and browsers do: it looks
        # for what the server speaks on a connection that it has not made itself.
        context.set_alpn_select_callback(_select_protocol)
        self._context = context

    def serverConnectionForTLS(self, protocol: Any) -> Connection:
        """Return the TLS connection for a new connection."""
        return Connection(self._context, None)


def _select_protocol(connection: Connection, offered: list[bytes]) -> Any:
    """Choose HTTP/1.1 from the protocols that a client offers; without it none is chosen."""
    return b"http/1.1" if b"http/1.1" in offered else NO_OVERLAPPING_PROTOCOLS


class CertificateReactor:
    """A reactor that makes the endpoint of `description` listen with a `Certificate`."""

    def __init__(self, reactor: Any, description: str) -> None:
        self._reactor = reactor
        self.description = description
        self.certificates: list[Certificate] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)

    def listenSSL(
        self, port: int, factory: Any, contextFactory: Any, *arguments: Any, **keywords: Any
    ) -> Any:
        """Listen, as the reactor does, with a certificate that can be replaced."""
        certificate = Certificate(contextFactory)
        self.certificates.append(certificate)
        return self._reactor.listenSSL(port, factory, certificate, *arguments, **keywords)

    def reload(self) -> None:
        """Read the certificate again, if the endpoint has one.

        Raises `ValueError` if the files are not usable; then nothing changes.
        """
        if not self.certificates:
            return
        reader = _Reader()
        try:
            serverFromString(reader, self.description).listen(Factory())
            for certificate, options in zip(self.certificates, reader.options, strict=True):
                certificate.replace(options)
        except Exception as error:  # what OpenSSL, cryptography and the endpoint's parser raise
            what = f"{type(error).__name__}: {error}"
            raise ValueError(f"the certificate can't be used ({what})") from error


class _Reader:
    """A reactor on which endpoints only seem to listen, so that they read their files."""

    def __init__(self) -> None:
        self.options: list[CertificateOptions] = []

    def listenSSL(
        self, port: int, factory: Any, contextFactory: Any, *arguments: Any, **keywords: Any
    ) -> None:
        self.options.append(contextFactory)
