"""Settings from a file and from variables for a program whose options an argparse parser knows.

    parser = argparse.ArgumentParser(...)
    parser.add_argument("--cores", type=int)
    add_configuration(parser)                                # --config FILE
    given, sources = parse(parser, argv, "worker")

`given` is what `parser.parse_args` would have returned, and `sources` says where each setting comes
from. A required option may stand in the file. Raises `ConfigurationError`; imports nothing heavy.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Collection, Mapping, Sequence

from vidproc.configuration import (
    COMMAND_LINE,
    DEFAULT,
    ConfigurationError,
    Given,
    Held,
    Setting,
    gather,
)

NOT_GIVEN = object()


def add_configuration(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Give a parser the option `--config`."""
    parser.add_argument(
        "--config",
        metavar="FILE",
        help="TOML file with any of these options; VIDPROC_* variables override it, and options "
        "override both ($VIDPROC_CONFIG)",
    )


def settings_of(
    parser: argparse.ArgumentParser, excluded: Collection[str] = ()
) -> dict[str, argparse.Action]:
    """Return the options that a file may set, by their names without dashes."""
    found = {}
    for action in parser._actions:
        names = [option[2:] for option in action.option_strings if option.startswith("--")]
        if names and action.dest != argparse.SUPPRESS and names[0] not in {*excluded, "config"}:
            found[names[0]] = action
    for name in ("help", "version"):
        found.pop(name, None)
    return found


def parse(
    parser: argparse.ArgumentParser,
    argv: Sequence[str] | None,
    program: str,
    *,
    excluded: Collection[str] = (),
    environ: Mapping[str, str] | None = None,
) -> tuple[argparse.Namespace, dict[str, str]]:
    """Parse a command line, then fill in what the variables and the file say.

    `excluded` are names of options that say what to do rather than how. Returns the namespace, and
    for each setting's name where its value comes from: `COMMAND_LINE`, the variable, the file's
    path or `DEFAULT`. Raises `ConfigurationError`, and `SystemExit` where argparse does.
    """
    actions = settings_of(parser, excluded)
    given, missing = _given_on_command_line(parser, argv, actions)
    settings = [_setting(name, action) for name, action in actions.items()]
    elsewhere = gather(program, settings, os.environ if environ is None else environ, given.config)
    sources = {}
    for name, action in actions.items():
        if getattr(given, action.dest) is not NOT_GIVEN:
            sources[name] = COMMAND_LINE
        elif name in elsewhere:
            sources[name] = elsewhere[name].source
            setattr(given, action.dest, _value(action, elsewhere[name]))
        else:
            sources[name] = DEFAULT
            setattr(given, action.dest, _default(action))
    lacking = [f"--{name}" for name in missing if sources[name] == DEFAULT]
    if lacking:
        parser.error(f"the following arguments are required: {', '.join(lacking)}")
    return given, sources


def _given_on_command_line(
    parser: argparse.ArgumentParser,
    argv: Sequence[str] | None,
    actions: Mapping[str, argparse.Action],
) -> tuple[argparse.Namespace, list[str]]:
    """Return what the command line says, NOT_GIVEN elsewhere, and the names that are required."""
    required = [name for name, action in actions.items() if action.required]
    # argparse appends to what the namespace holds, so a repeatable option starts from nothing.
    start: dict[str, object] = {
        action.dest: None if isinstance(action, argparse._AppendAction) else NOT_GIVEN
        for action in actions.values()
    }
    for name in required:
        actions[name].required = False
    try:
        given = parser.parse_args(argv, argparse.Namespace(**start))
    finally:
        for name in required:
            actions[name].required = True
    for action in actions.values():
        if isinstance(action, argparse._AppendAction) and getattr(given, action.dest) is None:
            setattr(given, action.dest, NOT_GIVEN)
    return given, required


def _setting(name: str, action: argparse.Action) -> Setting:
    repeatable = isinstance(action, argparse._AppendAction) or action.nargs in ("+", "*")
    return Setting(name, flag=action.nargs == 0, repeatable=repeatable)


def _default(action: argparse.Action) -> object:
    if isinstance(action.default, str) and callable(action.type):
        return action.type(action.default)
    return action.default


def _value(action: argparse.Action, given: Given) -> object:
    """Return the value that the option would have had."""
    setting = _setting("", action)
    if setting.flag:
        return action.const if given.on else action.default
    values = [_one(action, text, given.source) for text in given.texts]
    return values if setting.repeatable else values[0]


def _one(action: argparse.Action, text: str, source: str) -> object:
    option = action.option_strings[-1]
    try:
        value = action.type(text) if callable(action.type) else text
    except (argparse.ArgumentTypeError, ValueError, TypeError) as error:
        raise ConfigurationError(
            f"{option} is {text!r} in {source}, which is invalid ({error})",
            "See --help for what it takes.",
        ) from None
    if action.choices is not None and value not in action.choices:
        raise ConfigurationError(
            f"{option} is {text!r} in {source}",
            f"Choose one of {', '.join(map(str, action.choices))}.",
        )
    return value


def held(
    parser: argparse.ArgumentParser,
    given: argparse.Namespace,
    sources: Mapping[str, str],
) -> list[Held]:
    """Return each setting that `parse` has found, with its value as text."""
    rows = []
    for name, action in settings_of(parser).items():
        if name not in sources:
            continue
        setting = _setting(name, action)
        value = getattr(given, action.dest)
        if setting.flag:
            texts: tuple[str, ...] = ("true" if value else "false",)
        elif value is None:
            texts = ()
        else:
            texts = tuple(map(str, value)) if isinstance(value, list) else (str(value),)
        rows.append(Held(name, texts, sources[name], setting.flag, setting.repeatable))
    return rows
