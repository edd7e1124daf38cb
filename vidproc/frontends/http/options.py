"""The values of the HTTP frontend's own options: origins, networks and hosts."""

from __future__ import annotations

import re
from ipaddress import IPv4Network, IPv6Network, ip_network
from urllib.parse import urlsplit

Network = IPv4Network | IPv6Network

_HOST_NAME = re.compile(r"[a-z0-9_]([a-z0-9._-]{0,251}[a-z0-9_])?\.?", re.ASCII)
_DEFAULT_PORTS = {"http": 80, "https": 443}


def origin(text: str) -> str:
    """Return an origin as browsers write it, such as ``https://video.example``.

    Raises `ValueError` if it is not one.
    """
    wrong = ValueError(
        f"{text!r} is not an origin; write scheme and host as in https://video.example"
    )
    try:
        parts = urlsplit(text.strip())
        port = parts.port
    except ValueError:
        raise wrong from None
    if (
        parts.scheme not in _DEFAULT_PORTS
        or not parts.hostname
        or parts.path.strip("/")
        or parts.query
        or parts.fragment
        or parts.username is not None
    ):
        raise wrong
    name = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    if port in (None, _DEFAULT_PORTS[parts.scheme]):
        return f"{parts.scheme}://{name}"
    return f"{parts.scheme}://{name}:{port}"


def network(text: str) -> Network:
    """Return the network that `text` names. Raises `ValueError` if it names none."""
    try:
        return ip_network(text.strip(), strict=False)
    except ValueError:
        raise ValueError(
            f"{text!r} is neither an address nor a network; write 127.0.0.1 or 10.0.0.0/8"
        ) from None


def host(text: str) -> str:
    """Return a host's name in lower case, or ``*`` for any; raises `ValueError`."""
    name = text.strip().lower()
    if name != "*" and not _HOST_NAME.fullmatch(name):
        raise ValueError(
            f"{text!r} is not a host's name; write it without scheme and port, as in video.example"
        )
    return name.rstrip(".") if name != "*" else name
