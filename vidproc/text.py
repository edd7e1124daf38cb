"""Text from strangers, made safe to display."""

from __future__ import annotations

import re

# C0 and C1 controls, line separators, and characters that change the text direction.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def escape(text: str) -> str:
    """Return `text` as one line, with control characters as ``\\n``, ``\\x1b`` or ``\\u202e``."""
    return _CONTROL.sub(lambda match: repr(match[0])[1:-1], text)
