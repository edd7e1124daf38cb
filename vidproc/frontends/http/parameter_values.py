"""Converts parameters from a query or a form to the types that an operation expects."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any, get_type_hints

import msgspec

from vidproc.operations.parameters import PARAMETERS

_INTEGER = re.compile(r"[+-]?\d{1,18}", re.ASCII)
_NUMBER = re.compile(r"[+-]?(\d{1,18}(\.\d*)?|\.\d{1,18})([eE][+-]?\d{1,2})?", re.ASCII)
_WORDS = {"true": True, "false": False, "null": None}


def read_parameters(operation: str, pairs: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """Return the parameters that pairs of name and text give. A list has its name repeated.

    A text becomes a number, a truth value or a text, whichever the parameter's type allows first.
    What fits no type, and what the operation does not know, stays text; the check of parameters
    refuses it or warns about it. An empty text counts as not given: forms send their empty fields.
    """
    texts: dict[str, list[str]] = {}
    for name, text in pairs:
        if text.strip():
            texts.setdefault(name, []).append(text)
    types = _types(operation)
    return {name: _value(given, types.get(name)) for name, given in texts.items()}


@cache
def _types(operation: str) -> dict[str, object]:
    kind = PARAMETERS.get(operation)
    return {} if kind is None else get_type_hints(kind, include_extras=True)


def _value(texts: Sequence[str], kind: object) -> object:
    candidates: list[object] = []
    if len(texts) == 1:
        candidates += _readings(texts[0])
    candidates.append([next(iter(_readings(text))) for text in texts])
    candidates.append(list(texts))
    if kind is not None:
        for candidate in candidates:
            try:
                msgspec.convert(candidate, kind)
            except msgspec.ValidationError:
                continue
            return candidate
    # As a number it gets the clearest error, such as "out of range".
    return candidates[0] if kind is not None or len(texts) > 1 else texts[0]


def _readings(text: str) -> list[object]:
    readings: list[object] = []
    stripped = text.strip()
    if _INTEGER.fullmatch(stripped):
        readings.append(int(stripped))
    if _NUMBER.fullmatch(stripped):
        readings.append(float(stripped))
    if stripped.lower() in _WORDS:
        readings.append(_WORDS[stripped.lower()])
    return [*readings, text]
