"""`twistd vidproc`: its options, and building the service from them. Starts nothing.

Imported whenever twistd lists its plugins, so it imports nothing heavy, and never the reactor.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from twisted.python import usage

from vidproc.about import show_and_exit
from vidproc.configuration import (
    COMMAND_LINE,
    DEFAULT,
    ConfigurationError,
    Given,
    Held,
    Setting,
    as_toml,
    gather,
)
from vidproc.frontends.registry import FRONTENDS, FrontendOption, ListedFrontend
from vidproc.units import duration_from, size_from

if TYPE_CHECKING:
    from twisted.application.service import IService

BACKLOG = 1024
"""Connections that may wait to be accepted. With Twisted's 50, larger bursts wait a second."""

_SMALLEST_SIZES = {"storage-limit": "1M", "max-upload": "1K"}
_SHORTEST = {
    "retention": "1s",
    "min-retention": "0s",
    "job-timeout": "1s",
    "grace": "0s",
    "upload-retention": "0s",
    "idle-timeout": "1s",
}


class _Default(str):
    """An option's default, which a value on the command line never is."""

    __slots__ = ()


class Options(usage.Options):
    """The server's options; docs/deployment.md describes them in detail.

    A file and variables may set them too: see `vidproc.configuration`.
    """

    synopsis = "[options]"
    longdesc = "Serve video processing over TCP (the MMP protocol), and over HTTP with --http."

    optParameters: Sequence[Sequence[object]] = [
        ["data-dir", "d", "vidproc-data", "Folder for uploads, results and the task store."],
        ["log-dir", None, "logs", "Folder for the log files; - for standard output (with -n)."],
        ["log-format", None, "text", "text, or json: an object per line."],
        ["storage-limit", None, "4T", "The most disk space to use."],
        ["retention", None, "24h", "How long a result is kept."],
        ["min-retention", None, "1h", "How long a result is safe from eviction if not downloaded."],
        ["tasks-per-ip", None, "1", "The most tasks of one address."],
        ["tasks-per-token", None, None, "The most tasks of one token, instead of its address."],
        ["cpu-reserve", None, "60", "Percent of the CPU kept for video."],
        ["max-concurrent", None, "auto", "FFmpeg jobs at a time, or auto."],
        ["queue-size", None, "100", "The most tasks that may wait."],
        ["max-upload", None, "64G", "The largest upload."],
        ["job-timeout", None, "6h", "The longest that one task may run."],
        ["grace", None, "30s", "How long transfers may continue during a shutdown."],
        ["upload-retention", None, "24h", "How long an interrupted upload can be resumed."],
        ["idle-timeout", None, "60s", "How long a connection may stay silent."],
        ["max-connections", None, "4096", "The most connections in total."],
        ["max-connections-per-ip", None, "64", "The most connections from one address."],
        ["ffmpeg", None, None, "Path of another FFmpeg to use."],
        ["sandbox", None, "auto", "auto, strict (refuse to start without it) or off."],
        ["on-done", None, None, "Command to run whenever a task ends; its status is on stdin."],
        ["cluster", None, None, "Address of a Dask scheduler; its workers run the commands."],
        [
            "object-store",
            None,
            None,
            "Storage that all workers reach, too: a file:, s3:, gs: or az: URL.",
        ],
        ["cluster-ca", None, None, "Certificate authority of the cluster, for mutual TLS."],
        ["cluster-cert", None, None, "This server's certificate for the cluster."],
        ["cluster-key", None, None, "The key of --cluster-cert."],
        [
            "token-file",
            None,
            None,
            "File with one name and token per line; requests then need a token.",
        ],
        ["config", None, None, "TOML file with any of these options; VIDPROC_* override it."],
    ]
    optFlags: Sequence[Sequence[object]] = [
        ["show-config", None, "Show every option's value and where it comes from, and exit."],
        ["cluster-insecure", None, "Use a cluster beyond this machine without TLS."],
        ["owner-only", None, "Only the address (or token) that sent a task can access it."],
    ]
    compData = usage.Completions(
        optActions={"data-dir": usage.CompleteDirs(), "log-dir": usage.CompleteDirs()}
    )

    def __init__(self) -> None:
        super().__init__()
        self["endpoints"] = {listed.name: [] for listed in FRONTENDS}
        self["frontend-options"] = {
            listed.name: {option.argument: [] for option in listed.options} for listed in FRONTENDS
        }
        for name, value in list(self.items()):
            if isinstance(value, str):
                self[name] = _Default(value)
        self.held: list[Held] = []
        """Every setting as text, and where it comes from; known once the options are parsed."""

    def opt_version(self) -> None:
        """Show the versions of vidproc and its FFmpeg and the sandbox's layers, and exit."""
        from vidproc.about import version_text

        show_and_exit(version_text())

    def opt_help(self) -> None:
        """Display this help and exit."""
        show_and_exit(str(self))

    def parseArgs(self, *arguments: str) -> None:
        """There are none; twistd's message would not say so."""
        if arguments:
            raise usage.UsageError(f"{arguments[0]!r} is not expected; options begin with --")

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        """Parse; a wrong option prints one line to standard error and exits with status 1."""
        try:
            super().parseOptions(options)
        except (usage.UsageError, ConfigurationError) as error:
            text = " ".join(str(error).split())
            sys.stderr.write(f"vidproc: {text}{self._origin_of(text)}\n")
            sys.exit(1)
        if self["show-config"]:
            from vidproc import __version__

            show_and_exit("\n".join([f"# vidproc {__version__}", *as_toml(self.held)]))

    def _origin_of(self, problem: str) -> str:
        """Return where an option that a message begins with was set, if not on the command line."""
        option = re.match(r"--([a-z-]+): ", problem)
        for held in self.held:
            if option is not None and held.name == option[1] and held.kind in ("variable", "file"):
                return f" (set in {held.source})"
        return ""

    def _fill_in(self) -> None:
        """Take from the variables and the file what the command line does not say."""
        settings = [
            *(Setting(str(row[0])) for row in self.optParameters if row[0] != "config"),
            *(Setting(str(row[0]), flag=True) for row in self.optFlags if row[0] != "show-config"),
        ]
        lists: dict[str, list[str]] = {}
        for listed in FRONTENDS:
            lists[listed.option] = self["endpoints"][listed.name]
            for option in listed.options:
                lists[option.option] = self["frontend-options"][listed.name][option.argument]
        settings += [Setting(name, repeatable=True) for name in lists]
        given = gather("server", settings, os.environ, self["config"])
        for setting in settings:
            if setting.repeatable:
                held = self._fill_in_list(setting, lists[setting.name], given)
            else:
                held = self._fill_in_value(setting, given)
            self.held.append(held)

    def _fill_in_list(self, setting: Setting, values: list[str], given: dict[str, Given]) -> Held:
        source = COMMAND_LINE
        if not values:
            default = [one.default for one in FRONTENDS if one.option == setting.name]
            known = given.get(setting.name) or Given(default[0] if default else (), DEFAULT)
            values.extend(known.texts)
            source = known.source
        return Held(setting.name, tuple(values), source, repeatable=True)

    def _fill_in_value(self, setting: Setting, given: dict[str, Given]) -> Held:
        value = self[setting.name]
        source = COMMAND_LINE
        if not value if setting.flag else value is None or isinstance(value, _Default):
            known = given.get(setting.name)
            source = DEFAULT if known is None else known.source
            if known is not None:
                value = known.on if setting.flag else known.texts[0]
            elif value is not None and not setting.flag:
                value = str(value)
            self[setting.name] = value
        if setting.flag:
            return Held(setting.name, ("true" if value else "false",), source, flag=True)
        if setting.name == "on-done" and value is not None:
            return Held(setting.name, (_program_alone(value),), source)
        return Held(setting.name, () if value is None else (value,), source)

    def postOptions(self) -> None:
        self._fill_in()
        self["endpoints"] = {
            listed.name: [
                endpoint_description(text, listed.option) for text in self["endpoints"][listed.name]
            ]
            for listed in FRONTENDS
        }
        if not any(self["endpoints"].values()):
            raise usage.UsageError(
                "--port: there is nothing to listen on; name a port, or use --http"
            )
        for listed in FRONTENDS:
            for option in listed.options:
                self._convert_frontend_option(listed, option)
        self._check_folders()
        self._convert_limits()
        self._check_choice("log-format", ("text", "json"))
        self._check_sandbox()
        if self["ffmpeg"] is not None:
            self._convert("ffmpeg", _checked_ffmpeg)
        self._convert("on-done", _command)
        self._read_tokens()
        self._check_cluster()

    def _check_cluster(self) -> None:
        rest = ("object-store", "cluster-ca", "cluster-cert", "cluster-key", "cluster-insecure")
        if self["cluster"] is None:
            for name in rest:
                if self[name]:
                    raise usage.UsageError(f"--{name}: it needs --cluster")
            return
        from vidproc.cluster.security import checked

        try:
            self["cluster"] = checked(
                self["cluster"],
                self["object-store"],
                ca=self["cluster-ca"],
                cert=self["cluster-cert"],
                key=self["cluster-key"],
                insecure=bool(self["cluster-insecure"]),
            )
        except ValueError as error:
            raise usage.UsageError(f"--cluster: {error}") from None

    def _check_folders(self) -> None:
        from vidproc.files import ownership

        # twistd changes its directory when it daemonizes.
        for name in ("data-dir", "log-dir"):
            if (name, self[name]) != ("log-dir", "-"):
                self[name] = Path(self[name]).expanduser().absolute()
        if self["log-dir"] == "-":
            daemon = self.parent is not None and not self.parent.get("nodaemon", True)
            if daemon and not self["show-config"]:
                raise usage.UsageError("--log-dir: - needs twistd -n; a daemon has no output")
            self["log-dir"] = None
        elif self["log-dir"].exists() and not self["log-dir"].is_dir():
            raise usage.UsageError(
                f"--log-dir: {self['log-dir']} is not a folder; name one, or - for standard output"
            )
        try:
            ownership.check(self["data-dir"])
        except ownership.NotADataFolder as error:
            raise usage.UsageError(f"--data-dir: {error}") from None
        except OSError as error:
            raise usage.UsageError(
                f"--data-dir: {self['data-dir']} cannot be read ({error.strerror}); name another"
            ) from None

    def _convert_limits(self) -> None:
        for name, smallest in _SMALLEST_SIZES.items():
            self._convert(name, partial(size_from, least=smallest))
        for name, shortest in _SHORTEST.items():
            self._convert(name, partial(duration_from, least=shortest))
        self["min-retention"] = min(self["min-retention"], self["retention"])
        for name in ("tasks-per-ip", "queue-size", "max-connections", "max-connections-per-ip"):
            self._convert(name, lambda text: whole_number(text, 1))
        if self["tasks-per-token"] is not None:
            if self["token-file"] is None:
                raise usage.UsageError("--tasks-per-token: it needs a --token-file")
            self._convert("tasks-per-token", lambda text: whole_number(text, 1))
        self._convert("cpu-reserve", lambda text: whole_number(text, 0, 95))
        self._convert(
            "max-concurrent", lambda text: None if text == "auto" else whole_number(text, 1, 1024)
        )

    def _check_choice(self, name: str, choices: Sequence[str]) -> None:
        if self[name] not in choices:
            known = f"{', '.join(choices[:-1])} and {choices[-1]}"
            raise usage.UsageError(f"--{name}: {self[name]!r} is not one of {known}")

    def _check_sandbox(self) -> None:
        self._check_choice("sandbox", ("auto", "strict", "off"))
        if self["sandbox"] == "strict":
            from vidproc.ffmpeg.sandbox import SandboxIncomplete, find_layers

            try:
                find_layers("strict")
            except SandboxIncomplete as error:
                raise usage.UsageError(str(error)) from None

    def _read_tokens(self) -> None:
        from vidproc.frontends.tokens import Tokens

        if self["token-file"] is not None:
            try:
                self["tokens"] = Tokens.read(Path(self["token-file"]).expanduser().absolute())
            except OSError as error:
                raise usage.UsageError(
                    f"--token-file: {self['token-file']} cannot be read "
                    f"({error.strerror or error}); name a file with a name and a token on each line"
                ) from None
            except ValueError as error:
                raise usage.UsageError(f"--token-file: {error}") from None
        else:
            self["tokens"] = Tokens()

    def _convert(self, name: str, convert: Callable[[str], object]) -> None:
        try:
            self[name] = convert(self[name])
        except ValueError as error:
            raise usage.UsageError(f"--{name}: {error}") from None

    def _convert_frontend_option(self, listed: ListedFrontend, option: FrontendOption) -> None:
        values = self["frontend-options"][listed.name]
        if values[option.argument] and not self["endpoints"][listed.name]:
            raise usage.UsageError(f"--{option.option}: it needs --{listed.option}")
        try:
            values[option.argument] = option.values(values[option.argument])
        except ValueError as error:
            raise usage.UsageError(f"--{option.option}: {error}") from None


