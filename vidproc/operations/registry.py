"""Operation names to operations. The modules are imported when first asked for."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import Any

from vidproc.operations.base import Operation

_CLASSES = {
    "compress": "CompressOperation",
    "resolution": "ResolutionOperation",
    "aspect_ratio": "AspectRatioOperation",
    "extract_audio": "ExtractAudioOperation",
    "gif": "GifOperation",
    "webm": "WebMOperation",
}


@cache
def get_operation(name: str) -> Operation[Any]:
    """Return the operation called `name`; raises `KeyError` for any other name."""
    module = import_module(f"vidproc.operations.{name}")
    operation: Operation[Any] = getattr(module, _CLASSES[name])()
    return operation
