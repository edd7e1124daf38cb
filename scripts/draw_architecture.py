"""Draw docs/architecture.svg: the layers that docs/architecture.md names, and what imports what.

    python scripts/draw_architecture.py

The boxes come from the table under "Layers", the arrows from the imports in the code. The same
code gives the same diagram, byte for byte.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "architecture.md"
DIAGRAM = ROOT / "docs" / "architecture.svg"

BOX_HEIGHT, ROW_HEIGHT, MARGIN, WIDTH = 44, 96, 24, 960
_ROW = re.compile(r"\| (?P<layers>`[^|]*`) \| (?P<subject>[^|]*) \| (?P<imports>[^|]*)\|")


@dataclass(frozen=True, slots=True)
class Layer:
    """A row of the table. `names` are packages or modules of vidproc without that prefix;
    `imports` are the packages or modules that they may import, beside the last row's."""

    names: tuple[str, ...]
    subject: str
    imports: tuple[str, ...]


def read_layers(page: Path = PAGE) -> list[Layer]:
    """Return the rows of the table of layers, from the top."""
    section = page.read_text().split("## Layers\n", 1)[1].split("\n## ", 1)[0]
    return [
        Layer(_names(row["layers"]), row["subject"].strip(), _names(row["imports"]))
        for row in _ROW.finditer(section)
    ]


def _names(cell: str) -> tuple[str, ...]:
    return tuple(re.findall(r"`([^`]+)`", cell))


def read_imports(root: Path = ROOT) -> dict[str, set[str]]:
    """Return which modules of vidproc each of them imports, including imports within functions.

    Modules are named without the package, such as ``tasks.store``; the package is ``vidproc``.
    """
    paths = {_module(path, root): path for path in sorted((root / "vidproc").rglob("*.py"))}
    return {
        module: {name for name in _imported(path, set(paths)) if name != module}
        for module, path in paths.items()
    }


def _module(path: Path, root: Path) -> str:
    parts = path.relative_to(root / "vidproc").with_suffix("").parts
    if parts[-1] == "__init__":
        parts = parts[:-1]
    return ".".join(parts) or "vidproc"


def _imported(path: Path, modules: set[str]) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            # The imported name may be a module, or a name in one.
            whole = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if _short(name) in modules else node.module for name in whole]
        yield from (_short(name) for name in names if _short(name) in modules)


def _short(name: str) -> str:
    return name.removeprefix("vidproc.")


def layer_of(module: str) -> str:
    """Return the name of a module's package, or of the module itself at the top level."""
    return module.split(".", 1)[0]


def find_circles(imports: dict[str, set[str]]) -> list[list[str]]:
    """Return the groups of modules that import each other, directly or indirectly."""

    def reachable(start: str) -> set[str]:
        found: set[str] = set()
        ahead = list(imports[start])
        while ahead:
            module = ahead.pop()
            if module not in found:
                found.add(module)
                ahead += imports[module]
        return found

    ways = {module: reachable(module) for module in imports}
    circles = {
        tuple(sorted(other for other in ways[module] if module in ways[other]))
        for module in imports
        if module in ways[module]
    }
    return [list(circle) for circle in sorted(circles)]


def draw(layers: list[Layer], imports: dict[str, set[str]]) -> str:
    """Return the diagram as SVG."""
    boxes: dict[str, tuple[float, int, float]] = {}  # name: left, top, width
    for number, layer in enumerate(layers):
        width = (WIDTH - MARGIN) / len(layer.names) - MARGIN
        for place, name in enumerate(layer.names):
            left = MARGIN + place * (width + MARGIN)
            boxes[name] = (left, MARGIN + number * ROW_HEIGHT, width)
    height = MARGIN + len(layers) * ROW_HEIGHT
    ground = set(layers[-1].names)
    arrows = sorted(
        {
            (layer_of(module), layer_of(other))
            for module, others in imports.items()
            for other in others
        }
    )
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}"'
        ' font-family="sans-serif" text-anchor="middle">',
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7"'
        ' markerHeight="7" orient="auto"><path d="M0 0L8 4L0 8z" fill="#678"/></marker></defs>',
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>',
    ]
    for upper, lower in arrows:
        if upper != lower and lower not in ground and upper in boxes and lower in boxes:
            lines.append(_arrow(upper, lower, boxes, arrows))
    for layer in layers:
        for name in layer.names:
            lines.append(_box(name, layer.subject if len(layer.names) == 1 else "", boxes[name]))
    return "\n".join([*lines, "</svg>"]) + "\n"


def _arrow(
    upper: str,
    lower: str,
    boxes: dict[str, tuple[float, int, float]],
    arrows: list[tuple[str, str]],
) -> str:
    """Return one arrow. Several arrows at one box are drawn side by side."""
    leaving = [other for start, other in arrows if start == upper and other != upper]
    arriving = [other for other, end in arrows if end == lower and other != lower]
    left, top, width = boxes[upper]
    x1 = left + width * (leaving.index(lower) + 1) / (len(leaving) + 1)
    y1 = top + BOX_HEIGHT
    left, y2, width = boxes[lower]
    x2 = left + width * (arriving.index(upper) + 1) / (len(arriving) + 1)
    bend = (y2 - y1) / 2
    return (
        f'<path d="M{x1:.0f} {y1}C{x1:.0f} {y1 + bend:.0f} {x2:.0f} {y2 - bend:.0f}'
        f' {x2:.0f} {y2 - 1}" fill="none" stroke="#678" marker-end="url(#tip)"/>'
    )


def _box(name: str, subject: str, place: tuple[float, int, float]) -> str:
    left, top, width = place
    middle = left + width / 2
    text = f'<text x="{middle:.0f}" y="{top + 19}" font-size="15">{escape(name)}</text>'
    if subject:
        text += (
            f'<text x="{middle:.0f}" y="{top + 36}" font-size="11" fill="#456">'
            f"{escape(subject)}</text>"
        )
    return (
        f'<rect x="{left:.0f}" y="{top}" width="{width:.0f}" height="{BOX_HEIGHT}" rx="6"'
        f' fill="#eef4fa" stroke="#678"/>{text}'
    )


if __name__ == "__main__":
    DIAGRAM.write_text(draw(read_layers(), read_imports()))
