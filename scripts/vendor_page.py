"""Fetch tus-js-client, the library that the page ships, pinned by checksum, with its licences.

    python scripts/vendor_page.py          write the files, from the npm registry
    python scripts/vendor_page.py --check  say whether the files are what the script would write

The registry is npm's own, or the one that the environment variable NPM_CONFIG_REGISTRY names. The
browser build includes some small libraries, whose licences are fetched as well.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import io
import os
import sys
import tarfile
import urllib.request
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
STATIC = ROOT / "vidproc" / "frontends" / "http" / "page" / "static"
REGISTRY = "https://registry.npmjs.org/"
SIZE_LIMIT = 8 << 20


class Pin(NamedTuple):
    """A package of npm, and the SHA-512 of its tarball as npm's `integrity` writes it."""

    name: str
    version: str
    integrity: str
    licence: str


PINS = (
    Pin(
        "tus-js-client",
        "4.3.1",
        "sha512-ZLeYmjrkaU1fUsKbIi8JML52uAocjEZtBx4DKjRrqzrZ"
        "a0O4MYwT6db+oqePlspV+FxXJAyFBc/L5gwUi2OFsg==",
        "LICENSE",
    ),
    Pin(
        "js-base64",
        "3.7.7",
        "sha512-7rCnleh0z2CkXhH67J8K1Ytz0b2Y+yxTPL+/KOJoa20h"
        "fnVQ/3/T6W/KflYI4bRHRagNeXeU2bkNGI3v1oS/lw==",
        "LICENSE.md",
    ),
    Pin(
        "base64-js",
        "1.5.1",
        "sha512-AKpaYlHn8t4SVbOHCy+b5+KKgvR4vrsD8vbvrbiQJps7"
        "fKDTkjkDry6ji0rUJjC0kzbNePLwzxq8iypo41qeWA==",
        "LICENSE",
    ),
    Pin(
        "buffer",
        "5.7.1",
        "sha512-EHcyIPBQ4BSGlvjB16k5KgAJ27CIsHY/2JBmCRReo48y"
        "9rQ3MaUzWX3KVlBa4U7MyX02HdVj0K7C3WaB3ju7FQ==",
        "LICENSE",
    ),
    Pin(
        "ieee754",
        "1.2.1",
        "sha512-dcyqhDvX1C46lXZcVqCpK+FtMRQVdIMN6/Df5js2zouU"
        "sqG7I6sFxitIC+7KYK29KdXOLHdu9zL4sFnoVQnqaA==",
        "LICENSE",
    ),
    Pin(
        "url-parse",
        "1.5.10",
        "sha512-WypcfiRhfeUP9vvF0j6rw0J3hrWrw6iZv3+22h6iRMJ/"
        "8z1Tj6XfLP4DsUix5MhMPnXpiHDoKyoZ/bdCkwBCiQ==",
        "LICENSE",
    ),
    Pin(
        "querystringify",
        "2.2.0",
        "sha512-FIqgj2EUvTa7R50u0rGsyTftzjYmv/a3hO345bZNrqab"
        "NqjtgiDMgmo4mkUjd+nzU5oF3dClKqFIPUKybUyqoQ==",
        "LICENSE",
    ),
    Pin(
        "requires-port",
        "1.0.0",
        "sha512-KigOCHcocU3XODJxsu8i/j8T9tzT4adHiecwORRQ0ZZF"
        "cp7ahwXuRU1m+yuO90C5ZUyGeGfocHDI14M3L3yDAQ==",
        "LICENSE",
    ),
)
"""The library, and what its browser build holds. The page's tests check what is shipped."""

BUILD = "package/dist/tus.min.js"
SOURCE_MAP = b"//# sourceMappingURL="


def fetch(pin: Pin) -> bytes:
    """Return a package's tarball. Raises `ValueError` if it is not the pinned one."""
    registry = os.environ.get("NPM_CONFIG_REGISTRY", REGISTRY).rstrip("/")
    url = f"{registry}/{pin.name}/-/{pin.name}-{pin.version}.tgz"
    if not url.startswith("https://"):
        raise ValueError(f"{url} is no https URL")
    with urllib.request.urlopen(url, timeout=60) as answer:  # noqa: S310 -- https, see above
        data: bytes = answer.read(SIZE_LIMIT)
    digest = "sha512-" + base64.b64encode(hashlib.sha512(data).digest()).decode()
    if digest != pin.integrity:
        raise ValueError(f"{url} is not what is pinned: {digest}")
    return data


def member(tarball: bytes, name: str) -> bytes:
    """Return a file of a tarball."""
    with tarfile.open(fileobj=io.BytesIO(tarball)) as archive:
        file = archive.extractfile(name)
        if file is None:
            raise ValueError(f"there is no file {name}")
        return file.read()


def vendored() -> dict[str, bytes]:
    """Return the shipped files by name."""
    tarballs = {pin: fetch(pin) for pin in PINS}
    build, _, _ = member(tarballs[PINS[0]], BUILD).partition(SOURCE_MAP)  # there is no map here
    notes = [b"tus.min.js is the browser build of tus-js-client. It holds these libraries.\n"]
    for pin, tarball in tarballs.items():
        licence = member(tarball, f"package/{pin.licence}").decode().strip()
        notes.append(f"\n==== {pin.name} {pin.version}\n\n{licence}\n".encode())
    return {"tus.min.js": build.rstrip() + b"\n", "tus-licences.txt": b"".join(notes)}


def main() -> int:
    parser = argparse.ArgumentParser(description="Fetch the library that the page ships.")
    parser.add_argument("--check", action="store_true", help="write nothing, compare")
    arguments = parser.parse_args()
    status = 0
    for name, data in vendored().items():
        path = STATIC / name
        if not arguments.check:
            path.write_bytes(data)
        elif not path.is_file() or path.read_bytes() != data:
            print(f"{path} is not what the script writes", file=sys.stderr)
            status = 1
    return status


if __name__ == "__main__":
    raise SystemExit(main())
