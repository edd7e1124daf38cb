"""Writes man pages and the completion of bash, zsh and fish, made from the commands' parsers.

    python -m support.shell_files share

The folder is laid out as below /usr/share; `make dist` puts it into the wheel.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import shtab
from argparse_manpage.manpage import Manpage

from support.commands import Command, commands, twistd_parser
from vidproc import __version__

_ENVIRONMENT = r"""
Each option that is a setting can also stand in the file that
.B \-\-config
or
.B VIDPROC_CONFIG
names (TOML: the option's name, an equals sign, its value), or in an environment variable: its
name in capitals after
.BR VIDPROC_ ,
with underscores, such as
.B VIDPROC_LOG_DIR
for
.BR \-\-log\-dir .
An option overrides a variable, and a variable overrides the file.
"""

_COMPLETION = {
    "bash": "bash-completion/completions/{name}",
    "zsh": "zsh/site-functions/_{name}",
    "fish": "fish/vendor_completions.d/{name}.fish",
}


def main(folder: Path) -> None:
    """Write all files below `folder`."""
    every = commands()
    for command in every:
        _write(folder / f"man/man1/{command.page}.1", man_page(command, every))
    completed = [command.parser for command in every if " " not in command.name]
    for shell, path in _COMPLETION.items():
        for parser in completed:
            _write(folder / path.format(name=parser.prog), completion(parser, shell))
        if shell != "zsh":  # which comes with a completion of Twisted's commands
            _write(folder / path.format(name="twistd"), completion(twistd_parser(), shell))


def man_page(command: Command, every: list[Command]) -> str:
    """Return a command's page, in troff."""
    parser = command.parser
    parser.prog = command.page
    others = ", ".join(
        rf"\fB{_quoted(other.page)}\fR(1)" for other in every if other.page != command.page
    )
    synopsis = [line.strip() for line in parser.format_usage().removeprefix("usage: ").splitlines()]
    sections = {
        "synopsis": "\n.br\n".join(_quoted(line) for line in synopsis if line),
        "environment": _ENVIRONMENT.strip(),
        "see also": others,
    }
    if parser.epilog is not None:
        examples = _quoted(parser.epilog.strip())
        sections["comments"] = f".nf\n{examples}\n.fi"
    parser._manpage = [  # type: ignore[attr-defined]
        {"heading": heading, "content": content} for heading, content in sections.items()
    ]
    page = Manpage(
        parser,
        {
            "project_name": "vidproc",
            "version": __version__,
            "manual_title": "vidproc",
            "description": command.summary,
            "date": __version__,  # the same whenever it is made
        },
    )
    return str(page).replace("\n.SH COMMENTS\n", "\n.SH NOTES\n")


def _quoted(text: str) -> str:
    """Return text as troff shows it: no line may begin with a dot or an apostrophe."""
    text = text.replace("\\", "\\\\").replace("-", r"\-")
    return "\n".join(rf"\&{line}" if line[:1] in (".", "'") else line for line in text.split("\n"))


def completion(parser: argparse.ArgumentParser, shell: str) -> str:
    """Return the script that completes a command in `shell`."""
    for each in _with_subparsers(parser):
        for action in each._actions:
            if action.metavar in ("FILE", "INPUT") or action.dest == "ffmpeg":
                action.complete = shtab.FILE  # type: ignore[attr-defined]
            elif action.metavar == "DIR" or action.dest == "scratch":
                action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
    script = shtab.complete(parser, shell)
    assert isinstance(script, str)
    return script


def _with_subparsers(parser: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    found = [parser]
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            found += action.choices.values()
    return found


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
