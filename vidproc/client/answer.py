"""A server's answer, and whether it is an error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vidproc.client.errors import Refused

TERMINAL = frozenset({"completed", "failed", "cancelled", "expired"})
"""Statuses of tasks that have ended."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer's JSON, media type and payload size in bytes."""

    fields: dict[str, Any]
    media_type: str = ""
    payload_size: int = 0

    def refusal(self) -> Refused | None:
        """Return the error in this answer, or None.

        A status has an ``error`` too: null, or the text that says why the task failed.
        """
        error = self.fields.get("error")
        if isinstance(error, dict):
            code = error.get("code")
            return Refused(
                code if isinstance(code, int) else 0,
                str(error.get("description") or error.get("message") or "The server refused."),
                str(error.get("solution") or ""),
                error,
            )
        if self.fields.get("status") == "error" or (error and "status" not in self.fields):
            text = error or self.fields.get("message") or "The server refused."
            return Refused(0, str(text), str(self.fields.get("solution") or ""), self.fields)
        return None

    def checked(self) -> Answer:
        """Return this answer; raises `Refused` if it is an error."""
        refusal = self.refusal()
        if refusal is not None:
            raise refusal
        return self
