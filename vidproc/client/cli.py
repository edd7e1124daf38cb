"""The command ``vidproc``: parses, runs, and returns an exit status.

Imports nothing heavy: the parser is imported after `startup.begin`, Twisted, rich and msgspec only
when there is work to do.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from vidproc.client import startup
from vidproc.client.tls import do_without_tls


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with `argv` (without the program's name) and return its exit status.

    Like every argparse program it raises `SystemExit` for ``--help``, ``--version`` and
    malformed options.
    """
    whole = argv is None  # this process is for the command alone
    if whole:
        startup.begin()
    _allow_odd_characters()
    try:
        return _main(argv)
    finally:
        _ignore_closed_streams()
        if whole:
            startup.end()


def _main(argv: Sequence[str] | None) -> int:
    from vidproc.client.command_line import parse_command_line
    from vidproc.client.options import UsageError

    try:
        try:
            options = parse_command_line(argv)
        except BrokenPipeError:
            return 0  # who read the help has gone; argparse of Python 3.11.2 does not ignore that
        if not options.tls:
            do_without_tls()
        from vidproc.client.early import begin_upload

        early = begin_upload(options)
        startup.before_twisted()
        from vidproc.client.run import run

        return run(options, early)
    except UsageError as error:
        _say(*error.lines)
        return 2
    except KeyboardInterrupt:
        _say("Interrupted.")
        return 130
    except Exception as error:  # the last resort: users never see a traceback
        _say(f"Something unexpected went wrong: {type(error).__name__}: {error}")
        return 1


def _say(*lines: str) -> None:
    """Write lines to standard error; ignore a closed stream."""
    try:
        for line in lines:
            print(line, file=sys.stderr)
    except (OSError, ValueError):
        pass


def _allow_odd_characters() -> None:
    """Print file names that are not valid text unchanged instead of raising an error."""
    for stream, errors in ((sys.stdout, "surrogateescape"), (sys.stderr, "backslashreplace")):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            try:
                reconfigure(errors=errors if os.name == "posix" else "backslashreplace")
            except (OSError, ValueError):
                pass


def _ignore_closed_streams() -> None:
    """Keep the interpreter from complaining about closed streams when it exits."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (AttributeError, ValueError):
            pass
        except OSError:
            try:
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, stream.fileno())
                os.close(nowhere)
            except (OSError, ValueError):
                pass
