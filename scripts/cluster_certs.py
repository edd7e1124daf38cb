"""Make a certificate authority and a certificate for trying a cluster with TLS.

    python scripts/cluster_certs.py [FOLDER]

Writes ca.pem, ca-key.pem, node.pem and node-key.pem to FOLDER (cluster-certs/). Server, scheduler
and workers may share node.pem in a trial; docs/cluster.md says what to do in earnest.
"""

from __future__ import annotations

import datetime
import sys
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

DAYS = 365


def make_certificates(folder: Path) -> None:
    """Write an authority, a certificate that it signed, and their keys."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    ca_key, node_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    ca_name, node_name = (
        x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        for name in ("vidproc cluster authority", "vidproc cluster node")
    )
    ca = (
        _builder(ca_name, ca_name, ca_key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(ca_key, hashes.SHA256())
    )
    node = (
        _builder(node_name, ca_name, node_key)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(ca_key, hashes.SHA256())
    )
    for name, certificate, key in (("ca", ca, ca_key), ("node", node, node_key)):
        (folder / f"{name}.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        path = folder / f"{name}-key.pem"
        path.touch(mode=0o600)
        path.chmod(0o600)
        path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=DAYS))
    )


def main() -> None:
    """Run the command line."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "cluster-certs").absolute()
    make_certificates(folder)
    rest = f"--cluster-ca {folder}/ca.pem --cluster-cert {folder}/node.pem"
    tls = f"--tls-ca-file {folder}/ca.pem --tls-cert {folder}/node.pem"
    print(
        f"The certificates in {folder} are valid for {DAYS} days. Use them like this:\n"
        f"  dask scheduler --protocol tls {tls} --tls-key {folder}/node-key.pem\n"
        f"  vidproc-worker tls://host:8786 {rest} --cluster-key {folder}/node-key.pem ...\n"
        f"  twistd vidproc --cluster tls://host:8786 {rest} --cluster-key {folder}/node-key.pem ..."
    )


if __name__ == "__main__":
    main()
