"""What `--version` says: the program, and what it would process videos with on this machine."""

from __future__ import annotations

import argparse

from vidproc import __version__
from vidproc.text import show_and_exit


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
