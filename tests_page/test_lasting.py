"""What the page survives: reloads, other tabs, restarts of the server. And tokens."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Any

from playwright.sync_api import expect

from tests_page.case import (
    COCKATOO,
    FLOWER,
    FRIDAY,
    FULL_SPEED,
    SCREENCAST,
    PageTestCase,
    throttle,
)

SLOW = 200_000
"""Bytes a second at which a long film takes minutes, however slow the machine is."""
LONG = 40 << 20
"""Bytes."""
SOME = 0.02
"""The part of a long film that is sent before something happens: more than 64 KiB."""
LONG_GIF = {"duration": "4"}
"""A task that takes a few seconds."""
WORKING = "Choosing colours|Encoding"
NOTE_STATES = """() => {
  window.states = [];
  new MutationObserver(() => {
    for (const card of document.querySelectorAll(".film")) window.states.push(card.dataset.state);
  }).observe(document.body, { subtree: true, childList: true, attributes: true });
}"""
"""Collects in `states` every state that a card has, however briefly."""
REFUSED = "net::ERR_(CONNECTION_REFUSED|CONNECTION_RESET|EMPTY_RESPONSE|INCOMPLETE_CHUNKED|ABORTED)"


class LastingTests(PageTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.long = Path(self.mktemp()).absolute() / COCKATOO.name
        self.long.parent.mkdir()
        data = COCKATOO.read_bytes()
        # A box that players skip.
        filling = struct.pack(">I4s", LONG - len(data), b"free")
        self.long.write_bytes(data + filling.ljust(LONG - len(data), b"\0"))

    def send_some(self) -> Any:
        """Begin to send a long film, so slowly that it is not sent before `throttle` is called
        with the session that this returns and `FULL_SPEED`."""
        session = self.slow_down(SLOW)
        self.start("resolution", self.long, width="160", height="90")
        self.wait_until(COCKATOO.name, "busy")
        self.page.wait_for_function(
            "some => document.querySelector('.film progress').value > some", arg=SOME
        )
        return session

    def test_an_upload_goes_on_after_a_reload(self) -> None:
        """The page asks for the file again, and sends only what is missing."""
        session = self.send_some()
        self.page.reload()
        card = self.wait_until(COCKATOO.name, "lost")
        expect(card).to_contain_text("Choose the file again to continue")
        offsets: list[int] = []
        self.page.on(
            "request",
            lambda request: (
                offsets.append(int(request.headers["upload-offset"]))
                if request.method == "PATCH"
                else None
            ),
        )
        throttle(session, FULL_SPEED)
        with self.page.expect_file_chooser() as chooser:
            card.get_by_role("button", name="Choose the file").click()
        chooser.value.set_files(FRIDAY)
        expect(self.page.locator("#connection")).to_contain_text("That is another file")
        with self.page.expect_file_chooser() as chooser:
            card.get_by_role("button", name="Choose the file").click()
        chooser.value.set_files(self.long)
        self.wait_until(COCKATOO.name, "done")
        self.assertGreater(offsets[0], 64 << 10)

    def test_a_dropped_file_finds_its_film(self) -> None:
        """If the file is added again as if it were new, the upload that waits for it continues."""
        session = self.send_some()
        self.page.reload()
        self.wait_until(COCKATOO.name, "lost")
        throttle(session, FULL_SPEED)
        self.add(self.long)
        self.wait_until(COCKATOO.name, "done")
        expect(self.page.locator(".film")).to_have_count(1)

    def test_a_task_goes_on_after_a_reload(self) -> None:
        """The page finds the task again and follows it until its result is there."""
        self.start("gif", FRIDAY, **LONG_GIF)
        self.wait_until_says(FRIDAY.name, WORKING)
        self.page.reload()
        self.wait_until(FRIDAY.name, "done")

    def test_a_restart_in_the_middle_of_an_upload(self) -> None:
        """The page waits for the server, and continues by itself from what had arrived."""
        self.expected_errors.append(REFUSED)
        session = self.send_some()
        self.server.kill()
        expect(self.film(COCKATOO.name)).to_contain_text("No connection. Trying again")
        throttle(session, FULL_SPEED)
        self.server.start()
        self.wait_until(COCKATOO.name, "done")

    def test_a_restart_in_the_middle_of_a_task(self) -> None:
        """The page says that the connection is lost, and connects again."""
        self.expected_errors.append(REFUSED)
        self.start("gif", FRIDAY, **LONG_GIF)
        self.wait_until_says(FRIDAY.name, WORKING)
        self.server.kill()
        expect(self.page.locator("#connection")).to_contain_text("Connection lost")
        self.server.start()
        self.wait_until(FRIDAY.name, "done")
        expect(self.page.locator("#connection")).to_be_hidden()

    def test_two_tabs(self) -> None:
        """The other tab shows the film, but can't take over its upload until the first is gone."""
        self.send_some()
        other = self.open()
        card = self.film(COCKATOO.name, other)
        expect(card).to_contain_text("Another tab of this page sends this film")
        expect(card.get_by_role("button")).to_have_count(0)
        self.page.close()
        self.wait_until(COCKATOO.name, "lost", other)
        self.page = other
        self.add(self.long)
        self.wait_until(COCKATOO.name, "done")
        third = self.open()
        self.wait_until(COCKATOO.name, "done", third)

    def test_two_tabs_from_the_start(self) -> None:
        """A tab that is already open takes no film from the tab that was given it, and offers no
        buttons for it, whether it is being sent or waits for its turn."""
        other = self.open()
        other.wait_for_selector("body.ready")
        for page in (self.page, other):
            page.evaluate(NOTE_STATES)
        session = self.slow_down(SLOW)
        films = (FRIDAY, FLOWER, SCREENCAST)
        self.start("extract_audio", self.long, *films)
        for path in (self.long, *films):
            card = self.film(path.name, other)
            expect(card).to_contain_text("Another tab of this page sends this film")
            expect(card.get_by_role("button")).to_have_count(0)
        throttle(session, FULL_SPEED)
        for path in films:
            self.wait_until(path.name, "done")
            self.wait_until(path.name, "done", other)
        for page in (self.page, other):
            self.assertNotIn("lost", page.evaluate("() => states"))

    def test_a_task_that_the_server_has_forgotten(self) -> None:
        """The page says so, and the films behind it are processed."""
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
        self.wait_until(COCKATOO.name, "failed")  # it has no audio, but it was sent


class TokenTests(PageTestCase):
    def options(self) -> tuple[str, ...]:
        file = Path(self.mktemp()).absolute()
        file.write_text("ada lovelaces-own-token\n")
        os.chmod(file, 0o600)
        return (f"--token-file={file}",)

    def test_a_token_is_asked_for_and_kept(self) -> None:
        """A wrong token is refused with a message; the right one is kept until the tab closes."""
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
