"""The certificates of a cluster, checked when a program starts.

Without this a wrong one only shows as a connection that never comes about, on the other side.
"""

from __future__ import annotations

import datetime
import ssl
from pathlib import Path

SOON = datetime.timedelta(days=14)
"""How long before the end of a certificate to warn of it."""


def check(ca: Path, cert: Path, key: Path) -> str | None:
    """Check that `cert` was signed by `ca`, is valid today and belongs to `key`.

    Returns a warning if it expires soon, else None. Raises `ValueError`, which says what to do.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(ca)
    except ssl.SSLError:
        raise ValueError(f"--cluster-ca: {ca} holds no certificate in PEM format") from None
    try:
        context.load_cert_chain(cert, key)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise ValueError(
                f"--cluster-key: {key} is not the key of {cert}; give two that were made together"
            ) from None
        raise ValueError(
            f"--cluster-cert, --cluster-key: {cert} and {key} must hold a certificate and its key,"
            " in PEM format and without a password"
        ) from None
    return _check_signature(ca, cert)


def _check_signature(ca: Path, cert: Path) -> str | None:
    from cryptography import x509
    from OpenSSL import crypto

    own, *between = x509.load_pem_x509_certificates(cert.read_bytes())
    store = crypto.X509Store()
    for each in x509.load_pem_x509_certificates(ca.read_bytes()):
        store.add_cert(crypto.X509.from_cryptography(each))
    chain = [crypto.X509.from_cryptography(each) for each in between]
    try:
        crypto.X509StoreContext(
            store, crypto.X509.from_cryptography(own), chain
        ).verify_certificate()
    except crypto.X509StoreContextError as error:
        raise ValueError(_refusal(own, ca, cert, str(error))) from None
    left = own.not_valid_after_utc - datetime.datetime.now(datetime.UTC)
    if left < SOON:
        return (
            f"{cert} expires on {own.not_valid_after_utc:%Y-%m-%d}; replace it before, and start"
            " each machine again"
        )
    return None


def _refusal(own: object, ca: Path, cert: Path, error: str) -> str:
    now = datetime.datetime.now(datetime.UTC)
    ends, begins = (getattr(own, name) for name in ("not_valid_after_utc", "not_valid_before_utc"))
    if now > ends:
        return f"--cluster-cert: {cert} expired on {ends:%Y-%m-%d}; sign a new one with the same CA"
    if now < begins:
        return f"--cluster-cert: {cert} is not valid before {begins:%Y-%m-%d}; check the clock"
    return (
        f"--cluster-cert: {cert} was not signed by {ca} ({error}); all machines of a cluster need"
        " certificates of one authority, and its ca.pem"
    )
