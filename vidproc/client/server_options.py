"""Checks of the options for the server, the token and waiting times."""

from __future__ import annotations

import argparse
import ipaddress
import re
from pathlib import Path

from vidproc.client.options import UsageError
from vidproc.units import parse_duration


def host_of(text: str) -> str:
    """Return the host that `--host` names, without brackets. Raises `UsageError`."""
    host = text.strip()
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    if not host or any(character.isspace() or character == "/" for character in host):
        raise UsageError(
            f"--host must be a host name or address, not {text!r}", "Example: --host localhost"
        )
    return host


def port_of(text: str) -> int:
    """Return the port that `--port` names. Raises `UsageError`."""
    if re.fullmatch(r"\d{1,5}", text.strip(), re.ASCII) and 1 <= int(text) <= 65535:
        return int(text)
    raise UsageError(f"--port must be from 1 to 65535, not {text!r}", "Example: --port 9999")


def seconds_of(text: str, option: str, example: int, *, zero: bool = False) -> float:
    """Return the seconds that `option` was given, at most 1e9; with `zero` they may be 0.

    Raises `UsageError`, which names `example`.
    """
    try:
        seconds = parse_duration(text)
    except ValueError:
        seconds = -1.0
    if seconds > 0 or (zero and seconds == 0):
        return min(seconds, 1e9)
    raise UsageError(
        f"{option} must be seconds{'' if zero else ', more than 0'}, or such as 5m, not {text!r}",
        f"Example: {option} {example}",
    )


def read_credentials(given: argparse.Namespace) -> dict[str, object]:
    """Return `ca`, `token_file` and `token` as fields of `Options`.

    Raises `UsageError` if a file cannot be used, or the token would be sent unencrypted.
    """
    ca = token_file = token = None
    if given.ca is not None:
        if not given.tls:
            raise UsageError("--ca needs --tls", f"Example: --tls --ca {given.ca}")
        ca = Path(given.ca)
        if b"-----BEGIN CERTIFICATE-----" not in _read(ca, "--ca"):
            raise UsageError(
                f"--ca: there is no PEM certificate in {ca}",
                "Name the file with the authority's certificate (-----BEGIN CERTIFICATE-----).",
            )
    if given.token_file is not None:
        token_file = Path(given.token_file)
        token = _token(token_file)
        host = host_of(given.host)
        if not (given.tls or given.insecure or _is_loopback(host)):
            raise UsageError(
                f"The token would be sent to {host} unencrypted; others could read it",
                "Add --tls, or --insecure if you trust the network.",
            )
    return {"ca": ca, "token_file": token_file, "token": token}


def _is_loopback(host: str) -> bool:
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _read(path: Path, option: str) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(1 << 22)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(
            f"{option}: {path} cannot be read ({reason})", "Name a file that you may read."
        ) from None


def _token(path: Path) -> str:
    text = _read(path, "--token-file").decode(errors="replace")
    for line in text.splitlines():
        words = line.split()
        if words and not words[0].startswith("#"):
            token = words[-1]
            if len(token) <= 1024 and token.isprintable() and "\ufffd" not in token:
                return token
            break
    raise UsageError(
        f"--token-file: there is no token in {path}",
        'Its first line must be a token, or "name token".',
    )
