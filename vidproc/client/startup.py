"""What lets the command start and end quickly; it has no other effect.

Half of a short task's time is the client's own startup: see docs/performance.md, "The first
second".
"""

from __future__ import annotations

import gc
import sys
from importlib.machinery import ModuleSpec
from importlib.util import LazyLoader, find_spec, module_from_spec

_UNUSED = ("http.cookiejar",)
"""Modules that Twisted imports but that none of what the client uses ever calls."""


def begin() -> None:
    """Collect no garbage while modules are imported: they leave none."""
    gc.disable()


def started() -> None:
    """Collect garbage again, but never look through what has been imported; after `begin`."""
    gc.freeze()
    gc.enable()


def end() -> None:
    """Let the interpreter end without looking for garbage in all that it has."""
    gc.freeze()


def postpone_unused() -> None:
    """Have modules that Twisted imports without need be loaded when they are first used.

    Does nothing about those that have been imported already.
    """
    for name in _UNUSED:
        if name not in sys.modules:
            _postpone(name)


def _postpone(name: str) -> None:
    spec: ModuleSpec | None = find_spec(name)
    if spec is None or spec.loader is None:
        return
    spec.loader = LazyLoader(spec.loader)
    module = sys.modules[name] = module_from_spec(spec)
    spec.loader.exec_module(module)
    parent, _, child = name.rpartition(".")
    setattr(sys.modules[parent], child, module)
