"""Small screens, keyboards and screen readers; strict headers."""

from __future__ import annotations

import http.client
from typing import Any

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from tests_page.case import COCKATOO, FLOWER, FRIDAY, PageTestCase

WIDER = "document.documentElement.scrollWidth > document.documentElement.clientWidth"


class LooksTests(PageTestCase):
    def assert_accessible(self, what: str) -> None:
        """Assert that axe-core finds nothing serious or critical."""
        found = Axe().run(self.page).response["violations"]
        serious: list[Any] = [
            (finding["id"], [node["html"] for node in finding["nodes"]])
            for finding in found
            if finding["impact"] in ("serious", "critical")
        ]
        self.assertEqual(serious, [], what)

    def test_every_state_is_accessible_and_fits(self) -> None:
        """In light and dark mode, at the width of a desktop and of a phone."""
        self.page.wait_for_selector("body.ready")
        self.each_look("empty")
        self.add(FLOWER, FRIDAY)
        self.choose("gif")
        self.each_look("staged")
        self.choose("compress", codec="auto")
        self.assert_accessible("boxes to tick")
        self.choose("resolution", width="160", height="120")
        self.page.click(".start")
        self.wait_until(FLOWER.name, "done")
        card = self.wait_until(FRIDAY.name, "done")
        card.get_by_role("button", name="Compare").click()
        expect(card.locator(".stage")).to_be_visible()
        self.page.get_by_role("button", name="Server").click()
        expect(self.page.locator(".spark-line")).to_have_count(6)
        self.start("compress", COCKATOO)
        self.wait_until(COCKATOO.name, "busy")
        self.each_look("busy")

    def each_look(self, state: str) -> None:
        for scheme in ("light", "dark"):
            self.page.emulate_media(color_scheme=scheme)
            for width in (1100, 360):
                self.page.set_viewport_size({"width": width, "height": 800})
                if (scheme, width) != ("dark", 360):  # both are checked already
                    self.assert_accessible(f"{state}, {scheme}, {width}")
                self.assertFalse(self.page.evaluate(WIDER), f"{state}, {width}")
        self.page.emulate_media(color_scheme="light")
        self.page.set_viewport_size({"width": 1100, "height": 900})

    def test_by_keyboard_alone(self) -> None:
        """From the top of the page to the start of a film. Its end is announced."""
        self.page.wait_for_selector("body.ready")
        for _ in range(2):
            self.page.keyboard.press("Tab")
        expect(self.page.get_by_role("button", name="choose files")).to_be_focused()
        with self.page.expect_file_chooser() as chooser:
            self.page.keyboard.press("Enter")
        chooser.value.set_files(FRIDAY)
        self.page.locator("input[name=operation]:checked").focus()
        for _ in range(3):
            self.page.keyboard.press("ArrowRight")
        expect(self.page.locator("input[value=extract_audio]")).to_be_checked()
        for _ in range(12):
            if self.page.evaluate("document.activeElement.matches('.start')"):
                break
            self.page.keyboard.press("Tab")
        self.page.keyboard.press("Enter")
        self.wait_until(FRIDAY.name, "done")
        expect(self.page.locator("#live")).to_contain_text(f"{FRIDAY.name} is done.")

    def test_headers(self) -> None:
        """The page's policy is strict, and its files are cached for good."""
        with self.page.expect_response(lambda answer: answer.url.endswith("/app.js")) as loaded:
            self.page.reload()
        self.assertIn("immutable", loaded.value.headers["cache-control"])
        connection = http.client.HTTPConnection("127.0.0.1", self.server.http_port, timeout=30)
        self.addCleanup(connection.close)
        connection.request("GET", "/")
        answer = connection.getresponse()
        policy = answer.headers["Content-Security-Policy"]
        self.assertIn("default-src 'none'", policy)
        self.assertNotIn("unsafe", policy)
        for word in (b"<style", b"style=", b"onclick", b"<script>", b"http://127", b'"/'):
            self.assertNotIn(word, answer.read().replace(b'"http://this-server/', b""), word)
