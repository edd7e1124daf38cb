"""Parsing the command line into checked `Options`; nothing is sent before all checks pass."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vidproc.client.films import find_films, is_batch, prepare_folders
from vidproc.client.options import Options, UsageError
from vidproc.client.parameters import EXAMPLES, OPTION_TYPES, TYPES, option_of, read_parameters
from vidproc.client.parser import build_parser
from vidproc.client.paths import check_input, check_output_folder, output_path, refuse_overwriting
from vidproc.client.server_options import host_of, port_of, read_credentials, seconds_of
from vidproc.configuration import COMMAND_LINE, DEFAULT, ConfigurationError
from vidproc.program_options import held, parse

ACTIONS = ("status", "watch", "download", "cancel", "list", "server-info")
"""Options that say what to do, so no file or variable can set them."""
SHOWN = (
    "host",
    "port",
    "tls",
    "ca",
    "token-file",
    "insecure",
    "check-interval",
    "max-wait-time",
    "log-dir",
)
"""The client's own settings that `--server-info` shows."""


def parse_command_line(argv: Sequence[str] | None = None) -> Options:
    """Return the checked options.

    Raises `UsageError` with the lines to print, and `SystemExit` where argparse does.
    """
    parser = build_parser()
    try:
        given, sources = parse(parser, argv, "client", excluded=ACTIONS)
    except ConfigurationError as error:
        raise UsageError(error.problem, error.advice) from None
    try:
        return _checked(parser, given, sources)
    except UsageError as error:
        raise UsageError(
            error.lines[0], *_origins(error.lines[0], sources), *error.lines[1:]
        ) from None


def _checked(
    parser: argparse.ArgumentParser, given: argparse.Namespace, sources: dict[str, str]
) -> Options:
    action = _action(parser, given)
    _drop_what_does_not_apply(given, sources, action)
    if given.force and given.skip_existing:
        raise UsageError(
            "--force and --skip-existing cannot be combined: replace results, or leave them",
            "Example: vidproc films --type compress --skip-existing",
        )
    common: dict[str, Any] = {
        "action": action,
        "host": host_of(given.host),
        "port": port_of(given.port),
        "check_interval": seconds_of(given.check_interval, "--check-interval", 60),
        "max_wait_time": seconds_of(given.max_wait_time, "--max-wait-time", 3600, zero=True),
        "detach": given.detach,
        "force": given.force,
        "skip_existing": given.skip_existing,
        "insecure": given.insecure,
        "tls": given.tls,
        "log_dir": Path(given.log_dir),
        "log_format": given.log_format,
        "held": tuple(one for one in held(parser, given, sources) if one.name in SHOWN),
        **read_credentials(given),
    }
    if action == "process" and is_batch(given.input):
        return _batch(given, common)
    output = output_path(given.output)
    if action != "process":
        _refuse_for_other_actions(given, action)
        if action == "download":
            check_output_folder(output if output is not None else Path())
        return Options(task_id=_task_id(given, action), output=output, **common)

    parameters = read_parameters(given)
    source = check_input(given.input[0])
    if output is not None:
        _refuse_with_detach(given)
    if output is not None:
        refuse_overwriting(source, output)
    if not given.detach:
        check_output_folder(output if output is not None else source.parent)
    return Options(input=source, type=given.type, parameters=parameters, output=output, **common)


def _origins(problem: str, sources: dict[str, str]) -> list[str]:
    """Return lines that say where the options in a message were set, if not on the command line."""
    return [
        f"--{name} was set by {source}."
        for name, source in sources.items()
        if source not in (COMMAND_LINE, DEFAULT) and re.search(rf"--{name}(?![\w-])", problem)
    ]


def _drop_what_does_not_apply(
    given: argparse.Namespace, sources: dict[str, str], action: str
) -> None:
    """Forget settings of a file or variable that are for another action or type.

    On the command line they would be a mistake; in a file they wait for their turn.
    """
    unfit = set[str]()
    if action != "process":
        unfit |= {"type", "detach", "skip-existing", *map(_name_of, OPTION_TYPES)}
        unfit |= set() if action == "download" else {"force", "output"}
    else:
        unfit |= {_name_of(name) for name, types in OPTION_TYPES.items() if given.type not in types}
        for one, other in (("force", "skip-existing"), ("detach", "output")):
            if sources[one] == COMMAND_LINE:
                unfit.add(other)
            elif sources[other] == COMMAND_LINE:
                unfit.add(one)
    for name in unfit:
        if sources[name] not in (COMMAND_LINE, DEFAULT):
            attribute = name.replace("-", "_")
            setattr(given, attribute, False if getattr(given, attribute) in (True, False) else None)
            sources[name] = DEFAULT


