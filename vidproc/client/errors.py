"""The client's exceptions. Each text is a sentence for the user."""

from __future__ import annotations

from typing import Any


class ClientError(Exception):
    """A request failed. The text is a sentence for the user."""


class ConnectFailed(ClientError):
    """No connection could be made, or the peer is not a vidproc server."""

    def __init__(self, text: str, advice: str = "") -> None:
        super().__init__(text)
        self.advice = advice


class Unreachable(ConnectFailed):
    """No connection could be made; a later attempt may succeed."""


class ConnectionBroken(ClientError):
    """A connection ended before the answer was complete. Worth a retry.

    `answered` is whether any byte of the answer had arrived.
    """

    def __init__(self, text: str, *, answered: bool = False) -> None:
        super().__init__(text)
        self.answered = answered


class LostForGood(ClientError):
    """The connection broke and could not be restored within the allowed number of tries."""

    def __init__(self, text: str, advice: str = "") -> None:
        super().__init__(text)
        self.advice = advice


class InputChanged(ClientError):
    """The input file has changed since the upload began, or can no longer be read."""


class ResultNotWritten(ClientError):
    """The result cannot be stored: a full or read-only disk."""


class ChecksumMismatch(Exception):
    """The bytes received differ from the server's."""


class Refused(ClientError):
    """The server answered with an error: its `code`, `description` and `solution`."""

    def __init__(self, code: int, description: str, solution: str, fields: dict[str, Any]) -> None:
        super().__init__(f"{code} {description}")
        self.code = code
        self.description = description
        self.solution = solution
        self.fields = fields

    @property
    def for_good(self) -> bool:
        """Whether a retry would be refused as well, because the reason is not a token, a slot or
        space."""
        return self.code < 500 and self.code not in (401, 429)


class WaitOver(ClientError):
    """``--max-wait-time`` has passed."""
