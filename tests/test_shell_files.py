"""Man pages and completion are made from the parsers, and work in the real shells."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from support.commands import commands
from support.programs import need_program
from support.shell_files import main

COMPLETE_IN_BASH = """
source "$1"
shift
COMP_WORDS=("$@")
COMP_CWORD=$(($# - 1))
function=$(complete -p "$1" | grep -oE '\\-F [^ ]+' | cut -c 4-)
"$function" "$1" "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""


class ShellFileTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        main(self.folder)

    def run_program(self, *argv: str, **environment: str) -> str:
        done = subprocess.run(
            argv,
            capture_output=True,
            text=True,
            timeout=120,
            env={"PATH": os.environ["PATH"], "HOME": str(self.folder), **environment},
        )
        self.assertEqual((done.returncode, done.stderr), (0, ""), argv)
        return done.stdout

    def test_each_option_is_in_all_of_them(self) -> None:
        for command in commands():
            name = command.name.split()[0]
            page = (self.folder / f"man/man1/{command.page}.1").read_text().replace("\\-", "-")
            bash = (self.folder / f"bash-completion/completions/{name}").read_text()
            fish = (self.folder / f"fish/vendor_completions.d/{name}.fish").read_text()
            options = [
                option
                for action in command.parser._actions
                for option in action.option_strings
                if option.startswith("--") and option not in ("--help", "--version")
            ]
            self.assertGreater(len(options), 10)
            for option in options:
                self.assertIn(option, page)
                self.assertIn(option, bash)
                self.assertIn(option.removeprefix("--"), fish)

    def test_the_same_is_made_each_time(self) -> None:
        again = self.folder / "again"
        main(again)
        for path in again.rglob("*.*"):
            if path.is_file():
                self.assertEqual(
                    path.read_bytes(), (self.folder / path.relative_to(again)).read_bytes()
                )

    def test_bash_completes_options_and_values(self) -> None:
        for words, expected in (
            (["vidproc", "--type", "gi"], "gif"),
            (["vidproc", "--max-w"], "--max-wait-time"),
            (["twistd", "-n", "vidproc", "--min-"], "--min-retention"),
        ):
            script = str(self.folder / "bash-completion/completions" / words[0])
            found = self.run_program("bash", "-c", COMPLETE_IN_BASH, "-", script, *words)
            self.assertIn(expected, found.split())

    def test_fish_completes_options_and_values(self) -> None:
        fish = need_program("fish")
        for line, expected in (
            ("vidproc --type gi", "gif"),
            ("twistd -n vidproc --min-", "--min-retention"),
        ):
            script = self.folder / f"fish/vendor_completions.d/{line.split()[0]}.fish"
            found = self.run_program(
                fish, "--no-config", "-c", f"source {script}; complete -C '{line}'"
            )
            self.assertIn(expected, found.split())

    def test_zsh_finds_the_completion_by_its_name(self) -> None:
        zsh = need_program("zsh")
        program = (
            f"fpath=({self.folder}/zsh/site-functions $fpath); autoload -Uz compinit;"
            " compinit -u -D; autoload +X _vidproc && print $_comps[vidproc]"
        )
        self.assertEqual(self.run_program(zsh, "-f", "-c", program).strip(), "_vidproc")

    def test_man_pages_are_troff_without_warnings(self) -> None:
        groff = need_program("groff", "groff-base")
        for page in (self.folder / "man/man1").iterdir():
            shown = self.run_program(groff, "-man", "-ww", "-Tutf8", str(page))
            text = re.sub(".\b", "", shown)  # bold and underlined letters are struck twice
            for part in ("NAME", "SYNOPSIS", "ENVIRONMENT", "SEE ALSO"):
                self.assertIn(part, text)
