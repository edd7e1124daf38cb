"""Says in words which values a parameter takes, from its JSON schema: for errors, here and in the
client."""

from __future__ import annotations

import re
from typing import Any

_EXAMPLES: dict[str, Any] = {
    "bitrate": 192_000,
    "hdr": "sdr",
    "max_size": 2_097_152,
    "plays": ["h264", "hevc"],
    "target_size": 8_388_608,
    "track": "eng",
    "width": 640,
}
"""Values of the parameters that have no default."""


def allowed_values(name: str, schema: dict[str, Any]) -> str:
    """Return what a parameter must be, such as "a whole number from 16 to 8192", or "" if its
    schema does not tell."""
    if name == "track":
        return "a track number from 1, or a language such as eng"
    if name == "aspect_ratio":
        return '"W:H" from 1:10 to 10:1'
    if name in ("start_time", "duration"):
        return "seconds such as 12.5, or HH:MM:SS such as 00:01:30.5"
    for form in [schema, *schema.get("anyOf", [])]:
        if "enum" in form:
            return f"one of {', '.join(map(str, form['enum']))}"
        if "enum" in form.get("items", {}):
            return f"a list of {', '.join(map(str, form['items']['enum']))}"
        if "minimum" in form and "maximum" in form:
            kind = "a whole number" if form.get("type") == "integer" else "a number"
            if form["maximum"] > 1_000_000_000:
                return f"{kind} of at least {form['minimum']:g}"
            return f"{kind} from {form['minimum']:g} to {form['maximum']:g}"
    return ""


def example_value(name: str, schema: dict[str, Any]) -> Any:
    """Return a value to show in an example, None if there is none: the default, if there is one."""
    default = schema.get("default")
    return _EXAMPLES.get(name) if default is None else default


def name_of(problem: str, names: list[str]) -> str | None:
    """Return which parameter a sentence about a problem is about: the first that it names."""
    found = re.search(rf"\b({'|'.join(map(re.escape, names))})\b", problem)
    return found[1] if found else None