def _name_of(parameter: str) -> str:
    return parameter.replace("_", "-")


def _batch(given: argparse.Namespace, common: dict[str, Any]) -> Options:
    parameters = read_parameters(given)
    if given.output is not None:
        _refuse_with_detach(given)
        if not given.output or "\0" in given.output:
            raise UsageError("--output must name a folder", "Example: --output results")
    films = find_films(given.input, given.output)
    if not given.detach:
        prepare_folders(films, given.output)
    common["action"] = "batch"
    output = None if given.output is None else Path(given.output)
    return Options(films=films, type=given.type, parameters=parameters, output=output, **common)


def _refuse_with_detach(given: argparse.Namespace) -> None:
    if given.detach:
        raise UsageError(
            "--output cannot be combined with --detach, which leaves the result on the server",
            "Example: vidproc --download ID --output FILE, later",
        )


def _action(parser: argparse.ArgumentParser, given: argparse.Namespace) -> str:
    asked = [
        name
        for name in ("status", "watch", "download", "cancel")
        if getattr(given, name) is not None
    ]
    if given.list:
        asked.append("list")
    if given.server_info:
        asked.append("info")
    options = [_command_of(name) for name in asked]
    if given.input:
        if asked:
            raise UsageError(
                f"INPUT and {options[0]} cannot be combined: use one or the other",
                f"Example: {EXAMPLES['compress']}",
            )
        if given.type is None:
            raise UsageError(
                f"--type is missing: choose one of {', '.join(TYPES)}",
                f"Example: {EXAMPLES['compress']}",
            )
        return "process"
    if not asked:
        if given.type is not None:
            raise UsageError(
                "The input file is missing: name the video to process",
                f"Example: {EXAMPLES[given.type]}",
            )
        parser.error("name a video to process, or a task with --status, --watch or --download")
    if len(asked) > 1:
        raise UsageError(
            f"{' and '.join(options)} cannot be combined: ask for one thing at a time",
            "Example: vidproc --status ID",
        )
    if asked == ["list"] and given.token_file is None:
        raise UsageError(
            "--list needs --token-file: servers list tasks by token",
            "Example: vidproc --list --token-file token.txt",
        )
    return asked[0]


def _command_of(action: str) -> str:
    """Return the option that asks for `action`."""
    return "--server-info" if action == "info" else f"--{action}"


def _refuse_for_other_actions(given: argparse.Namespace, action: str) -> None:
    """Reject options that make no sense without an input, instead of ignoring them."""
    command = _command_of(action)
    for name in ("type", *OPTION_TYPES):
        if getattr(given, name) is not None:
            raise UsageError(
                f"{option_of(name)} cannot be combined with {command}; it is for an INPUT",
                f"Example: {EXAMPLES['compress']}",
            )
    if given.detach:
        raise UsageError(
            f"--detach cannot be combined with {command}; it is for an INPUT",
            f"Example: {EXAMPLES['compress']} --detach",
        )
    if given.skip_existing:
        raise UsageError(
            f"--skip-existing cannot be combined with {command}; it is for processing an INPUT",
            f"Example: {EXAMPLES['compress']} --skip-existing",
        )
    if given.force and action != "download":
        raise UsageError(
            f"--force cannot be combined with {command}; it is for INPUT or --download",
            "Example: vidproc --download ID --force",
        )
    if given.output is not None and action != "download":
        raise UsageError(
            f"--output cannot be combined with {command}; it is for INPUT or --download",
            "Example: vidproc --download ID --output result.mp4",
        )


def _task_id(given: argparse.Namespace, action: str) -> str:
    if action in ("list", "info"):
        return ""
    task_id: str = getattr(given, action).strip()
    if not task_id or len(task_id) > 200 or not task_id.isprintable():
        raise UsageError(
            f"--{action} needs a task ID, as printed when the task was accepted",
            f"Example: vidproc --{action} 0123456789abcdef0123456789abcdef",
        )
    return task_id
