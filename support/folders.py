"""Looking through folders in which other processes work."""

from __future__ import annotations

import os
from pathlib import Path


def files_below(folder: Path) -> list[Path]:
    """Return the files below a folder, in no particular order.

    Folders may be removed meanwhile: `os.walk` leaves them out, but `Path.rglob` raises
    FileNotFoundError before Python 3.12. A file may be gone by the time it is used.
    """
    return [Path(parent, name) for parent, _, names in os.walk(folder) for name in names]
