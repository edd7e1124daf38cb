"""Choosing and dropping films, queueing, cancelling, downloading and comparing them."""

from __future__ import annotations

import base64
import json
import subprocess
from pathlib import Path
from typing import Any

from imageio_ffmpeg import get_ffmpeg_exe
from playwright.sync_api import APIResponse, Request, Route, expect

from support.server_process import wait_for
from tests_page.case import (
    COCKATOO,
    FLOWER,
    FRIDAY,
    FULL_SPEED,
    SCREENCAST,
    PageTestCase,
    throttle,
)

DROP = """([files]) => {
  const transfer = new DataTransfer();
  for (const [name, data] of files) {
    const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
    transfer.items.add(new File([bytes], name, { lastModified: 1 }));
  }
  const target = document.getElementById("drop");
  for (const type of ["dragenter", "dragover", "drop"])
    target.dispatchEvent(
      new DragEvent(type, { dataTransfer: transfer, bubbles: true, cancelable: true }),
    );
}"""


def upload_of(name: str, data: bytes) -> Any:
    """Return a file to choose, with this name and content."""
    return {"name": name, "mimeType": "video/mp4", "buffer": data}


class WorkTests(PageTestCase):
    def drop(self, *files: tuple[str, bytes]) -> None:
        encoded = [[name, base64.b64encode(data).decode()] for name, data in files]
        self.page.wait_for_selector("body.ready")
        self.page.evaluate(DROP, [encoded])

    def test_a_gif_of_a_dropped_film(self) -> None:
        """Drop, choose, start. The preview shows the result without counting as a download, and the
        download is the file."""
        self.drop(("holiday.mp4", FRIDAY.read_bytes()))
        self.choose("gif", duration="0.5", width="120")
        self.page.click(".start")
        card = self.wait_until("holiday.mp4", "done")
        card.get_by_role("button", name="Preview the result").click()
        image = card.locator(".preview img")
        expect(image).to_be_visible()
        self.assertEqual(
            image.evaluate("image => image.decode().then(() => image.naturalWidth)"), 120
        )
        with self.page.expect_download() as fetched:
            card.get_by_role("button", name="Download").click()
        path = Path(str(fetched.value.path()))
        self.assertEqual(path.read_bytes()[:6], b"GIF89a")
        self.assertEqual(fetched.value.suggested_filename, "holiday_processed.gif")

    def test_several_films_queue(self) -> None:
        """They are sent in order, one at a time, and the server refuses none."""
        refused: list[int] = []
        self.page.on(
            "response",
            lambda answer: refused.append(answer.status) if answer.status >= 400 else None,
        )
        self.start("extract_audio", FLOWER, FRIDAY, SCREENCAST)
        waiting = self.page.get_by_text("Waiting for its turn")
        expect(waiting).to_have_count(2)
        for path in (FLOWER, FRIDAY, SCREENCAST):
            self.wait_until(path.name, "done")
        self.assertEqual(refused, [])
        created = self.page.evaluate(
            "Object.values(localStorage).filter((text) => text.startsWith('{')).map(JSON.parse)"
            ".sort((a, b) => a.created - b.created).map((film) => film.name)"
        )
        self.assertEqual(created, [FLOWER.name, FRIDAY.name, SCREENCAST.name])

    def test_a_film_waits_while_its_address_has_a_task(self) -> None:
        """A 429 is not a failure: the film waits for the slot, and is sent then."""
        other = self.new_context()
        first = self.page
        self.page = self.open(other)
        self.start("compress", COCKATOO)
        self.wait_until(COCKATOO.name, "busy")
        second, self.page = self.page, first
        self.expected_errors.append("429")
        self.start("extract_audio", FRIDAY)
        expect(self.film(FRIDAY.name)).to_contain_text("Another film from this address")
        self.film(COCKATOO.name, second).get_by_role("button", name="Cancel").click()
        self.wait_until(COCKATOO.name, "over", second)
        self.wait_until(FRIDAY.name, "done")

    def test_cancel(self) -> None:
        """A film that is being processed or sent ends, and the server keeps nothing of it."""
        self.start("compress", COCKATOO)
        card = self.wait_until(COCKATOO.name, "busy")
        expect(card.locator(".percent")).not_to_be_empty()
        expect(card).to_contain_text("Finding the best setting")
        card.get_by_role("button", name="Cancel").click()
        self.wait_until(COCKATOO.name, "over")
        card.get_by_role("button", name="Remove").click()
        expect(self.page.locator(".film")).to_have_count(0)
        self.slow_down(100_000)
        self.start("compress", COCKATOO)
        card = self.wait_until(COCKATOO.name, "busy")
        expect(card).to_contain_text("Uploading")
        card.get_by_role("button", name="Cancel").click()
        expect(self.page.locator(".film")).to_have_count(0)
        self.page.wait_for_function(
            "() => navigator.locks.query().then((locks) => locks.held.length === 0)"
        )
        self.assertEqual(self.server.files(), [])

    def test_cancel_before_the_first_byte_is_sent(self) -> None:
        """The page asks first whether the server takes the film; no byte follows the answer."""
        asked: list[tuple[Route, APIResponse]] = []
        sent: list[Request] = []

        def hold(route: Route) -> None:
            if route.request.method != "PATCH":
                route.continue_()
            elif asked:
                sent.append(route.request)
                route.continue_()
            else:
                asked.append((route, route.fetch()))

        self.page.route("**/api/v1/uploads/*", hold)
        with self.page.expect_request(lambda request: request.method == "PATCH"):
            self.start("compress", COCKATOO)
        with self.page.expect_response(lambda response: response.request.method == "DELETE"):
            self.film(COCKATOO.name).get_by_role("button", name="Cancel").click()
        for route, response in asked:
            route.fulfill(response=response)
        self.page.evaluate("() => fetch('api/v1/server')")  # what the answer led to is sent now
        self.assertEqual((len(asked), sent), (1, []))
        self.assertEqual(self.server.files(), [])

    def test_cancel_before_the_page_knows_the_task(self) -> None:
        """If the server has already made a task of the upload, that task is cancelled, too."""
        self.expected_errors.append("409")
        self.add(COCKATOO)
        self.choose("compress")
        session = self.context.new_cdp_session(self.page)
        session.send("Network.enable")
        throttle(session, FULL_SPEED, latency=2500)
        self.page.click(".start")
        wait_for(lambda: " accepted: " in self.server.log())
        self.film(COCKATOO.name).get_by_role("button", name="Cancel").click()
        throttle(session, FULL_SPEED)
        wait_for(lambda: self.server.files() == [])

    def test_a_refused_file_says_what_to_do(self) -> None:
        """The server's description and solution are shown, and the next film gets its turn."""
        friday = upload_of(FRIDAY.name, FRIDAY.read_bytes())
        self.start("compress", upload_of("notes.mp4", b"not a video" * 1000), friday)
        card = self.wait_until("notes.mp4", "failed")
        expect(card.locator(".problem-detail")).not_to_be_empty()
        expect(card.locator(".problem-solution")).not_to_be_empty()
        self.wait_until(FRIDAY.name, "busy")

    def test_a_parameter_out_of_range_is_not_sent(self) -> None:
        """The field says which values it takes, and gets the focus."""
        self.start("resolution", FRIDAY, width="9", height="240")
        field = self.page.locator("#field-width")
        expect(field).to_be_focused()
        expect(field).to_have_attribute("aria-invalid", "true")
        expect(self.page.locator("#field-width-problem")).to_have_text(
            "Enter a value from 16 to 8192."
        )
        expect(self.page.locator(".film")).to_have_count(0)

    def test_a_field_that_applies_only_with_another(self) -> None:
        """The playable codecs are asked for only with codec auto, and those that this browser plays
        are ticked."""
        self.add(COCKATOO)
        self.choose("compress", preset="fast")
        plays = self.page.get_by_role("group", name="Playable codecs")
        expect(plays).to_be_hidden()
        self.choose("compress", codec="auto")
        expect(plays).to_be_visible()
        boxes = plays.get_by_role("checkbox")
        expect(boxes).to_have_count(3)
        self.assertTrue(plays.get_by_label("H.264").is_checked())
        plays.get_by_label("HEVC").check()
        plays.get_by_label("AV1").uncheck()
        with self.page.expect_request(lambda request: request.method == "POST") as sent:
            self.page.click(".start")
        pairs = dict(pair.split() for pair in sent.value.headers["upload-metadata"].split(","))
        parameters = json.loads(base64.b64decode(pairs["parameters"]))
        wanted = {"codec": "auto", "plays": ["h264", "hevc"], "preset": "fast"}
        self.assertEqual(parameters, wanted)

    def test_hostile_names(self) -> None:
        """A name is shown as plain text everywhere, and unchanged."""
        name = '"><img src=x onerror="document.title=\'owned\'">\u202egpj.{name} &amp; 日本 🎞.mp4'
        self.start("extract_audio", upload_of(name, FRIDAY.read_bytes()))
        card = self.wait_until(name, "done")
        self.assertEqual(card.locator(".name").text_content(), name)
        self.assertEqual(self.page.locator("img[src=x]").count(), 0)
        self.assertNotIn("owned", self.page.title())
        with self.page.expect_download() as fetched:
            card.get_by_role("button", name="Download").click()
        self.assertTrue(fetched.value.suggested_filename.endswith(".mp3"))

    def test_compare(self) -> None:
        """Source and result play in step. The divider moves by keyboard and pointer."""
        self.start("resolution", FRIDAY, width="320", height="240")
        card = self.wait_until(FRIDAY.name, "done")
        card.get_by_role("button", name="Compare").click()
        stage = card.locator(".stage")
        expect(stage).to_be_visible()
        split = card.get_by_role("slider", name="Divider")
        split.focus()
        before = float(split.input_value())
        for _ in range(20):
            self.page.keyboard.press("ArrowRight")
        self.assertEqual(float(split.input_value()), before + 10)
        box = stage.bounding_box()
        assert box is not None
        self.page.mouse.click(box["x"] + box["width"] / 4, box["y"] + box["height"] / 3)
        self.assertApproximates(float(split.input_value()), 25, 3)
        card.get_by_role("button", name="Play").click()
        apart = """() => {
          const [after, before] = document.querySelectorAll(".stage video");
          const moving = !after.paused && !before.paused && after.currentTime > 1;
          return moving && Math.abs(after.currentTime - before.currentTime) < 0.12;
        }"""
        self.page.wait_for_function(apart)
        card.get_by_role("button", name="Pause").click()
        self.page.wait_for_function(
            """() => {
              const [after, before] = document.querySelectorAll(".stage video");
              return after.paused && before.paused && !before.seeking
                && Math.abs(after.currentTime - before.currentTime) < 0.04;
            }"""
        )
        card.get_by_role("button", name="Close").click()
        expect(stage).to_have_count(0)

    def test_what_is_not_comparable_says_why(self) -> None:
        """After a reload the page no longer has the source, so it shows the result alone."""
        self.start("resolution", FRIDAY, width="160", height="120")
        self.wait_until(FRIDAY.name, "done")
        self.page.reload()
        card = self.wait_until(FRIDAY.name, "done")
        card.get_by_role("button", name="Compare").click()
        expect(card.locator(".preview")).to_contain_text("To compare, the page needs the source")
        card.locator("video").evaluate(
            "video => video.readyState || new Promise((done) => (video.onloadedmetadata = done))"
        )

    def test_a_webm_clip_begins_where_the_source_does(self) -> None:
        """The source is played from the start of the clip."""
        self.start("webm", FRIDAY, start_time="2", duration="1", width="160", quality="50")
        card = self.wait_until(FRIDAY.name, "done")
        card.get_by_role("button", name="Compare").click()
        self.page.wait_for_function(
            """() => {
              const [after, before] = document.querySelectorAll(".stage video");
              return after?.readyState > 1 && before.readyState > 1
                && Math.abs(before.currentTime - after.currentTime - 2) < 0.05;
            }"""
        )

    def test_what_no_browser_plays_says_so(self) -> None:
        """Debian's Chromium plays no HEVC, so such a source can't be compared."""
        hevc = Path(self.mktemp())
        subprocess.run(
            [get_ffmpeg_exe(), "-v", "error", "-i", FRIDAY, "-t", "1", "-c:v", "libx265", "-an",
             "-x265-params", "log-level=none", "-f", "mp4", "-tag:v", "hvc1", hevc],
            check=True,
        )  # fmt: skip
        self.start("resolution", upload_of("h.mp4", hevc.read_bytes()), width="160", height="120")
        card = self.wait_until("h.mp4", "done")
        card.get_by_role("button", name="Compare").click()
        expect(card.locator(".preview-note")).to_contain_text("This browser can't play the source")
        expect(card.locator(".preview video")).to_be_visible()

    def test_the_panel(self) -> None:
        """It shows the server's figures."""
        self.page.wait_for_selector("body.ready")
        button = self.page.get_by_role("button", name="Server")
        expect(button).to_have_attribute("aria-expanded", "false")
        button.click()
        panel = self.page.get_by_role("region", name="Server")
        expect(panel.locator(".spark-line")).to_have_count(6)
        expect(panel).to_contain_text("reserve 60 %")
        figures = json.loads(self.page.evaluate("fetch('api/v1/server').then((r) => r.text())"))
        self.assertGreater(figures["disk_limit"], 0)
        button.click()
        expect(panel).to_be_hidden()
