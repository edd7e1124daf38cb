"""What lets the command start and end quickly; it has no other effect.

Half of a short task's time is the client's own startup: see docs/performance.md, "The first
second".
"""

from __future__ import annotations

import gc
import sys
from importlib.machinery import ModuleSpec
from importlib.util import LazyLoader, find_spec, module_from_spec


def begin() -> None:
    """Prepare for imports: collect no garbage, as they leave none."""
    gc.disable()


def before_twisted() -> None:
    """Have a module of a fifth of Twisted's imports be loaded when it is first used: never."""
    name = "http.cookiejar"
    if name in sys.modules:
        return
    spec: ModuleSpec | None = find_spec(name)
    if spec is None or spec.loader is None:
        return
    spec.loader = LazyLoader(spec.loader)
    module = sys.modules[name] = module_from_spec(spec)
    spec.loader.exec_module(module)
    # Twisted finds it there; an import of the module itself would load it.
    sys.modules["http"].cookiejar = module  # type: ignore[attr-defined]


def started() -> None:
    """Collect garbage again, but never look through what has been imported; after `begin`."""
    gc.freeze()
    gc.enable()


def end() -> None:
    """Let the interpreter end without looking for garbage in all that it has."""
    gc.freeze()