def _add_endpoints(listed: ListedFrontend) -> None:
    """Give `Options` the option for a frontend's endpoints."""

    def add(self: Options, value: str) -> None:
        self["endpoints"][listed.name].append(value)

    add.__doc__ = listed.help
    setattr(Options, f"opt_{listed.option}", add)
    if listed.short is not None:
        setattr(Options, f"opt_{listed.short}", add)


def _add_frontend_option(listed: ListedFrontend, option: FrontendOption) -> None:
    """Give `Options` an option of one frontend."""

    def add(self: Options, value: str) -> None:
        self["frontend-options"][listed.name][option.argument].append(value)

    add.__doc__ = option.help
    setattr(Options, f"opt_{option.option.replace('-', '_')}", add)


for _listed in FRONTENDS:
    _add_endpoints(_listed)
    for _option in _listed.options:
        _add_frontend_option(_listed, _option)


def whole_number(text: str, least: int, most: int = 1_000_000) -> int:
    """Return the number in `text`; raises `ValueError` that says what is allowed."""
    if re.fullmatch(r"\d{1,9}", text, re.ASCII) and least <= int(text) <= most:
        return int(text)
    raise ValueError(f"{text!r} is not a whole number from {least} to {most}")


def endpoint_description(text: str, option: str = "port") -> str:
    """Return a Twisted endpoint description. Raises `usage.UsageError` if the string is not one."""
    if re.fullmatch(r"\d+", text, re.ASCII):
        if int(text) > 65535:
            raise usage.UsageError(f"--{option}: {text} is not a port; use 0 to 65535")
        return f"tcp:{text}:interface=127.0.0.1:backlog={BACKLOG}"
    from twisted.internet.endpoints import serverFromString

    try:
        serverFromString(object(), text)
    except Exception as error:
        # Its parsers raise anything: ValueError, TypeError, a certificate's errors.
        raise usage.UsageError(
            f"--{option}: {text!r} cannot be used ({type(error).__name__}: {error}); write a port"
            " number or an endpoint such as tcp:9999:interface=0.0.0.0"
        ) from None
    if re.match(r"(tcp|tcp4|tcp6|ssl):", text) and ":backlog=" not in text:
        return f"{text}:backlog={BACKLOG}"
    return text


def _checked_ffmpeg(path: str) -> str:
    from vidproc.ffmpeg.binary import FFmpegUnusable, find_ffmpeg

    absolute = str(Path(path).expanduser().absolute())
    try:
        find_ffmpeg(absolute)
    except FFmpegUnusable as error:
        raise ValueError(str(error)) from None
    return absolute


def _program_alone(command: str) -> str:
    """Return a command line without its arguments, which may hold a password."""
    program, *arguments = command.split(maxsplit=1) or [""]
    return f"{program} ..." if arguments else program


def _command(text: str | None) -> tuple[str, ...] | None:
    """Return the words of a command line, split as a shell would, with the program's full path.

    Raises `ValueError` if it cannot be split or there is no such program.
    """
    if text is None:
        return None
    words = shlex.split(text)
    program = shutil.which(words[0]) if words else None
    if program is None:
        raise ValueError(f"{text!r} does not start with an executable program; give its path")
    return (str(Path(program).absolute()), *words[1:])


def makeService(options: Options) -> IService:
    """Return the service that `options` describe, not started."""
    from vidproc.app.service import VidprocService
    from vidproc.app.settings import config_from

    return VidprocService(config_from(options, options.held))
