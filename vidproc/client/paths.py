"""The files and folders that the command line names, checked before anything is sent."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from vidproc.client.options import UsageError

MAX_INPUT_SIZE = (1 << 40) - 1


def is_folder(path: Path) -> bool:
    """Like `Path.is_dir`, which raises `OSError` for a name that is too long, for instance."""
    try:
        return path.is_dir()
    except OSError:
        return False


def is_there(path: Path) -> bool:
    """Like `Path.exists`; what cannot be there is not."""
    try:
        return path.exists()
    except OSError:
        return False


def check_input(text: str) -> Path:
    """Return the path of the input; raises `UsageError` if it cannot be sent."""
    path = Path(text)
    advice = "Name an existing video file that you may read."
    try:
        with path.open("rb") as file:
            regular = path.is_file()
            size = os.fstat(file.fileno()).st_size
            if regular and size:
                file.read(1)
    except FileNotFoundError:
        raise UsageError(f"The input file does not exist: {text}", advice) from None
    except IsADirectoryError:
        raise UsageError(f"The input is a folder, not a file: {text}", advice) from None
    except (OSError, ValueError) as error:
        if is_folder(path):  # Windows reports "permission denied" for a folder
            raise UsageError(f"The input is a folder, not a file: {text}", advice) from None
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"The input file cannot be read: {text} ({reason})", advice) from None
    if not regular:
        raise UsageError(f"The input is not a regular file: {text}", advice)
    if size == 0:
        raise UsageError(f"The input file is empty: {text}", "Name a video file with content.")
    if size > MAX_INPUT_SIZE:
        raise UsageError(
            f"The input file is larger than 1 TiB, more than the protocol supports: {text}",
            "Split it into smaller files.",
        )
    return path


def output_path(text: str | None) -> Path | None:
    """Return the path that `--output` names, None if it was not given. Raises `UsageError`."""
    if text is None:
        return None
    if not text or "\0" in text:
        raise UsageError("--output must name a file or a folder", "Example: --output result.mp4")
    path = Path(text)
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        pass  # it is new, or its folder is missing, which is checked later
    except OSError as error:
        raise UsageError(
            f"--output cannot be used: {text} ({error.strerror or error})", "Name another file."
        ) from None
    if text[-1] in (os.sep, os.altsep or os.sep) and not path.is_dir():
        raise UsageError(
            f"The output folder does not exist: {text}", "Create it first, or name another."
        )
    if path.exists() and not path.is_dir() and not path.is_file():
        raise UsageError(
            f"The output is not a regular file: {text}", "Name a file that may be replaced."
        )
    return path


def refuse_overwriting(source: Path, output: Path) -> None:
    """Raise `UsageError` if the output is the input file, whatever name it has."""
    try:
        same = output.exists() and output.samefile(source)
    except OSError:
        same = False
    if same:
        raise UsageError(
            f"The output would overwrite the input: {output}",
            f"Example: --output {source.stem}_new{source.suffix}",
        )


def check_output_folder(output: Path) -> None:
    """Raise `UsageError` if nothing can be written to the folder of `output` (a file or folder)."""
    folder = output if output.is_dir() else output.parent
    if not folder.is_dir():
        raise UsageError(
            f"The output folder does not exist: {folder}", "Create it first, or name another."
        )
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UsageError(
            f"The output folder cannot be written to: {folder} ({error.strerror or error})",
            "Example: --output /tmp/result.mp4",
        ) from None
