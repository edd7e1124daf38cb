"""Draw docs/terminal.svg: the real client on a terminal, in the middle of a real task.

    .venv/bin/pip install -e '.[docs]' && .venv/bin/python scripts/draw_terminal.py

Starts a server, runs the client on a pseudo-terminal, and draws its screen.
"""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time
from pathlib import Path

import pyte
from rich.console import Console
from rich.style import Style
from rich.text import Text

ROOT = Path(__file__).resolve().parents[1]
CLIP = ROOT / "tests/media/friday-480p-aac.mp4"
PICTURE = ROOT / "docs/terminal.svg"
WIDTH, HEIGHT = 88, 12
COMMAND = "vidproc film.mp4 --type compress --preset small"
BIN = Path(sys.executable).parent


def main() -> None:
    """Draw the picture."""
    with tempfile.TemporaryDirectory(prefix="vidproc-terminal-") as place:
        folder = Path(place)
        (folder / "film.mp4").write_bytes(CLIP.read_bytes())
        log = folder / "output"
        with log.open("wb") as file:
            server = subprocess.Popen(
                [BIN / "twistd", "-n", "--pidfile=", "vidproc", "--port=0", "--log-dir=-"],
                cwd=folder,
                stdout=file,
                stderr=file,
            )
        try:
            port = _wait_for_port(log)
            screen = _half_way(folder, port)
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(60)
    _draw(screen)


def _wait_for_port(log: Path) -> str:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        found = re.search(r"serves tcp \S+ port (\d+)", log.read_text())
        if found:
            return found[1]
        time.sleep(0.1)
    raise SystemExit(f"the server did not start:\n{log.read_text()}")


def _half_way(folder: Path, port: str) -> pyte.Screen:
    """Run the client until it is at least half way; return its screen as it is then."""
    screen = pyte.Screen(WIDTH, HEIGHT)
    stream = pyte.ByteStream(screen)
    stream.feed(f"$ {COMMAND}\r\n".encode())
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(folder)
        os.environ.update(TERM="xterm-256color", VIDPROC_PORT=port, COLUMNS=str(WIDTH))
        arguments = COMMAND.split()
        os.execv(BIN / arguments[0], arguments)  # noqa: S606 - a command of ours
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", HEIGHT, WIDTH, 0, 0))
    deadline = time.monotonic() + 300
    try:
        while time.monotonic() < deadline:
            stream.feed(os.read(terminal, 65536))
            percents = re.findall(r"(\d+) ?%", "\n".join(screen.display[2:]))
            if any(50 <= int(percent) < 95 for percent in percents):
                break
    except OSError:
        raise SystemExit("the client ended before it was half way") from None
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(terminal)
    return screen


def _draw(screen: pyte.Screen) -> None:
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True)
    lines = max(n for n, line in enumerate(screen.display) if line.strip()) + 1
    for number in range(lines):
        text = Text()
        for column in range(WIDTH):
            cell = screen.buffer[number][column]
            text.append(cell.data, Style(color=_color(cell.fg), bold=cell.bold))
        console.print(text, no_wrap=True, overflow="crop")
    svg = console.export_svg(title="vidproc", unique_id="terminal")
    # The font would be loaded from elsewhere.
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)
    PICTURE.write_text(svg.replace("Fira Code, monospace", "monospace"))


def _color(name: str) -> str | None:
    if name == "default":
        return None
    return f"#{name}" if re.fullmatch("[0-9a-f]{6}", name) else name.replace("bright", "bright_")


if __name__ == "__main__":
    main()
