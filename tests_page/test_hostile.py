"""What other sites, host names and files could do to a user of the page, in a real browser."""

from __future__ import annotations

import http.server
import threading
from typing import Any

from playwright.sync_api import Error, Page, expect

from tests_page.browser import REBOUND, chromium
from tests_page.case import FRIDAY, PATIENCE, PageTestCase

ATTACK = """async ([url, film]) => {
  const outcome = {};
  const attempt = async (name, make) => {
    try {
      const answer = await make();
      outcome[name] = answer.type === "opaque" ? "opaque" : await answer.text();
    } catch {
      outcome[name] = "refused";
    }
  };
  const task = `${url}api/v1/tasks?type=extract_audio`;
  const tus = { "Tus-Resumable": "1.0.0", "Upload-Length": "10", "Upload-Metadata": "type Z2lm" };
  await attempt("read", () => fetch(`${url}api/v1/info`));
  await attempt("metrics", () => fetch(`${url}metrics`));
  await attempt("post", () => fetch(task, { method: "POST", body: new Blob([film]) }));
  await attempt("put", () => fetch(task, { method: "PUT", body: new Blob([film]) }));
  await attempt("tus", () => fetch(`${url}api/v1/uploads`, { method: "POST", headers: tus }));
  await attempt("unasked", () =>
    fetch(task, { method: "POST", mode: "no-cors", body: new Blob([film]) }));
  const fields = new FormData();
  fields.append("type", "extract_audio");
  fields.append("file", new Blob([film]), "film.mp4");
  await attempt("fields", () =>
    fetch(`${url}api/v1/tasks`, { method: "POST", mode: "no-cors", body: fields }));
  return outcome;
}"""
"""What another site's script may try. Returns what it could read of each answer."""
FORM = """(url) => {
  const form = document.createElement("form");
  form.method = "post";
  form.enctype = "multipart/form-data";
  form.action = `${url}api/v1/tasks`;
  for (const [name, value] of [["type", "gif"], ["start_time", "0"], ["duration", "1"]]) {
    const field = document.createElement("input");
    [field.name, field.value] = [name, value];
    form.append(field);
  }
  document.body.append(form);
  form.submit();
}"""
FRAME = """(url) => new Promise((done) => {
  const frame = document.createElement("iframe");
  frame.onload = () => done();
  frame.src = url;
  document.body.append(frame);
})"""
POLICY = """async (elsewhere) => {
  window.broken = [];
  document.addEventListener("securitypolicyviolation", (event) =>
    broken.push(event.effectiveDirective));
  const tries = [
    () => { document.body.insertAdjacentHTML("beforeend", "<img src=x onerror=alert(1)>"); },
    () => { const s = document.createElement("script"); s.text = "window.owned = 1";
            document.body.append(s); },
    () => { const i = document.createElement("img"); i.src = `${elsewhere}i.png`;
            document.body.append(i); },
    () => { const f = document.createElement("iframe"); f.src = elsewhere;
            document.body.append(f); },
    () => { const f = document.createElement("form"); f.action = elsewhere;
            document.body.append(f); f.submit(); },
    () => fetch(elsewhere),
    () => { document.body.setAttribute("style", "color: red"); },
    () => { setTimeout("window.owned = 1"); },
  ];
  for (const one of tries) {
    try {
      await one();
    } catch {
      // the policy may throw as well as report
    }
  }
}"""

FORBIDDEN = ["img-src", "frame-src", "form-action", "connect-src", "style-src-attr"]


