"""Settings of a program from a TOML file and from environment variables.

The order is option, variable, file, default. The names are the options' own: `--data-dir` is
`VIDPROC_DATA_DIR` and, in the file, `data-dir`. A file that several programs share has a table for
each of them: `[server]`, `[worker]`, `[client]`. `vidproc.program_options` does the same for an
argparse parser. Imports nothing heavy.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

PREFIX = "VIDPROC_"
PROGRAMS = ("server", "worker", "client")
DEFAULT = "default"
"""Where a value comes from that nobody has set."""
COMMAND_LINE = "command line"
_YES = frozenset(("1", "true", "yes", "on"))
_NO = frozenset(("0", "false", "no", "off", ""))
_MISSPELT = 0.85
"""How similar an unknown variable must be to one of ours to be refused as a misspelling. Others
may belong to another program."""
_SERVICE_LINK = re.compile(r"(tcp|udp|sctp)://")
"""Kubernetes sets `VIDPROC_PORT=tcp://10.0.0.1:9999` if a service is called vidproc."""
_SECRET = re.compile(r"(?i)((?:password|passphrase|passwd|secret|token)=)[^:&\s]+")
_CREDENTIALS = re.compile(r"(\w+://)[^/@\s]+@")


class ConfigurationError(Exception):
    """A file or variable is wrong. `problem` says what and where, `advice` what to do."""

    def __init__(self, problem: str, advice: str) -> None:
        super().__init__(f"{problem}. {advice}" if advice else problem)
        self.problem = problem
        self.advice = advice


@dataclass(frozen=True, slots=True)
class Setting:
    """An option that a file or a variable can set. `name` is without the leading dashes."""

    name: str
    flag: bool = False
    """It has no value: it is on or off."""
    repeatable: bool = False

    @property
    def variable(self) -> str:
        """The name of its environment variable."""
        return PREFIX + self.name.replace("-", "_").upper()


@dataclass(frozen=True, slots=True)
class Given:
    """What a file or variable says: the texts that the option would have been given, and where
    they come from. A flag's only text is ``true`` or ``false``."""

    texts: tuple[str, ...]
    source: str

    @property
    def on(self) -> bool:
        """Whether a flag is on."""
        return self.texts == ("true",)


@dataclass(frozen=True, slots=True)
class Held:
    """The value of a setting that holds, as text, and where it comes from. No texts: not set."""

    name: str
    texts: tuple[str, ...]
    source: str
    flag: bool = False
    repeatable: bool = False

    @property
    def kind(self) -> str:
        """Where it comes from in one word, without a path: default, option, variable or file."""
        if self.source == DEFAULT:
            return "default"
        if self.source == COMMAND_LINE:
            return "option"
        return "variable" if self.source.startswith(PREFIX) else "file"


def gather(
    program: str,
    settings: Sequence[Setting],
    environ: Mapping[str, str],
    path: str | None = None,
) -> dict[str, Given]:
    """Return what the variables and the file say, by the settings' names; variables win.

    `path` is the file that the command line names; without it the variable VIDPROC_CONFIG does.
    Raises `ConfigurationError`.
    """
    variables = read_variables(settings, environ)
    path = path or environ.get(f"{PREFIX}CONFIG")
    return {**(read_file(program, settings, Path(path)) if path else {}), **variables}


def read_variables(settings: Sequence[Setting], environ: Mapping[str, str]) -> dict[str, Given]:
    """Return what the variables say. A repeatable option's values are separated by spaces.

    Raises `ConfigurationError` for a variable that looks like one of ours misspelt.
    """
    by_variable = {setting.variable: setting for setting in settings}
    given = {}
    for variable, text in environ.items():
        if not variable.startswith(PREFIX) or variable == f"{PREFIX}CONFIG":
            continue
        if _SERVICE_LINK.match(text):
            continue
        setting = by_variable.get(variable)
        if setting is None:
            import difflib

            near = difflib.get_close_matches(variable, [*by_variable, f"{PREFIX}CONFIG"], 1)
            if near and _similar(variable, near[0]) >= _MISSPELT:
                raise ConfigurationError(
                    f"{variable} is not a variable of this program", f"Did you mean {near[0]}?"
                )
        elif setting.flag:
            given[setting.name] = Given((_flag(text, variable),), variable)
        elif setting.repeatable:
            given[setting.name] = Given(tuple(text.split()), variable)
        else:
            given[setting.name] = Given((text,), variable)
    return given


