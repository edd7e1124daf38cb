"""The videos of a batch, and names for their results that do not collide."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from vidproc.client.kinds import VIDEO_KINDS
from vidproc.client.options import Film, Options, UsageError
from vidproc.client.paths import check_input, check_output_folder, is_folder, is_there
from vidproc.result_names import result_stem

_KINDS = {"extract_audio": "mp3", "gif": "gif", "webm": "webm"}
_RESULT = re.compile(r"(.+)_processed(_\d+)?")


def is_batch(inputs: Sequence[str]) -> bool:
    """Return whether these inputs are a batch: several, or a folder."""
    return len(inputs) > 1 or any(is_folder(Path(text)) for text in inputs)


def find_films(inputs: Sequence[str], output: str | None) -> tuple[Film, ...]:
    """Return the videos that `inputs` name, each once, in order.

    A folder stands for the videos directly in it. `output` is the folder of the results, None if
    each one goes next to its input. Raises `UsageError`.
    """
    found: dict[tuple[int, int], tuple[Path, str]] = {}
    for text in inputs:
        path = Path(text)
        if is_folder(path):
            films = _films_in(path)
            if not films and len(inputs) == 1:
                raise UsageError(_nothing_in(path), "Name a folder with videos, or the videos.")
        else:
            check_input(text)
            films = [path]
        for film in films:
            try:
                check_input(str(film))
                problem = ""
            except UsageError as error:
                # It was found in a folder, not named, so the others need not wait for it.
                problem = error.lines[0]
            try:
                status = film.stat()
            except OSError:
                continue  # removed just now
            found.setdefault((status.st_dev, status.st_ino), (film, problem))
    if not found:
        raise UsageError("There are no videos in these folders", "Name a folder with videos.")
    return _with_targets(list(found.values()), None if output is None else Path(output))


def _nothing_in(folder: Path) -> str:
    deeper = any(entry.is_dir() for entry in folder.iterdir())
    return f"There is no video in the folder {folder}" + (
        "; folders inside it are not searched" if deeper else ""
    )


def _films_in(folder: Path) -> list[Path]:
    """Return the videos in a folder by name, without hidden files and results of earlier runs."""
    try:
        paths = [
            path
            for path in sorted(folder.iterdir())
            if path.suffix[1:].lower() in VIDEO_KINDS
            and not path.name.startswith(".")
            and path.is_file()
        ]
    except OSError as error:
        raise UsageError(
            f"The folder cannot be read: {folder} ({error.strerror or error})",
            "Name a folder that you may read.",
        ) from None
    stems = {path.stem for path in paths}
    return [
        path
        for path in paths
        if (match := _RESULT.fullmatch(path.stem)) is None or match[1] not in stems
    ]


def _with_targets(found: list[tuple[Path, str]], output: Path | None) -> tuple[Film, ...]:
    """Name the results: ``film_processed``, or longer if two videos would have the same name.

    The names depend only on the videos, not on what is on the disk: the same command always gives
    the same names.
    """
    folders = [output if output is not None else path.parent for path, _ in found]
    names = [path.stem for path, _ in found]
    resolved = [path.absolute() for path, _ in found]

    def clashes() -> list[list[int]]:
        groups: dict[tuple[str, str], list[int]] = defaultdict(list)
        for number, name in enumerate(names):
            # Some file systems do not distinguish upper and lower case.
            groups[(str(folders[number].absolute()), name.casefold())].append(number)
        return [group for group in groups.values() if len(group) > 1]

    for group in clashes():
        if len({resolved[number].suffix.casefold() for number in group}) == len(group):
            for number in group:
                names[number] += f"_{resolved[number].suffix[1:]}"
        else:
            for number in group:
                parents = resolved[number].parent.parts[1:]
                common = os.path.commonpath([resolved[other].parent for other in group])
                tail = (
                    "_".join(parents[len(Path(common).parts) - 1 :]) or resolved[number].parent.name
                )
                names[number] = f"{tail}_{names[number]}_{resolved[number].suffix[1:]}"[-200:]
    # A result must not have the name of an input either, because `--force` would replace that.
    taken = {(str(path.parent), path.stem.casefold()) for path in resolved}
    for number, name in enumerate(names):
        unique, count = name, 1
        folder_name = str(folders[number].absolute())
        while (key := (folder_name, result_stem(unique).casefold())) in taken:
            count += 1
            unique = f"{name}-{count}"
        taken.add(key)
        names[number] = unique
    return tuple(
        Film(path, folder, result_stem(name), problem)
        for (path, problem), folder, name in zip(found, folders, names, strict=True)
    )


def prepare_folders(films: Sequence[Film], output: str | None) -> None:
    """Create the folder of the results if necessary, and check that all folders are writable.

    Raises `UsageError`.
    """
    if output is not None:
        folder = Path(output)
        if not is_folder(folder) and is_there(folder):
            raise UsageError(
                f"--output must be a folder for several inputs, and this is a file: {output}",
                "Example: vidproc a.mp4 b.mp4 --type compress --output results",
            )
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise UsageError(
                f"The output folder cannot be created: {output} ({reason})",
                "Name another with --output.",
            ) from None
    for folder in sorted({film.folder for film in films}):
        check_output_folder(folder)


def existing_result(options: Options, film: Film | None = None) -> Path | None:
    """Return the result of an earlier run with the name of this one, or None."""
    if film is None:
        path, output = options.input, options.output
        assert path is not None
        if output is not None and not output.is_dir():
            return output if output.exists() else None
        film = Film(path, output or path.parent, result_stem(path.stem))
    kinds = [_KINDS.get(options.type, "mp4")]
    if options.type == "compress":
        kinds.append(film.path.suffix[1:])  # if the video is returned unchanged
    for kind in kinds:
        path = film.folder / f"{film.stem}.{kind}"
        if path.exists():
            return path
    return None
