"""Which boot of the machine this is.

After a crash of the server the kernel still holds every byte that was written. After a power cut
only those that were synced are certain: a file can have its full size and end in zeros.
"""

from __future__ import annotations

import secrets
from pathlib import Path

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def boot_id() -> str:
    """Return an id of the machine's current boot.

    Where the kernel does not tell, each call returns another one: then nothing that was not
    synced is trusted.
    """
    try:
        return BOOT_ID.read_text().strip()
    except OSError:
        return secrets.token_hex(16)
