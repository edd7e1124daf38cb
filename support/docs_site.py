"""What the documentation site has besides docs/: pages made from the code, and files of the root.

A hook of MkDocs (mkdocs.yml). Options come from the parsers, parameters from the operations' types,
the HTTP API from its OpenAPI document: the site can't say anything else than the code does.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:  # MkDocs imports this file by its path
    sys.path.insert(0, str(ROOT))

from support.commands import Command, commands  # noqa: E402
from vidproc.frontends.http.openapi import document  # noqa: E402
from vidproc.frontends.http.resources import ROUTES  # noqa: E402
from vidproc.operations.parameters import PARAMETERS, describe_parameters  # noqa: E402

OF_THE_ROOT = {
    "index.md": "README.md",
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
    "vulnerabilities.md": "SECURITY.md",
}
"""Pages of the site that are files of the root."""


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that are not in docs/."""
    from mkdocs.structure.files import File

    pages = {name: (ROOT / path).read_text("utf-8") for name, path in OF_THE_ROOT.items()}
    pages |= {
        "reference/commands.md": commands_page(),
        "reference/parameters.md": parameters_page(),
        "reference/http.md": http_page(),
        "reference/python.md": python_page(),
        "reference/deploy.md": deploy_page(),
        "openapi.json": json.dumps(document(ROUTES), indent=1),
    }
    for name, content in pages.items():
        files.append(File.generated(config, name, content=content))
    return files


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Point the links of a page to where their targets are on the site."""
    # A word after a fence's language is for the tests of the examples.
    markdown = re.sub(r"^(\s*```\w+) \w+$", r"\1", markdown, flags=re.MULTILINE)
    up = "../" * page.file.src_uri.count("/")
    return re.sub(
        r"\]\(([^)\s]+)\)",
        lambda found: f"]({_on_the_site(found[1], page.file.src_uri, up)})",
        markdown,
    )


def _on_the_site(link: str, page: str, up: str) -> str:
    """Return a link as it is on the site; links of the repository lead from the page's own file."""
    target, hash_sign, anchor = link.partition("#")
    if not target or ":" in target:
        return link
    if page in OF_THE_ROOT:
        target = target.removeprefix("docs/")
        inside = target != link.partition("#")[0]
    else:
        inside = not target.startswith("../") or page.startswith(("howto/", "reference/"))
        target = target.removeprefix("../") if not inside else target
    by_path = {path: name for name, path in OF_THE_ROOT.items()}
    if target in by_path:
        return f"{up}{by_path[target]}{hash_sign}{anchor}"
    if not inside and (target.startswith("deploy") or target == "LICENSE"):
        section = _anchor(target) if target not in ("deploy", "deploy/") else ""
        return f"{up}reference/deploy.md{'#' if section else ''}{section}"
    if not inside and target.startswith("tests/"):
        return f"{up}development.md"
    return f"{target}{hash_sign}{anchor}"


def _anchor(heading: str) -> str:
    """Return the anchor of a heading, as MkDocs makes it."""
    return re.sub(r"[^\w\s-]", "", heading).strip().lower().replace(" ", "-")


# --- pages made from the code -------------------------------------------------------------------


def commands_page() -> str:
    """Return the page of all options of all commands."""
    text = [
        "# Commands",
        "",
        "Every option that is a setting can also stand in a [file or a variable]"
        "(../deployment.md#a-file-instead-of-options).",
        "",
    ]
    for command in commands():
        text += _command_section(command)
    return "\n".join(text)


def _command_section(command: Command) -> list[str]:
    parser = command.parser
    usage = parser.format_usage().removeprefix("usage: ").rstrip()
    text = [f"## {command.name}", "", parser.description or "", "", "```text", usage, "```", ""]
    for group in parser._action_groups:
        actions = [action for action in group._group_actions if action.help != argparse.SUPPRESS]
        if not actions:
            continue
        title = group.title or ""
        if title not in ("options", "optional arguments"):
            text += [f"### {command.name}: {title}", ""]
        text += ["| option | meaning |", "|---|---|"]
        text += [_option_row(action) for action in actions]
        text.append("")
    if parser.epilog:
        text += ["```text", parser.epilog.strip(), "```", ""]
    return text


