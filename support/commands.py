"""The commands that vidproc installs, each as an argparse parser.

Man pages, completion and the reference in the documentation are made from these, so that they say
what the commands take.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

from twisted.python import usage
from twisted.scripts.twistd import ServerOptions  # type: ignore[attr-defined]

from vidproc.app.worker_command import parser as worker_parser
from vidproc.client.parser import build_parser
from vidproc.frontends.registry import FRONTENDS
from vidproc.tap import Options


@dataclass(frozen=True)
class Command:
    """A command: its name, the name of its page, a line about it, its options."""

    name: str
    page: str
    summary: str
    parser: argparse.ArgumentParser


def commands() -> list[Command]:
    """Return all commands."""
    return [
        Command("vidproc", "vidproc", "process videos on a vidproc server", build_parser()),
        Command(
            "twistd vidproc",
            "twistd-vidproc",
            "the vidproc server",
            parser_of(Options(), "twistd vidproc"),
        ),
        Command(
            "vidproc-worker",
            "vidproc-worker",
            "run FFmpeg for vidproc servers on this machine",
            worker_parser(),
        ),
    ]


def twistd_parser() -> argparse.ArgumentParser:
    """Return twistd's own options with `vidproc` as its only plugin, for completion."""
    parser = parser_of(ServerOptions(), "twistd")
    plugins = parser.add_subparsers()
    server = plugins.add_parser("vidproc", help="the vidproc server", add_help=False)
    _add_options(server, Options())
    return parser


def parser_of(options: usage.Options, name: str) -> argparse.ArgumentParser:
    """Return a parser with the options of a Twisted program. It is for reading, not for parsing."""
    parser = argparse.ArgumentParser(
        prog=name,
        usage=f"{name} [options]",
        description=getattr(options, "longdesc", None),
        add_help=False,
    )
    _add_options(parser, options)
    return parser


def _add_options(parser: argparse.ArgumentParser, options: usage.Options) -> None:
    repeatable = {listed.option for listed in FRONTENDS}
    repeatable |= {option.option for listed in FRONTENDS for option in listed.options}
    short = {long: letter for letter, long in options.synonyms.items() if len(letter) == 1}
    for name in sorted(set(options.synonyms.values())):
        names = [*([f"-{short[name]}"] if name in short else []), f"--{name}"]
        text = (options.docs.get(name) or "").replace("%", "%%")
        default = options.defaults.get(name)
        takes_value = f"{name}=" in options.longOpt
        if not takes_value:
            parser.add_argument(*names, action="store_true", help=text)
            continue
        if isinstance(default, str):
            text = f"{text} [default: {default}]"
        parser.add_argument(
            *names,
            metavar=_metavar(name),
            action="append" if name in repeatable else "store",
            help=text,
        )


def _metavar(name: str) -> str:
    for ending, word in (
        ("dir", "DIR"),
        ("file", "FILE"),
        ("config", "FILE"),
        ("ffmpeg", "FILE"),
        ("port", "ENDPOINT"),
        ("http", "ENDPOINT"),
        ("size", "N"),
        ("on-done", "COMMAND"),
    ):
        if name.endswith(ending):
            return word
    return "VALUE"
