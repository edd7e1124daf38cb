"""Who a connection is: the address as slots count it, and the token's owner."""

from __future__ import annotations

import hmac
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from typing import Any

from vidproc.errors import ErrorCode, ServiceError


def peer_key(address: Any) -> str:
    """Return what one client's connections have in common: an IPv4 address or an IPv6 /64.

    `address` is what a transport's ``getPeer`` returns; with a ``haproxy:`` endpoint that is the
    proxied address.
    """
    host = getattr(address, "host", None)
    if host is None:
        return "local"  # a UNIX socket
    try:
        ip = ip_address(host.partition("%")[0])
    except ValueError:
        return str(host)
    if isinstance(ip, IPv6Address):
        if ip.ipv4_mapped is not None:
            return str(ip.ipv4_mapped)
        network = int(ip) >> 64 << 64
        return f"{IPv6Address(network)}/64"
    return str(ip)


class Tokens:
    """The tokens that requests need, by their owner's name. None are needed when empty."""

    def __init__(self, tokens: dict[str, str] | None = None) -> None:
        self._tokens = tokens or {}

    @classmethod
    def read(cls, path: Path) -> Tokens:
        """Read ``name token`` lines; blank lines and ``#`` comments are skipped.

        Raises `OSError`, or `ValueError` naming the line that is wrong (never its text).
        """
        tokens: dict[str, str] = {}
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            words = line.split()
            if not words or words[0].startswith("#"):
                continue
            if len(words) != 2 or words[0] in tokens:
                raise ValueError(f"{path}, line {number}: write a name of its own and a token")
            tokens[words[0]] = words[1]
        if not tokens:
            raise ValueError(f"{path} holds no token; write a name and a token on a line")
        return cls(tokens)

    def check(self, token: str | None) -> str | None:
        """Return the name of the token's owner, None when no tokens are used.

        Raises `ServiceError` 401. Takes as long for a near miss as for a far one.
        """
        if not self._tokens:
            return None
        given = (token or "").encode()
        found = None
        for name, known in self._tokens.items():
            if hmac.compare_digest(known.encode(), given):
                found = name
        if found is None:
            raise ServiceError(
                ErrorCode.UNAUTHORIZED,
                "This server needs a token." if token is None else "The token is not known here.",
                'Add "token" to the request, or use --token-file FILE with the vidproc client.',
            )
        return found
