"""The default name of a result, for the command-line client and the Python API."""

from __future__ import annotations

import os

_LONGEST = 229
"""Bytes of a stem; with `_2`, a dot and an extension it is within the 255 of most file systems."""


def result_stem(stem: str) -> str:
    """Return ``film_processed`` for ``film``; a long stem is shortened to leave room for that."""
    ending = "_processed"
    while len(os.fsencode(stem)) > _LONGEST - len(ending):
        stem = stem[:-1]
    return stem + ending
