"""What can go wrong for the client. Each text is a sentence for a person."""

from __future__ import annotations

from typing import Any


class ClientError(Exception):
    """A request could not be done. Its text is a sentence for a person."""


class ConnectFailed(ClientError):
    """No connection could be made, or what answers there is not what we look for."""

    def __init__(self, text: str, advice: str = "") -> None:
        super().__init__(text)
        self.advice = advice


class Unreachable(ConnectFailed):
    """No connection could be made; it may be possible a moment later."""


class ConnectionBroken(ClientError):
    """A connection ended before its answer was there. Worth another try.

    `answered` is whether any byte of the answer had come.
    """

    def __init__(self, text: str, *, answered: bool = False) -> None:
        super().__init__(text)
        self.answered = answered


class LostForGood(ClientError):
    """The connection broke and could not be made again in a bounded number of tries."""

    def __init__(self, text: str, advice: str = "") -> None:
        super().__init__(text)
        self.advice = advice


class InputChanged(ClientError):
    """The input file is not what it was when the upload began, or can't be read any more."""


class ResultNotWritten(ClientError):
    """The result can't be stored here: a full or read-only disk."""


class ChecksumMismatch(Exception):
    """The bytes that came are not those that the server has."""


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
        """Whether the same would be refused later, too: no token, slot or space is wanting."""
        return self.code < 500 and self.code not in (401, 429)


class WaitOver(ClientError):
    """``--max-wait-time`` has passed."""
