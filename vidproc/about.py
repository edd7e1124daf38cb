"""What `--version` says: the program, and what it would process videos with on this machine.

And how an option like it prints what it has to say.
"""

from __future__ import annotations

import argparse
import os
import sys

from vidproc import __version__


def version_text(ffmpeg: str | None = None) -> str:
    """Return the versions of vidproc, Python, Twisted and FFmpeg and the sandbox's layers.

    `ffmpeg` is the path of an FFmpeg to use instead of the bundled one. The first line is
    ``vidproc`` and its version, whatever else can be found out.
    """
    import platform

    return "\n".join(
        [
            f"vidproc {__version__}",
            f"Python {platform.python_version()}, Twisted {_version_of('Twisted')}",
            f"FFmpeg {_ffmpeg(ffmpeg)}",
            f"Sandbox {_layers()}",
        ]
    )


def _version_of(distribution: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(distribution)
    except PackageNotFoundError:
        return "is missing"


def _ffmpeg(path: str | None) -> str:
    from vidproc.ffmpeg.binary import FFmpegUnusable, find_ffmpeg

    try:
        found = find_ffmpeg(path)
    except FFmpegUnusable as error:
        return f"is not usable: {error}"
    return f"{found.version} ({found.path})"


def _layers() -> str:
    try:
        from vidproc.ffmpeg.sandbox import find_layers
    except ImportError:
        return "is not available: it needs Linux"
    return ", ".join(sorted(find_layers("auto") - {"memory"})) or "has no layer on this machine"


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


class ShowVersion(argparse.Action):
    """The option `--version` of an argparse program.

    Finds out what to print only when asked: that takes a moment.
    """

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> None:
        show_and_exit(version_text())
