"""Identifies the current boot of the machine.

After a crash of the server the kernel still has every byte that was written. After a power cut only
bytes that were synced are certain: a file may have its full size and end in zeros.
"""

from __future__ import annotations

import secrets
from pathlib import Path

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def boot_id() -> str:
    """Return an ID of the machine's current boot.

    If the kernel does not provide one, each call returns a different ID, so that only synced bytes
    are trusted.
    """
    try:
        return BOOT_ID.read_text().strip()
    except OSError:
        return secrets.token_hex(16)