class Elsewhere(http.server.BaseHTTPRequestHandler):
    """Another site, with an empty page at every path. `asked` has the paths requested."""

    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><title>elsewhere</title><body>")

    do_POST = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing."""


class HostileTests(PageTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.asked: list[str] = []
        handler = type("Handler", (Elsewhere,), {"asked": self.asked})
        site = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        thread = threading.Thread(target=site.serve_forever)
        thread.start()
        self.addCleanup(thread.join)
        self.addCleanup(site.server_close)
        self.addCleanup(site.shutdown)
        # Another origin, and for a browser another site.
        self.site = f"http://localhost:{site.server_port}/"

    def tearDown(self) -> None:
        # Whether a request was made is decided by what arrived there.
        self.elsewhere = [url for url in self.elsewhere if not url.startswith(self.site)]
        super().tearDown()

    def visit(self, url: str) -> Page:
        """Open a URL in a profile of its own, whose console and requests are not checked."""
        context = chromium().new_context()
        context.set_default_timeout(PATIENCE)
        self.addCleanup(context.close)
        page = context.new_page()
        page.goto(url)
        return page

    def assert_untouched(self) -> None:
        self.assertEqual(self.server.files(), [])
        self.assertNotIn("accepted", self.server.log())
        self.assertNotIn("upload for task", self.server.log())

    def test_another_site_reads_and_sends_nothing(self) -> None:
        """Neither by fetch nor by a form."""
        page = self.visit(self.site)
        outcome = page.evaluate(ATTACK, [self.server.url, "film " * 2000])
        readable = {
            name: text for name, text in outcome.items() if text not in ("refused", "opaque")
        }
        self.assertEqual(readable, {})
        self.assert_untouched()
        with page.expect_navigation():
            page.evaluate(FORM, self.server.url)
        expect(page.locator("body")).to_contain_text("403")
        self.assert_untouched()

    def test_another_site_cannot_show_the_page_in_a_frame(self) -> None:
        """Otherwise users could be tricked into pressing its buttons (clickjacking)."""
        page = self.visit(self.site)
        page.evaluate(FRAME, self.server.url)
        (frame,) = page.frames[1:]
        self.assertEqual(frame.locator("#composer").count(), 0)

    def test_dns_rebinding(self) -> None:
        """A foreign name that now resolves to this machine gets neither the page nor the API."""
        for path in ("", "api/v1/info"):
            page = self.visit(f"http://{REBOUND}:{self.server.http_port}/{path}")
            expect(page.locator("body")).to_contain_text("421")

    def test_the_content_security_policy_holds(self) -> None:
        """Even if the page had a hole, no script could be injected and nothing sent out."""
        self.expected_errors.append("Content Security Policy|Trusted|TrustedHTML|violates")
        self.page.wait_for_selector("body.ready")
        self.page.evaluate(POLICY, self.site)
        self.page.wait_for_function(
            "all => all.every((one) => broken.includes(one))", arg=FORBIDDEN
        )
        # Trusted types stop markup, scripts and code in strings before script-src applies.
        stopped = "() => broken.filter((one) => one.startsWith('require-trusted')).length > 2"
        self.page.wait_for_function(stopped)
        self.assertFalse(self.page.evaluate("() => 'owned' in window"))
        self.assertEqual(self.asked, [])

    def test_a_result_is_never_shown_as_a_page(self) -> None:
        """Even if it contains HTML, and whatever its name, it is downloaded; no script runs."""
        video = {"name": "x.html", "mimeType": "text/html", "buffer": FRIDAY.read_bytes()}
        self.start("gif", video, duration="0.5", width="64")
        card = self.wait_until("x.html", "done")
        (name,) = (file for file in self.server.files() if file.startswith("results/"))
        path = self.server.data_dir / name
        markup = b"<!doctype html><script>document.title='owned'</script><svg onload=alert(1)>"
        path.write_bytes(markup.ljust(path.stat().st_size))
        with self.page.expect_download() as fetched:
            card.get_by_role("button", name="Download").click()
        self.assertEqual(fetched.value.suggested_filename, "x_processed.gif")
        other = self.context.new_page()
        with self.assertRaisesRegex(Error, "Download is starting"):
            other.goto(fetched.value.url)
        self.assertNotIn("owned", other.title())
        answer = self.context.request.get(fetched.value.url)
        self.assertEqual(answer.headers["content-type"], "image/gif")
        self.assertEqual(answer.headers["x-content-type-options"], "nosniff")
        self.assertIn("default-src 'none'", answer.headers["content-security-policy"])
        card.get_by_role("button", name="Preview the result").click()
        expect(card.locator(".preview")).to_contain_text("can't")
        self.assertNotIn("owned", self.page.title())
