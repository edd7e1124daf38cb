"""Keeps Python's garbage collector from holding the loop."""

from __future__ import annotations

import gc


def keep_for_good() -> None:
    """Leave all objects that there are now out of later collections.

    A full collection looks at every module, class and function, which never go: 20 ms at a time,
    in whichever thread makes the object too many. Call it once, when everything is imported.
    """
    gc.collect()
    gc.freeze()
