"""Who may speak with whom: mutual TLS, or the loopback alone.

Checked for the server's options and the worker's. Imports nothing heavy.
"""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from vidproc.topics import Topic, TopicLogger

log = TopicLogger(Topic.SERVICE)

SCHEMES = ("file", "s3", "s3a", "gs", "az", "azure", "abfs", "abfss")


@dataclass(frozen=True, slots=True)
class ClusterOptions:
    """Where the scheduler and the object store are, and with which certificates to speak."""

    address: str
    object_store: str
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    insecure: bool = False

    @property
    def tls(self) -> bool:
        """Whether all connections use mutual TLS."""
        return self.ca is not None


def checked(
    address: str,
    object_store: str | None,
    *,
    ca: str | None = None,
    cert: str | None = None,
    key: str | None = None,
    insecure: bool = False,
) -> ClusterOptions:
    """Return the options as they will be used. Raises `ValueError` that says what to do."""
    for module in ("distributed", "obstore"):
        if find_spec(module) is None:
            raise ValueError(
                f'{module} is not installed; install it with: pip install "vidproc[cluster]"'
            )
    if object_store is None:
        raise ValueError(
            "--object-store is missing; name storage that all machines reach, such as"
            " --object-store file:///mnt/shared/vidproc or s3://bucket/prefix"
        )
    _check_store(object_store)
    files = [ca, cert, key]
    if any(files) and not all(files):
        raise ValueError("--cluster-ca, --cluster-cert and --cluster-key are needed together")
    ca_path, cert_path, key_path = (_readable(name) for name in files)
    if ca_path is not None and cert_path is not None and key_path is not None:
        from vidproc.cluster import certificates

        warning = certificates.check(ca_path, cert_path, key_path)
        if warning is not None:
            log.warn("{warning}", warning=warning)
    host = _host(address, tls=ca is not None)
    if not ca and not insecure and not is_loopback(host):
        raise ValueError(
            f"{address} is beyond this machine, and without TLS anyone who reaches it can run"
            " programs here; give --cluster-ca, --cluster-cert and --cluster-key, or"
            " --cluster-insecure on a private network"
        )
    return ClusterOptions(address, object_store, ca_path, cert_path, key_path, insecure)


def _check_store(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme not in SCHEMES:
        raise ValueError(
            f"--object-store: {url!r} is none; it starts with file://, s3://, gs:// or az://"
        )
    if parts.scheme == "file":
        if parts.netloc or not Path(parts.path).is_absolute():
            raise ValueError(f"--object-store: write file:// and an absolute path, not {url!r}")
        if not Path(parts.path).is_dir():
            raise ValueError(f"--object-store: there is no folder {parts.path}; create it first")
    elif not parts.netloc:
        raise ValueError(f"--object-store: {url!r} names no bucket")


def _readable(name: str | None) -> Path | None:
    if name is None:
        return None
    path = Path(name).expanduser().absolute()
    try:
        path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    return path


def _host(address: str, *, tls: bool) -> str:
    scheme = "tls" if tls else "tcp"
    try:
        parts = urlsplit(address)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port, parts = None, None, urlsplit("")
    if not host or not port or parts.scheme not in ("tcp", "tls"):
        raise ValueError(f"{address!r} is not a scheduler's address; write {scheme}://host:8786")
    if parts.scheme != scheme:
        raise ValueError(
            f"{address}: with --cluster-ca, write tls://{parts.netloc}"
            if tls
            else f"{address}: tls:// needs --cluster-ca, --cluster-cert and --cluster-key"
        )
    return host


def is_loopback(host: str) -> bool:
    """Return whether a host name or address means this machine alone. Asks the resolver."""
    try:
        found = {str(each[4][0]) for each in socket.getaddrinfo(host, None)}
    except OSError:
        return False
    return bool(found) and all(ipaddress.ip_address(each).is_loopback for each in found)


def dask_security(options: ClusterOptions) -> Any:
    """Return Dask's `Security` for these options, None without TLS."""
    if not options.tls:
        return None
    from distributed import security

    make: Any = security.Security
    ca, cert, key = str(options.ca), str(options.cert), str(options.key)
    return make(
        require_encryption=True,
        tls_ca_file=ca,
        tls_client_cert=cert,
        tls_client_key=key,
        tls_worker_cert=cert,
        tls_worker_key=key,
        tls_scheduler_cert=cert,
        tls_scheduler_key=key,
    )


def local_address(address: str) -> str:
    """Return the address of this machine from which it reaches the scheduler."""
    parts = urlsplit(address)
    assert parts.hostname is not None and parts.port is not None
    family, kind, _, _, target = socket.getaddrinfo(
        parts.hostname, parts.port, type=socket.SOCK_DGRAM
    )[0]
    with socket.socket(family, kind) as probe:
        probe.connect(target)  # a datagram socket: nothing is sent
        return str(probe.getsockname()[0])
