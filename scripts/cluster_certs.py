"""Make a certificate authority and a certificate for trying a cluster with TLS.

    python scripts/cluster_certs.py [FOLDER]

Writes ca.pem, ca-key.pem, node.pem and node-key.pem to FOLDER (cluster-certs/). Server, scheduler
and workers may share node.pem in a trial; docs/cluster.md says what to do in earnest.
"""

from __future__ import annotations

import sys
from pathlib import Path

from support.certificates import write_cluster_certificates

DAYS = 365


def main() -> None:
    """Run the command line."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "cluster-certs").absolute()
    write_cluster_certificates(folder, DAYS)
    rest = f"--cluster-ca {folder}/ca.pem --cluster-cert {folder}/node.pem"
    tls = f"--tls-ca-file {folder}/ca.pem --tls-cert {folder}/node.pem"
    print(
        f"The certificates in {folder} are valid for {DAYS} days. Use them like this:\n"
        f"  dask scheduler --host tls://HOST --no-dashboard --dashboard-address 127.0.0.1:8787"
        f" {tls} --tls-key {folder}/node-key.pem\n"
        f"  vidproc-worker tls://HOST:8786 {rest} --cluster-key {folder}/node-key.pem"
        " --object-store URL\n"
        f"  twistd -n vidproc --cluster tls://HOST:8786 {rest} --cluster-key {folder}/node-key.pem"
        " --object-store URL\n"
        "HOST is the scheduler's address (127.0.0.1 for a trial on one machine), URL is storage"
        " that all of them reach, such as file:///mnt/shared/vidproc. docs/cluster.md has the"
        " steps."
    )


if __name__ == "__main__":
    main()
