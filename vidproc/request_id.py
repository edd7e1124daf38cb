"""The id of the request that the code at hand works for. It stands in each log line.

A frontend gives each request an ID. The task that results from it keeps the ID, and so do the
task's commands, wherever they run. A coroutine started `within` an ID keeps it across each `await`.
Callbacks of the reactor have none, so they name it themselves.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_current: ContextVar[str | None] = ContextVar("vidproc_request", default=None)
_FORM = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)


def new_request_id() -> str:
    """Return a new id: 64 random bits in hexadecimal."""
    return secrets.token_hex(8)


def current_request_id() -> str | None:
    """Return the id of the request that the caller works for, None outside of one."""
    return _current.get()


def accepted_request_id(text: str | None) -> str | None:
    """Return an id that a trusted proxy has given a request, None if it is not usable as one."""
    return text if text is not None and _FORM.fullmatch(text) else None


@contextmanager
def within(request_id: str | None) -> Iterator[None]:
    """Work for a request within the block; with None for none in particular."""
    token = _current.set(request_id)
    try:
        yield
    finally:
        _current.reset(token)
