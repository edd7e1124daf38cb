"""A server, a browser profile and a page for each test, and what every test checks at its end."""

from __future__ import annotations

import re
import urllib.parse
from pathlib import Path
from typing import Any

from playwright.sync_api import BrowserContext, ConsoleMessage, Page, Request, expect
from twisted.trial.unittest import SynchronousTestCase

from support.http_server import HTTPServerProcess
from support.ports import free_port
from tests_page.browser import chromium

MEDIA = Path(__file__).resolve().parents[1] / "tests" / "media"
FLOWER = MEDIA / "flower-540p-aac.mp4"
FRIDAY = MEDIA / "friday-480p-aac.mp4"
SCREENCAST = MEDIA / "screencast-480p-vp9-opus.webm"
COCKATOO = MEDIA / "cockatoo-720p-noaudio.mp4"

FULL_SPEED = -1
"""No limit, for `throttle`."""

PATIENCE = 180_000
"""Timeout in milliseconds for what takes a moment on an idle machine."""

expect.set_options(timeout=PATIENCE)


class PageServer(HTTPServerProcess):
    """A server whose HTTP port stays the same over restarts."""

    def __init__(self, root: Path, *options: str) -> None:
        super().__init__(root, *options)
        self.kept_port = free_port()

    def command(self) -> list[str]:
        port = f"--http={self.kept_port}"
        return [port if word == "--http=0" else word for word in super().command()]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http_port}/"


class PageTestCase(SynchronousTestCase):
    """Starts a server with `server_options`. `open` opens a tab, by default in the same profile."""

    server_options: tuple[str, ...] = ()
    viewport = (1100, 900)

    def setUp(self) -> None:
        self.server = PageServer(Path(self.mktemp()), *self.options()).start()
        self.addCleanup(self.server.stop)
        self.expected_errors: list[str] = []
        """Patterns of the console errors that a test provokes."""
        self.errors: list[str] = []
        self.elsewhere: list[str] = []
        self.context = self.new_context()
        self.page = self.open()

    def options(self) -> tuple[str, ...]:
        return self.server_options

    def new_context(self, **options: Any) -> BrowserContext:
        """Return a fresh profile of the browser."""
        width, height = self.viewport
        context = chromium().new_context(viewport={"width": width, "height": height}, **options)
        context.set_default_timeout(PATIENCE)
        context.on("console", self._note_console)
        context.on("weberror", lambda error: self.errors.append(str(error.error)))
        context.on("request", self._note_request)
        self.addCleanup(context.close)
        return context

    def open(self, context: BrowserContext | None = None) -> Page:
        """Open the page in a new tab."""
        page = (context or self.context).new_page()
        page.on("dialog", lambda dialog: dialog.accept())  # "leave the page?" in mid-upload
        # From the start: a key can open a file dialog before `expect_file_chooser` is in force.
        page.on("filechooser", lambda _chooser: None)
        page.goto(self.server.url)
        return page

    def tearDown(self) -> None:
        """Check that nothing unexpected is on the console and that no other site got a request."""
        unexpected = [
            error
            for error in self.errors
            if not any(re.search(pattern, error) for pattern in self.expected_errors)
        ]
        self.assertEqual(unexpected, [])
        self.assertEqual(self.elsewhere, [])

    def _note_console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.errors.append(f"{message.text} ({message.location.get('url', '')})")

    def _note_request(self, request: Request) -> None:
        parts = urllib.parse.urlsplit(request.url)
        if parts.scheme not in ("data", "blob") and not request.url.startswith(self.server.url):
            self.elsewhere.append(request.url)

    # --- what people do ------------------------------------------------------------------------

    def choose(self, operation: str, **values: Any) -> None:
        """Choose an operation, and fill fields in."""
        self.page.check(f"input[value={operation}]", force=True)
        for name, value in values.items():
            field = self.page.locator(f"#field-{name}")
            if not field.is_visible():
                self.page.click("details.more summary")
            if field.evaluate("element => element.localName") == "select":
                field.select_option(str(value))
            else:
                field.fill(str(value))

    def add(self, *files: Any) -> None:
        """Choose files by the file dialog."""
        self.page.wait_for_selector("body.ready")
        self.page.set_input_files("#files", list(files))

    def start(self, operation: str, *files: Any, **values: Any) -> None:
        """Add files and start an operation with them."""
        self.add(*files)
        self.choose(operation, **values)
        self.page.click(".start")

    def film(self, name: str, page: Page | None = None) -> Any:
        """Return the card of a film."""
        return (page or self.page).locator(".film", has=self.name(name, page))

    def name(self, name: str, page: Page | None = None) -> Any:
        return (page or self.page).get_by_role("heading", name=name, exact=True)

    def wait_until(self, name: str, state: str, page: Page | None = None) -> Any:
        """Wait until a film's card is in a state; return the card."""
        card = self.film(name, page)
        expect(card).to_have_attribute("data-state", state)
        return card

    def wait_until_says(self, name: str, pattern: str) -> None:
        """Wait until a film's card shows text that may be gone in a moment.

        This looks at each frame that is drawn; `expect` would look only once a second.
        """
        self.page.wait_for_function(
            """([name, pattern]) => [...document.querySelectorAll(".film")].some((card) =>
              card.querySelector(".name").textContent === name
              && new RegExp(pattern).test(card.textContent))""",
            arg=[name, pattern],
        )

    def slow_down(self, bytes_a_second: int, page: Page | None = None) -> Any:
        """Limit how fast a tab sends. Returns the session, for `throttle`."""
        session = self.context.new_cdp_session(page or self.page)
        session.send("Network.enable")
        throttle(session, bytes_a_second)
        return session


def throttle(session: Any, bytes_a_second: int, latency: int = 0) -> None:
    """Set how fast a tab may send (or `FULL_SPEED`), and the least delay of each answer in ms."""
    session.send(
        "Network.emulateNetworkConditions",
        {
            "offline": False,
            "latency": latency,
            "downloadThroughput": -1,
            "uploadThroughput": bytes_a_second,
        },
    )