def _option_row(action: argparse.Action) -> str:
    names = ", ".join(f"`{name}`" for name in action.option_strings) or f"`{action.metavar}`"
    value = ""
    if action.option_strings and action.nargs != 0:
        choices = "|".join(map(str, action.choices)) if action.choices else None
        value = f" `{choices or action.metavar or action.dest.upper()}`".replace("|", "\\|")
    meaning = _cell((action.help or "").replace("%%", "%"))
    return f"| {names}{value} | {meaning} |"


def parameters_page() -> str:
    """Return the page of each operation's parameters."""
    text = [
        "# Parameters",
        "",
        "The same over MMP, HTTP and the Python API. [The operations](../operations.md) explains"
        " what they do. A parameter without a default is required.",
        "",
    ]
    for operation in PARAMETERS:
        text += [
            f"## {operation}",
            "",
            "| parameter | value | default | meaning |",
            "|---|---|---|---|",
        ]
        for name, schema in describe_parameters(operation).items():
            default = schema.get("default", "required")
            shown = "" if default is None else default if default == "required" else f"`{default}`"
            unit = f" ({schema['unit']})" if schema.get("unit") else ""
            meaning = _cell(schema.get("description", ""))
            text.append(f"| `{name}` | {_cell(_values(schema))}{unit} | {shown} | {meaning} |")
        text.append("")
    return "\n".join(text)


def _values(schema: dict[str, Any]) -> str:
    """Return what a value may be."""
    if "anyOf" in schema:
        return " or ".join(_values(form) for form in schema["anyOf"] if form.get("type") != "null")
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"] if value is not None)
    kind = str(schema.get("type", "any"))
    if kind == "array":
        return f"list of {_values(schema.get('items', {}))}"
    least = schema.get("minimum", schema.get("exclusiveMinimum"))
    most = schema.get("maximum", schema.get("exclusiveMaximum"))
    if least is not None and most is not None and most < 1e9:
        return f"{kind}, {least:g} to {most:g}"
    return kind if least is None else f"{kind}, at least {least:g}"


def http_page() -> str:
    """Return the page of the HTTP API's paths."""
    api = document(ROUTES)
    text = [
        "# HTTP API: all paths",
        "",
        "From the OpenAPI document, which a server gives at `/api/v1/openapi.json` and this site as"
        " [openapi.json](../openapi.json). [The HTTP API](../http.md) has an example for each.",
        "",
        "| method | path | what it does | answers |",
        "|---|---|---|---|",
    ]
    for path, methods in api["paths"].items():
        for method, operation in methods.items():
            if method not in ("get", "head", "post", "put", "patch", "delete", "options"):
                continue
            codes = ", ".join(operation.get("responses", {}))
            summary = _cell(operation.get("summary") or operation.get("description", ""))
            text.append(f"| {method.upper()} | `{path}` | {summary} | {codes} |")
    text += ["", "## Schemas", ""]
    for name, schema in sorted(api["components"]["schemas"].items()):
        text += [f"### {name}", "", str(schema.get("description", "")), ""]
        rows = schema.get("properties", {})
        if rows:
            text += ["| field | type |", "|---|---|"]
            text += [f"| `{field}` | {_cell(_type_of(kind))} |" for field, kind in rows.items()]
            text.append("")
    return "\n".join(text)


def _type_of(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        return " or ".join(_type_of(form) for form in schema["anyOf"])
    if schema.get("type") == "array":
        return f"list of {_type_of(schema.get('items', {}))}"
    return str(schema.get("type", "any"))


def python_page() -> str:
    """Return the page of the Python API, which mkdocstrings fills from the docstrings."""
    import vidproc.api

    text = ["# Python API: all names", "", "[Python API](../api.md) shows how they are used.", ""]
    text += [f"::: vidproc.api.{name}\n" for name in vidproc.api.__all__]
    return "\n".join(text)


def deploy_page() -> str:
    """Return the page with the files of deploy/."""
    text = [
        "# Deployment files",
        "",
        "[Run the server](../deployment.md) says how to install them.",
        "",
    ]
    for path in sorted((ROOT / "deploy").rglob("*")):
        if path.is_file():
            name = path.relative_to(ROOT).as_posix()
            text += [f"## {name}", "", "````text", path.read_text("utf-8").rstrip(), "````", ""]
    text += ["## LICENSE", "", "````text", (ROOT / "LICENSE").read_text("utf-8"), "````", ""]
    return "\n".join(text)


def _cell(text: str) -> str:
    """Return text for a cell of a table."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")