def _similar(one: str, other: str) -> float:
    """Return how alike two variables are beside the prefix that all share, 0 to 1."""
    import difflib

    ends = (one.removeprefix(PREFIX), other.removeprefix(PREFIX))
    return difflib.SequenceMatcher(None, *ends).ratio()


def _flag(text: str, variable: str) -> str:
    word = text.strip().lower()
    if word in _YES or word in _NO:
        return "true" if word in _YES else "false"
    raise ConfigurationError(f"{variable} is {text!r}", "Write 1 for on, 0 for off.")


def read_file(program: str, settings: Sequence[Setting], path: Path) -> dict[str, Given]:
    """Return what a TOML file says to `program`: its top level, then the program's table.

    Raises `ConfigurationError` if the file cannot be read, is not TOML, or says something that
    this program does not know.
    """
    import tomllib  # as difflib, it would add to each start of the client

    path = path.expanduser().absolute()
    try:
        with path.open("rb") as file:
            content = tomllib.load(file)
    except OSError as error:
        raise ConfigurationError(
            f"--config: {path} cannot be read ({error.strerror})", "Name a file that you may read."
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"--config: {path} is not TOML ({error})", 'Write lines such as: retention = "24h"'
        ) from None
    tables = {name: content.pop(name) for name in PROGRAMS if isinstance(content.get(name), dict)}
    given: dict[str, Given] = {}
    by_name = {setting.name: setting for setting in settings}
    for name, value in [*content.items(), *tables.get(program, {}).items()]:
        setting = by_name.get(name)
        if setting is None:
            raise ConfigurationError(f"{path}: {name!r} is not an option", _nearest(name, by_name))
        given[name] = Given(_texts(setting, value, path), str(path))
    return given


def _nearest(name: str, names: Iterable[str]) -> str:
    import difflib

    plain = name.lower().lstrip("-").replace("_", "-")
    near = difflib.get_close_matches(plain, list(names), 1, cutoff=0.5)
    if near:
        return f"Did you mean {near[0]}?"
    return "The file has the options' own names, without dashes in front; --help lists them."


def _texts(setting: Setting, value: object, path: Path) -> tuple[str, ...]:
    """Return a file's value as the texts that the option would have been given."""
    if setting.flag:
        if isinstance(value, bool):
            return ("true" if value else "false",)
        raise ConfigurationError(
            f"{path}: {setting.name} is on or off, not {value!r}", "Write true or false."
        )
    values = value if setting.repeatable and isinstance(value, list) else [value]
    if any(isinstance(one, bool) or not isinstance(one, str | int | float) for one in values):
        raise ConfigurationError(
            f"{path}: {setting.name} cannot be {value!r}",
            f"Write a string or a number, such as: {setting.name} = "
            + ('["...", "..."]' if setting.repeatable else '"..."'),
        )
    return tuple(map(str, values))


def without_secrets(text: str) -> str:
    """Return a value without what it may hold of passwords and keys."""
    return _CREDENTIALS.sub(r"\1***@", _SECRET.sub(r"\1***", text))


def as_toml(held: Iterable[Held]) -> list[str]:
    """Return the settings as the lines of a file, each with where it comes from in a comment."""
    rows = []
    for one in held:
        texts = [_quoted(without_secrets(text)) for text in one.texts]
        if not texts and one.repeatable and one.kind != "default":
            line = f"{one.name} = []"  # this turns the default off
        elif not texts:
            line = f"# {one.name} is not set"
        elif one.flag:
            line = f"{one.name} = {one.texts[0]}"
        elif one.repeatable:
            line = f"{one.name} = [{', '.join(texts)}]"
        else:
            line = f"{one.name} = {texts[0]}"
        rows.append((line, one.source))
    width = min(max((len(line) for line, _ in rows), default=0), 44)
    return [f"{line:<{width}}  # {source}" for line, source in rows]


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in escaped) + '"'
