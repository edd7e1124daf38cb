"""What the page survives: reloads, other tabs, the end of the server, a token that it asks for."""

from __future__ import annotations

import os
import re
from pathlib import Path

from playwright.sync_api import Page, expect

from tests_page.case import COCKATOO, FRIDAY, PageTestCase, throttle

SLOW = 150_000
"""Bytes a second at which the test film takes over ten seconds."""
LONG_GIF = {"duration": "4"}
"""A task that takes a few seconds."""
WORKING = re.compile("Choosing colours|Encoding")
REFUSED = "net::ERR_(CONNECTION_REFUSED|CONNECTION_RESET|EMPTY_RESPONSE|INCOMPLETE_CHUNKED|ABORTED)"


class LastingTests(PageTestCase):
    def send_some(self, page: Page | None = None) -> None:
        """Begin to send a film slowly, and wait until some of it is there."""
        self.slow_down(SLOW)
        self.start("resolution", COCKATOO, width="160", height="90")
        self.wait_until(COCKATOO.name, "busy")
        self.page.wait_for_function("() => document.querySelector('.film progress').value > 0.2")

    def test_an_upload_goes_on_after_a_reload(self) -> None:
        """The page asks for the file once more, and sends only what is missing."""
        self.send_some()
        self.page.reload()
        card = self.wait_until(COCKATOO.name, "lost")
        expect(card).to_contain_text("Choose the file again to go on from there")
        offsets: list[int] = []
        self.page.on(
            "request",
            lambda request: (
                offsets.append(int(request.headers["upload-offset"]))
                if request.method == "PATCH"
                else None
            ),
        )
        throttle(self.context.new_cdp_session(self.page), -1)
        with self.page.expect_file_chooser() as chooser:
            card.get_by_role("button", name="Choose the file").click()
        chooser.value.set_files(FRIDAY)
        expect(self.page.locator("#connection")).to_contain_text("That is another file")
        with self.page.expect_file_chooser() as chooser:
            card.get_by_role("button", name="Choose the file").click()
        chooser.value.set_files(COCKATOO)
        self.wait_until(COCKATOO.name, "done")
        self.assertGreater(offsets[0], 64 << 10)

    def test_a_dropped_file_finds_its_film(self) -> None:
        """Whoever adds the file again, as if new, goes on with the film that waits for it."""
        self.send_some()
        self.page.reload()
        self.wait_until(COCKATOO.name, "lost")
        self.add(COCKATOO)
        self.wait_until(COCKATOO.name, "done")
        expect(self.page.locator(".film")).to_have_count(1)

    def test_a_task_goes_on_after_a_reload(self) -> None:
        """The page finds it again and follows it to its end, with its result."""
        self.start("gif", FRIDAY, **LONG_GIF)
        expect(self.film(FRIDAY.name)).to_contain_text(WORKING)
        self.page.reload()
        self.wait_until(FRIDAY.name, "done")

    def test_a_restart_in_the_middle_of_an_upload(self) -> None:
        """The page waits for the server and goes on by itself, from what had arrived."""
        self.expected_errors.append(REFUSED)
        self.send_some()
        self.server.kill()
        expect(self.film(COCKATOO.name)).to_contain_text("No connection. Trying again")
        self.server.start()
        self.wait_until(COCKATOO.name, "done")

    def test_a_restart_in_the_middle_of_a_task(self) -> None:
        """The page says that it is not connected, and connects again."""
        self.expected_errors.append(REFUSED)
        self.start("gif", FRIDAY, **LONG_GIF)
        expect(self.film(FRIDAY.name)).to_contain_text(WORKING)
        self.server.kill()
        expect(self.page.locator("#connection")).to_contain_text("Connection lost")
        self.server.start()
        self.wait_until(FRIDAY.name, "done")
        expect(self.page.locator("#connection")).to_be_hidden()

    def test_two_tabs(self) -> None:
        """The other tab shows the film but can't take its upload, until the first tab is gone."""
        self.send_some()
        other = self.open()
        card = self.film(COCKATOO.name, other)
        expect(card).to_contain_text("Another tab of this page sends this film")
        expect(card.get_by_role("button")).to_have_count(0)
        self.page.close()
        self.wait_until(COCKATOO.name, "lost", other)
        self.page = other
        self.add(COCKATOO)
        self.wait_until(COCKATOO.name, "done")
        third = self.open()
        self.wait_until(COCKATOO.name, "done", third)

    def test_a_task_that_the_server_has_forgotten(self) -> None:
        """It says so, and the films behind it go on."""
        self.start("extract_audio", FRIDAY)
        self.wait_until(FRIDAY.name, "done")
        self.page.evaluate(
            """() => {
              for (const [key, text] of Object.entries(localStorage)) {
                if (!text.startsWith("{")) continue;
                const film = JSON.parse(text);
                film.taskId = "0".repeat(32);
                film.status = { status: "queued" };
                localStorage.setItem(key, JSON.stringify(film));
              }
            }"""
        )
        self.expected_errors.append("404")
        self.page.reload()
        card = self.wait_until(FRIDAY.name, "over")
        expect(card).to_contain_text("The server no longer has this task")
        self.start("extract_audio", COCKATOO)
        self.wait_until(COCKATOO.name, "failed")  # it has no sound, and it was sent


class TokenTests(PageTestCase):
    def options(self) -> tuple[str, ...]:
        file = Path(self.mktemp()).absolute()
        file.write_text("ada lovelaces-own-token\n")
        os.chmod(file, 0o600)
        return (f"--token-file={file}",)

    def test_a_token_is_asked_for_and_kept(self) -> None:
        """A wrong one is refused with a sentence; the right one lasts until the tab is closed."""
        self.expected_errors.append("401")
        field = self.page.get_by_label("Token", exact=True)
        expect(field).to_be_focused()
        field.fill("wrong")
        self.page.keyboard.press("Enter")
        expect(self.page.get_by_role("alert")).to_contain_text("doesn't know this token")
        field.fill("lovelaces-own-token")
        self.page.keyboard.press("Enter")
        expect(field).to_be_hidden()
        self.start("extract_audio", FRIDAY)
        card = self.wait_until(FRIDAY.name, "done")
        with self.page.expect_download() as fetched:
            card.get_by_role("button", name="Download").click()
        self.assertNotIn("lovelace", fetched.value.url)
        self.page.reload()
        self.wait_until(FRIDAY.name, "done")
        expect(field).to_be_hidden()
        self.assertNotIn("lovelace", self.page.evaluate("JSON.stringify(localStorage)"))
