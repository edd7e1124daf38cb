"""The pages of the documentation that are made from the code, and what people find in the root."""

from __future__ import annotations

import re
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from support import docs_site
from support.commands import commands
from vidproc.frontends.http.resources import ROUTES
from vidproc.operations.parameters import PARAMETERS

ROOT = Path(__file__).resolve().parents[1]


class PageTests(SynchronousTestCase):
    def test_the_commands_have_all_their_options(self) -> None:
        page = docs_site.commands_page()
        for command in commands():
            self.assertIn(f"## {command.name}", page)
            for action in command.parser._actions:
                for option in action.option_strings:
                    self.assertIn(f"`{option}`", page)

    def test_each_parameter_has_a_row(self) -> None:
        page = docs_site.parameters_page()
        for kind in PARAMETERS.values():
            for name in kind.__struct_fields__:
                self.assertRegex(page, rf"(?m)^\| `{name}` \| \S.* \| .+ \|$")

    def test_each_path_of_the_api_is_there(self) -> None:
        page = docs_site.http_page()
        for route in ROUTES:
            if route.path.startswith("/api/v1/") and route.method != "OPTIONS":
                self.assertIn(f"`{route.path}`", page)

    def test_the_files_of_deploy_are_shown_whole(self) -> None:
        page = docs_site.deploy_page()
        for path in (ROOT / "deploy").rglob("*"):
            if path.is_file():
                self.assertIn(path.read_text().rstrip(), page)

    def test_links_lead_to_the_site(self) -> None:
        class Page:
            class file:
                src_uri = "deployment.md"

        for link, expected in (
            ("../README.md#licences", "index.md#licences"),
            ("../deploy/backup", "reference/deploy.md#deploybackup"),
            ("../deploy", "reference/deploy.md"),
            ("http.md#errors", "http.md#errors"),
            ("https://example.com/x.md", "https://example.com/x.md"),
        ):
            shown = docs_site.on_page_markdown(f"[x]({link})", page=Page)
            self.assertEqual(shown, f"[x]({expected})")
        Page.file.src_uri = "index.md"
        shown = docs_site.on_page_markdown("[x](docs/page.webp) [y](LICENSE)", page=Page)
        self.assertEqual(shown, "[x](page.webp) [y](reference/deploy.md#license)")


class RootTests(SynchronousTestCase):
    """What people look for in a project's root."""

    def test_links_of_its_files_lead_somewhere(self) -> None:
        for name in docs_site.OF_THE_ROOT.values():
            text = (ROOT / name).read_text(encoding="utf-8")
            for link in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", text):
                self.assertTrue((ROOT / link).exists(), f"{name}: {link}")

    def test_the_targets_that_it_names_are_in_the_makefile(self) -> None:
        makefile = (ROOT / "Makefile").read_text()
        targets = " ".join(re.findall(r"^([a-z -]+):", makefile, re.MULTILINE)).split()
        for name in ("CONTRIBUTING.md", "docs/releasing.md", ".github/workflows/ci.yml"):
            text = (ROOT / name).read_text()
            named = re.findall(r"(?:`|run: )make ((?:[a-z-]+ ?)+)", text)
            self.assertTrue(named)
            for target in " ".join(named).split():
                self.assertIn(target, targets, name)
