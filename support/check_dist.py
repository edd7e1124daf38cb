"""Checks what `make dist` has made: contents, metadata, and whether it runs where nothing else is.

    python -m support.check_dist dist

The wheel is installed into an environment of its own, with the tested versions of its dependencies.
There it must show its versions, start a server with its page, and process a clip. That
environment's list of components (CycloneDX) is written beside the wheel.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.request
import venv
import zipfile
from collections.abc import Iterable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from support.commands import commands
from vidproc import __version__

ROOT = Path(__file__).resolve().parents[1]
CLIP = ROOT / "tests/media/friday-480p-aac.mp4"
NAME = f"vidproc-{__version__}"

IN_WHEEL = (
    "twisted/plugins/vidproc_plugin.py",
    "vidproc/py.typed",
    "vidproc/tap.py",
    "vidproc/client/cli.py",
    "vidproc/frontends/http/page/index.html",
    "vidproc/frontends/http/page/static/app.js",
    "vidproc/frontends/http/page/static/style.css",
    "vidproc/frontends/http/page/static/tus.min.js",
    "vidproc/frontends/http/page/static/tus-licences.txt",
    "vidproc/tasks/schema/001_*.sql",
    f"{NAME}.dist-info/licenses/LICENSE",
    f"{NAME}.dist-info/entry_points.txt",
    *(f"{NAME}.data/data/share/man/man1/{command.page}.1" for command in commands()),
    f"{NAME}.data/data/share/bash-completion/completions/vidproc",
    f"{NAME}.data/data/share/bash-completion/completions/twistd",
    f"{NAME}.data/data/share/zsh/site-functions/_vidproc",
    f"{NAME}.data/data/share/fish/vendor_completions.d/vidproc.fish",
)
"""What the wheel must have."""
ONLY_IN_WHEEL = (
    "vidproc/*",
    "twisted/plugins/vidproc_plugin.py",
    f"{NAME}.dist-info/*",
    f"{NAME}.data/data/share/*",
)
"""What the wheel may have."""
IN_SDIST = (
    "LICENSE",
    "README.md",
    "CHANGELOG.md",
    "Makefile",
    "constraints.txt",
    "setup.cfg",
    "pyproject.toml",
    "twisted/plugins/vidproc_plugin.py",
    "tests/test_packaging.py",
    "tests/media/README.md",
    "support/check_dist.py",
    "docs/deployment.md",
    "deploy/systemd/vidproc.service",
    "deploy/container/Containerfile",
)
NOWHERE = ("*.pyc", "*/__pycache__/*", "*dropin.cache", "*.sqlite", "*.log", "*.pid")


class Wrong(Exception):
    """Something of the distribution is not as it should be."""


def main(folder: Path) -> None:
    """Check the one wheel and the one sdist in `folder`."""
    (wheel,) = folder.glob("*.whl")
    (sdist,) = folder.glob("*.tar.gz")
    check_names(names_in_wheel(wheel), IN_WHEEL, ONLY_IN_WHEEL)
    check_names(names_in_sdist(sdist), IN_SDIST, ("*",))
    print(f"{wheel.name} and {sdist.name} have what they should")
    with tempfile.TemporaryDirectory(prefix="vidproc-dist-") as place:
        check_install(wheel, Path(place), folder / f"{NAME}.cdx.json")


def names_in_wheel(path: Path) -> list[str]:
    """Return the names of the files in a wheel."""
    with zipfile.ZipFile(path) as wheel:
        return [name for name in wheel.namelist() if not name.endswith("/")]


def names_in_sdist(path: Path) -> list[str]:
    """Return the names of the files in an sdist, without its folder."""
    with tarfile.open(path) as sdist:
        return [one.name.partition("/")[2] for one in sdist.getmembers() if one.isfile()]


def check_names(names: Iterable[str], wanted: Iterable[str], allowed: Iterable[str]) -> None:
    """Raise `Wrong` unless all that is wanted is there, and nothing that may not be."""
    found = list(names)
    lacking = [w for w in wanted if not any(fnmatch(name, w) for name in found)]
    if lacking:
        raise Wrong(f"it lacks {', '.join(lacking)}")
    strange = [
        name
        for name in found
        if any(fnmatch(name, bad) for bad in NOWHERE)
        or not any(fnmatch(name, good) for good in allowed)
    ]
    if strange:
        raise Wrong(f"it should not have {', '.join(strange)}")


def check_install(wheel: Path, place: Path, sbom: Path) -> None:
    """Install the wheel into a new environment in `place`, use it, and list its components."""
    venv.create(place / "venv", with_pip=True)
    programs = place / "venv/bin"
    constraints = ("--constraint", str(ROOT / "constraints.txt"))
    pip = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    run(place, programs / "python", *pip, *constraints, str(wheel.absolute()))
    said = run(place, programs / "vidproc", "--version")
    if not said.startswith(f"vidproc {__version__}\n") or "FFmpeg is" in said:
        raise Wrong(f"vidproc --version says: {said}")
    print(said, end="")
    if "vidproc" not in run(place, programs / "twistd", "--help"):
        raise Wrong("twistd does not list the plugin")
    if not (place / "venv/share/man/man1/vidproc.1").is_file():
        raise Wrong("the man page was not installed")
    check_server(programs, place)
    # From here on with a tool of ours: the list is of what the wheel brings.
    run(
        ROOT,
        Path(sys.executable),
        "-m",
        "cyclonedx_py",
        "environment",
        "--output-reproducible",
        "--output-file",
        str(sbom.absolute()),
        str(programs / "python"),
    )
    complete_list(sbom, said)
    print(f"{sbom.name} lists what the wheel brings")


def complete_list(sbom: Path, versions: str) -> None:
    """Add to a list of components what is in the packages but is no Python package.

    `versions` is what ``vidproc --version`` says.
    """
    content = json.loads(sbom.read_text())
    ffmpeg = re.search(r"^FFmpeg (\S+)", versions, re.MULTILINE)
    licences = ROOT / "vidproc/frontends/http/page/static/tus-licences.txt"
    tus = re.search(r"^==== tus-js-client ([\d.]+)", licences.read_text(), re.MULTILINE)
    if ffmpeg is None or tus is None:
        raise Wrong("the versions of FFmpeg and tus-js-client are not known")
    for component in content["components"]:
        # The path of the wheel, on this machine.
        component["externalReferences"] = [
            one
            for one in component.get("externalReferences", [])
            if not one["url"].startswith("file:")
        ]
    content["components"] += [
        _component("ffmpeg", ffmpeg[1], "GPL-3.0-or-later", "The program in imageio-ffmpeg"),
        _component("tus-js-client", tus[1], "MIT", "A script of the page"),
    ]
    sbom.write_text(json.dumps(content, indent=2) + "\n")


def _component(name: str, version: str, licence: str, description: str) -> dict[str, Any]:
    return {
        "type": "library",
        "bom-ref": f"{name}=={version}",
        "name": name,
        "version": version,
        "description": description,
        "licenses": [{"license": {"id": licence}}],
    }


def check_server(programs: Path, place: Path) -> None:
    """Run the server and the client of an environment, with a clip."""
    output = place / "output.txt"
    options = ("--port=0", "--http=0", "--log-dir=-", "--data-dir=data")
    with output.open("wb") as file:
        server = subprocess.Popen(
            [programs / "twistd", "-n", "--pidfile=", "vidproc", *options],
            cwd=place,
            env=_ENVIRONMENT,
            stdout=file,
            stderr=file,
        )
    try:
        ports = _ports(output, server)
        with urllib.request.urlopen(f"http://127.0.0.1:{ports[1]}/", timeout=60) as answer:
            if b"<html" not in answer.read().lower():
                raise Wrong("the page is not served")
        result = place / "result.mp3"
        run(
            place,
            programs / "vidproc",
            str(CLIP),
            "--type",
            "extract_audio",
            "--port",
            ports[0],
            "--output",
            str(result),
        )
        if result.stat().st_size < 1000:
            raise Wrong("the result is empty")
    finally:
        server.send_signal(signal.SIGTERM)
        status = server.wait(120)
    if status not in (0, -signal.SIGTERM):  # twistd ends by the signal that it got
        raise Wrong(f"the server ended with status {status}: {output.read_text()}")
    print("the server served its page and processed a clip")


def _ports(output: Path, server: subprocess.Popen[bytes]) -> list[str]:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and server.poll() is None:
        line = re.search(r" serves .*", output.read_text())
        ports = re.findall(r"port (\d+)", line[0]) if line else []
        if len(ports) == 2:
            return ports
        time.sleep(0.1)
    raise Wrong(f"the server did not start: {output.read_text()}")


_ENVIRONMENT = {"PATH": os.defpath, "HOME": "/nonexistent", "LANG": "C.UTF-8"}
"""An empty environment but for what programs expect, so that nothing of the checkout is used."""


def run(folder: Path, *argv: Path | str) -> str:
    """Run a program in `folder`; return what it prints. Raises `Wrong` if it fails."""
    environment = {**_ENVIRONMENT, **{k: v for k, v in os.environ.items() if "PIP_" in k}}
    done = subprocess.run(
        argv, cwd=folder, env=environment, capture_output=True, text=True, timeout=600
    )
    if done.returncode != 0:
        raise Wrong(f"{' '.join(map(str, argv))} ended with {done.returncode}:\n{done.stderr}")
    return done.stdout


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except Wrong as wrong:
        sys.exit(f"check_dist: {wrong}")
