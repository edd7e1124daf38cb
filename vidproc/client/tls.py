"""TLS: checking the server's certificate, and explaining failed handshakes."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING

from vidproc.client.errors import ConnectFailed

if TYPE_CHECKING:
    from twisted.internet._sslverify import IOpenSSLTrustRoot
    from twisted.internet.interfaces import IOpenSSLClientConnectionCreator


def do_without_tls() -> None:
    """Have Twisted start as if OpenSSL were not installed, which saves a third of its imports.

    Does nothing if it has been imported already.
    """
    if "twisted.internet.tcp" not in sys.modules:
        sys.modules.setdefault("OpenSSL", None)  # type: ignore[arg-type]


def tls_options(host: str, ca: bytes | None) -> IOpenSSLClientConnectionCreator:
    """Return the options that check the server's certificate and name; `ca` has PEM certificates.

    Without `ca` the system's authorities are trusted. Raises `ConnectFailed` if `ca` has no
    usable certificate.
    """
    from twisted.internet import ssl

    trust: IOpenSSLTrustRoot | None = None
    if ca is not None:
        blocks = re.findall(
            rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", ca, re.DOTALL
        )
        try:
            trust = ssl.trustRootFromCertificates(
                [ssl.Certificate.loadPEM(block) for block in blocks]
            )
        except Exception:
            blocks = []
        if not blocks:
            raise ConnectFailed(
                "The file given with --ca contains no usable certificate.",
                "Name the PEM file with the certificate of the server's authority.",
            )
    return ssl.optionsForClientTLS(host, trustRoot=trust)


def tls_problem(value: BaseException | None) -> ConnectFailed | None:
    """Return an error that explains a failed TLS handshake; None if it is something else."""
    from twisted.internet import error as net_error

    if value is None or isinstance(value, net_error.ConnectionClosed | OSError):
        return None
    kind = type(value).__module__.partition(".")[0]
    text = f"{type(value).__name__} {value}"
    if kind in ("service_identity", "twisted") and (
        "Verification" in text or "Mismatch" in text or "CertificateError" in text
    ):
        return ConnectFailed(
            "The server's certificate is for another name.",
            "Use the name in the certificate with --host.",
        )
    if kind != "OpenSSL":
        return None
    if "certificate verify failed" in text:
        return ConnectFailed(
            "The server's certificate is not trusted.",
            "Give the certificate of its authority with --ca FILE, and use the name in the "
            "server's certificate with --host.",
        )
    if "wrong version number" in text or "record layer failure" in text:
        return ConnectFailed(
            "The server does not speak TLS on this port.", "Leave out --tls, or use the TLS port."
        )
    if "alert" in text:
        return ConnectFailed(
            f"The TLS handshake was refused ({_ssl_reason(value)}).",
            "Check --port; the server may not speak TLS there, or may want a client certificate.",
        )
    return None


def _ssl_reason(value: BaseException) -> str:
    try:
        return str(value.args[0][0][2]) or "no reason given"
    except (IndexError, TypeError):
        return "no reason given"
