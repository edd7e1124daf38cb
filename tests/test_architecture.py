"""The code follows the table of layers in docs/architecture.md, and the diagram is current."""

from __future__ import annotations

import importlib.util
import re
import sys
from functools import cache
from pathlib import Path
from types import ModuleType

from twisted.trial.unittest import SynchronousTestCase

ROOT = Path(__file__).resolve().parents[1]


def load_script() -> ModuleType:
    """Return scripts/draw_architecture.py as a module."""
    name = "draw_architecture"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
        assert spec is not None and spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


@cache
def todays_imports() -> dict[str, set[str]]:
    """Return what each module imports. Reading all modules takes a while."""
    imports: dict[str, set[str]] = load_script().read_imports()
    return imports


class FileTableTests(SynchronousTestCase):
    def test_every_module_is_in_the_table_of_files(self) -> None:
        """In docs/architecture.md a reader finds each module by its subject."""
        text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
        table = text.partition("\n## Layers\n")[0]
        named = {Path(name).name for name in re.findall(r"`([^`]+\.py)`", table)}
        modules = {path.name for path in (ROOT / "vidproc").rglob("*.py")}
        self.assertEqual(modules - named, {"__init__.py", "__main__.py"})
        self.assertEqual(named - modules, {"toy_frontend.py"} & named)


class LayerTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.script = load_script()
        self.layers = self.script.read_layers()
        self.imports = todays_imports()

    def test_every_module_is_in_a_layer(self) -> None:
        """A new package needs a row in the table."""
        known = {name for layer in self.layers for name in layer.names}
        self.assertEqual({self.script.layer_of(module) for module in self.imports} - known, set())

    def test_the_table_goes_downward(self) -> None:
        """A row names only rows below it."""
        for number, layer in enumerate(self.layers):
            below = {name for lower in self.layers[number + 1 :] for name in lower.names}
            for name in layer.imports:
                self.assertIn(self.script.layer_of(name), below, f"{layer.names}: {name}")

    def test_no_module_imports_what_its_row_does_not_name(self) -> None:
        """Neither at the top of the module nor within a function."""
        ground = self.layers[-1].names
        allowed = {name: layer.imports for layer in self.layers for name in layer.names}
        wrong = []
        for module, others in self.imports.items():
            own = self.script.layer_of(module)
            for other in others:
                layer = self.script.layer_of(other)
                named = layer in allowed[own] or other in allowed[own]
                if not (layer == own or layer in ground or named):
                    wrong.append(f"{module} imports {other}")
        self.assertEqual(sorted(wrong), [])

    def test_the_ground_imports_nothing_above_it(self) -> None:
        """Modules that all others may use depend on none of them."""
        for name in self.layers[-1].names:
            others = {self.script.layer_of(other) for other in self.imports[name]}
            self.assertEqual(others - set(self.layers[-1].names), set(), name)

    def test_the_client_knows_nothing_of_the_server(self) -> None:
        """It shares only the protocol, the parameters and `--version`."""
        for module, others in self.imports.items():
            if self.script.layer_of(module) == "client":
                for other in others:
                    shared = {"client", "mmp", "about", *self.layers[-1].names}
                    self.assertTrue(
                        self.script.layer_of(other) in shared or other == "operations.parameters",
                        f"{module} imports {other}",
                    )

    def test_no_files_import_each_other_in_a_circle(self) -> None:
        """Not for types either."""
        self.assertEqual(self.script.find_circles(self.imports), [])

    def test_circles_are_found(self) -> None:
        """Circles of any length; modules that merely lead into one are not part of it."""
        imports = {"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a", "d"}, "e": set[str]()}
        self.assertEqual(self.script.find_circles(imports), [["b", "c"], ["d"]])

    def test_the_diagram_is_current(self) -> None:
        """Draw it again: python scripts/draw_architecture.py"""
        drawn = self.script.draw(self.layers, self.imports)
        self.assertEqual(self.script.DIAGRAM.read_text(), drawn)

    def test_the_files_that_the_page_names_are_there(self) -> None:
        """A page that names a file which has moved misleads its readers."""
        page = self.script.PAGE.read_text()
        for word in page.split("`"):
            if word.startswith("vidproc/") and word.endswith(".py") and "*" not in word:
                self.assertTrue((ROOT / word).is_file(), word)
