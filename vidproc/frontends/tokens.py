"""Tokens: who may send requests, by name."""

from __future__ import annotations

import hmac
from pathlib import Path

from vidproc.errors import ErrorCode, ServiceError


class Tokens:
    """The tokens that requests need, by their owner's name. None are needed when empty."""

    def __init__(self, tokens: dict[str, str] | None = None, path: Path | None = None) -> None:
        self._tokens = tokens or {}
        self._path = path

    @property
    def needed(self) -> bool:
        """Whether requests need a token."""
        return bool(self._tokens)

    @classmethod
    def read(cls, path: Path) -> Tokens:
        """Read ``name token`` lines; blank lines and ``#`` comments are skipped.

        Raises `OSError`, or `ValueError` naming the line that is wrong (never its text).
        """
        tokens: dict[str, str] = {}
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            words = line.split()
            if not words or words[0].startswith("#"):
                continue
            if len(words) != 2 or words[0] in tokens:
                raise ValueError(f"{path}, line {number}: write a unique name and a token")
            tokens[words[0]] = words[1]
        if not tokens:
            raise ValueError(f"{path} holds no tokens; write a name and a token on each line")
        return cls(tokens, path)

    def reload(self) -> None:
        """Read the file again, if the tokens came from one.

        Raises as `read` does; the tokens stay as they were then.
        """
        if self._path is not None:
            self._tokens = self.read(self._path)._tokens

    def check(self, token: str | None) -> str | None:
        """Return the name of the token's owner, None when no tokens are used.

        Raises `ServiceError` 401. Takes as long for a near miss as for a far one.
        """
        if not self._tokens:
            return None
        given = (token or "").encode(errors="surrogatepass")
        found = None
        for name, known in self._tokens.items():
            if hmac.compare_digest(known.encode(), given):
                found = name
        if found is None:
            raise ServiceError(
                ErrorCode.UNAUTHORIZED,
                "This server requires a token." if token is None else "The token is not valid.",
                'Add "token" to the request, or use --token-file FILE with the vidproc client.',
            )
        return found
