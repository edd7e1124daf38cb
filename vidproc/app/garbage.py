"""Keeps Python's garbage collector from blocking the reactor."""

from __future__ import annotations

import gc


def keep_for_good() -> None:
    """Exclude all existing objects from later collections.

    A full collection visits every module, class and function although these never go away. That
    takes 20 ms, in whichever thread triggers it. Call this once, when everything is imported.
    """
    gc.collect()
    gc.freeze()
