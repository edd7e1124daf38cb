"""Text for people: made safe to display, and written where nobody may be reading any more."""

from __future__ import annotations

import os
import re
import sys

# C0 and C1 controls, line separators, and characters that change the text direction.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def escape(text: str) -> str:
    """Return `text` as one line, with control characters as ``\\n``, ``\\x1b`` or ``\\u202e``."""
    return _CONTROL.sub(lambda match: repr(match[0])[1:-1], text)


def show_and_exit(text: str) -> None:
    """Print what an option such as ``--version`` asks for, and exit with status 0.

    A reader that has seen enough, such as ``head``, is no error. If the output cannot be written
    for another reason, such as a full disk, one line says so and the status is 1.
    """
    status = 0
    try:
        print(text, flush=True)
    except OSError as error:
        if not isinstance(error, BrokenPipeError):
            print(f"vidproc: the output cannot be written ({error.strerror})", file=sys.stderr)
            status = 1
        # The interpreter flushes once more when it exits.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
    sys.exit(status)
