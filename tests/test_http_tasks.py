"""Tasks, results and figures over HTTP."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import msgspec
from prometheus_client.parser import text_string_to_metric_families

from tests.rig import CLIP, ByHand, InPlace, complete_step, message
from tests.test_http_connection import HTTPTestCase
from vidproc.answers import ServerFigures, StatusDetail
from vidproc.app.measuring import Meter
from vidproc.app.metrics import FRESH, Metrics
from vidproc.app.performance import INTERVAL, PerformanceService
from vidproc.files.space import Space
from vidproc.frontends.http.frontend import HTTPFrontend
from vidproc.frontends.http.links import LIFETIME
from vidproc.frontends.tokens import Tokens
from vidproc.operations.parameters import PARAMETERS
from vidproc.tasks.settings import Settings

DASHBOARD = Path(__file__).resolve().parents[1] / "docs" / "grafana" / "vidproc.json"
CONTENT = b"GIF of the film" * 100


class TaskTestCase(HTTPTestCase):
    """Tests whose tasks are sent to the MMP frontend of the same server."""

    def send(self, host: str = "192.0.2.1", **fields: Any) -> str:
        """Send a film; return the task's ID."""
        request = {
            "action": "upload",
            "type": "gif",
            "parameters": {"start_time": 0, "duration": 1},
            **fields,
        }
        client = self.rig.connect(host)
        client.send(message(request, Path(CLIP).read_bytes(), "mp4"))
        task_id: str = client.answer()["task_id"]
        client.lose()
        return task_id

    def complete(self, content: bytes = CONTENT) -> None:
        """Let all running commands succeed."""
        while self.rig.runner.running:
            complete_step(self.rig.runner.running[0], content)

    def done(self, **fields: Any) -> str:
        """Return the id of a completed task."""
        task_id = self.send(**fields)
        self.complete()
        return task_id

    def use(self, **parts: Any) -> None:
        """Give the server another HTTP frontend, over a backend with these parts."""
        self.rig.http = HTTPFrontend(replace(self.rig.backend, **parts))
        self.client = self.rig.http_client()


class StatusTests(TaskTestCase):
    def test_a_status_is_the_long_form(self) -> None:
        """Both for a running task and a completed one; it must not be cached."""
        task_id = self.send()
        response = self.client.request("GET", f"/api/v1/tasks/{task_id}")
        self.assertEqual((response.status, response.json["status"]), (200, "processing"))
        self.assertEqual(response.headers["Cache-Control"], "no-store")
        self.complete()
        status = self.client.request("GET", f"/api/v1/tasks/{task_id}").json
        report = msgspec.convert(status, StatusDetail)
        self.assertEqual((report.status, report.progress), ("completed", 1.0))
        self.assertEqual(report.parameters, {"start_time": 0, "duration": 1})
        self.assertEqual(report.output["bytes"], len(CONTENT))
        mmp = self.rig.connect().request({"action": "status", "task_id": task_id, "detail": True})[
            0
        ][0]
        self.assertEqual(status, mmp)

    def test_an_unknown_task_is_404(self) -> None:
        for path in ("", "/events", "/result"):
            self.assert_problem(self.client.request("GET", f"/api/v1/tasks/nothing{path}"), 404)
        self.assert_problem(self.client.request("DELETE", "/api/v1/tasks/nothing"), 404)
        self.assert_problem(self.client.request("POST", "/api/v1/tasks/nothing/link"), 404)

    def test_delete_cancels(self) -> None:
        """It ends a running task, whose slot is free when the answer arrives."""
        task_id = self.send()
        response = self.client.request("DELETE", f"/api/v1/tasks/{task_id}")
        self.assertEqual((response.status, response.json["status"]), (200, "cancelled"))
        self.assertEqual(self.rig.runner.running, [])
        self.send()

    def test_delete_removes_the_files_of_a_finished_task(self) -> None:
        task_id = self.done()
        response = self.client.request("DELETE", f"/api/v1/tasks/{task_id}")
        self.assertEqual(response.json["status"], "completed")
        self.assert_problem(self.client.request("GET", f"/api/v1/tasks/{task_id}/result"), 410)

    def test_without_tokens_there_is_no_list(self) -> None:
        self.assert_problem(self.client.request("GET", "/api/v1/tasks"), 401)


class TokenTests(TaskTestCase):
    options = {
        "tokens": Tokens({"ann": "secret-a", "bob": "secret-b"}),
        "settings": Settings(owner_only=True, tasks_per_ip=5),
    }

    def get(self, path: str, token: str | None = None, method: str = "GET") -> Any:
        headers: dict[str, Any] = {}
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        return self.rig.http_client().request(method, path, **headers)

    def test_the_list_has_the_tokens_own_tasks_newest_first(self) -> None:
        first, second = self.send(token="secret-a"), self.send(token="secret-a")
        self.send(token="secret-b")
        listed = self.get("/api/v1/tasks", "secret-a").json
        self.assertEqual([task["task_id"] for task in listed["tasks"]], [second, first])
        self.assertNotIn("parameters", listed["tasks"][0])

    def test_everything_of_a_task_needs_the_token(self) -> None:
        """With --owner-only, its owner's token."""
        task_id = self.done(token="secret-a")
        base = f"/api/v1/tasks/{task_id}"
        for method, path in (
            ("GET", base),
            ("GET", f"{base}/result"),
            ("HEAD", f"{base}/result"),
            ("GET", f"{base}/events"),
            ("GET", f"/api/v1/events?task={task_id}"),
            ("POST", f"{base}/link"),
            ("DELETE", base),
            ("GET", "/api/v1/server"),
            ("GET", "/api/v1/info"),
            ("GET", "/metrics"),
        ):
            response = self.get(path, method=method)
            self.assertEqual(response.status, 401, path)
            self.assertEqual(response.headers["WWW-Authenticate"], "Bearer")
            if path.startswith(base) or "task=" in path:
                self.assertEqual(self.get(path, "secret-b", method).status, 404, path)
        self.assertEqual(self.get(base, "secret-a").status, 200)

    def test_a_link_opens_the_result_without_a_token(self) -> None:
        """With GET and HEAD, for an hour, and for that result only."""
        task_id = self.done(token="secret-a")
        base = f"/api/v1/tasks/{task_id}"
        made = self.get(f"{base}/link", "secret-a", "POST")
        self.assertEqual(made.status, 201)
        url = made.json["url"]
        self.assertEqual(made.headers["Location"], url)
        self.assertFalse(url.startswith(("/", "http")))  # a prefix of a proxy stays
        url = urljoin(f"{base}/link", url)
        self.assertTrue(url.startswith(f"{base}/result?link="))
        response = self.get(url)
        self.assertEqual((response.status, response.body), (200, CONTENT))
        self.assertEqual(response.headers["Referrer-Policy"], "no-referrer")
        self.assertEqual(self.get(url, method="HEAD").status, 200)
        query = url.removeprefix(f"{base}/result")
        other = self.done(token="secret-a")
        self.assertEqual(self.get(f"/api/v1/tasks/{other}/result{query}").status, 401)
        self.assertEqual(self.get(f"{base}{query}").status, 401)
        self.assertEqual(self.get(f"{base}{query}", method="DELETE").status, 401)
        self.assertEqual(self.get(f"{url}0").status, 401)
        self.rig.clock.advance(LIFETIME)
        self.assertEqual(self.get(url).status, 401)

    def test_probes_need_no_token(self) -> None:
        for path in ("/healthz", "/readyz"):
            self.assertEqual(self.get(path).status, 200, path)


class ResultTests(TaskTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.task_id = self.done(filename="Übung 1.mov")
        self.path = f"/api/v1/tasks/{self.task_id}/result"

    def get(self, method: str = "GET", **headers: Any) -> Any:
        return self.client.request(method, self.path, **headers)

    def fetched(self) -> bool:
        task = self.rig.store.get(self.task_id)
        assert task is not None
        return task.downloaded_at is not None

    def test_the_whole_file(self) -> None:
        response = self.get()
        self.assertEqual((response.status, response.body), (200, CONTENT))
        digest = hashlib.sha256(CONTENT)
        for name, value in {
            "Content-Type": "image/gif",
            "ETag": f'"{digest.hexdigest()}"',
            "Accept-Ranges": "bytes",
            "Repr-Digest": f"sha-256=:{base64.b64encode(digest.digest()).decode()}:",
            "X-Content-Type-Options": "nosniff",
            "Last-Modified": "Tue, 14 Nov 2023 22:13:20 GMT",  # the rig's clock
        }.items():
            self.assertEqual(response.headers[name], value)
        disposition = response.headers["Content-Disposition"]
        self.assertTrue(disposition.startswith("attachment; filename="))
        self.assertTrue(disposition.endswith("filename*=UTF-8''%C3%9Cbung%201_processed.gif"))
        self.assertTrue(self.fetched())

    def test_head_has_the_same_headers_and_does_not_count_as_fetched(self) -> None:
        head, got = self.get("HEAD"), None
        self.assertFalse(self.fetched())
        got = self.get()
        for answer in (head, got):
            self.assertTrue(answer.headers["X-Request-Id"])
            del answer.headers["X-Request-Id"]  # each request has its own
        self.assertEqual(head.headers.items(), got.headers.items())
        self.assertEqual(head.rest, b"")

    def test_one_range(self) -> None:
        """A range does not count as fetched, not even one with all bytes."""
        for wanted, start, end in (
            ("bytes=0-9", 0, 10),
            ("bytes=5-", 5, len(CONTENT)),
            ("bytes=-7", len(CONTENT) - 7, len(CONTENT)),
            ("bytes=0-", 0, len(CONTENT)),
        ):
            response = self.get(Range=wanted)
            self.assertEqual((response.status, response.body), (206, CONTENT[start:end]), wanted)
            content_range = f"bytes {start}-{end - 1}/{len(CONTENT)}"
            self.assertEqual(response.headers["Content-Range"], content_range)
        self.assertFalse(self.fetched())

    def test_a_range_beyond_the_end_is_416(self) -> None:
        response = self.get(Range=f"bytes={len(CONTENT)}-")
        self.assert_problem(response, 416)
        self.assertEqual(response.headers["Content-Range"], f"bytes */{len(CONTENT)}")

    def test_several_ranges_get_the_whole_file(self) -> None:
        response = self.get(Range="bytes=0-1,5-6")
        self.assertEqual((response.status, response.body), (200, CONTENT))

    def test_conditions(self) -> None:
        etag = self.get("HEAD").headers["ETag"]
        self.assertEqual(self.get(If_None_Match=etag).status, 304)
        self.assertEqual(self.get(If_None_Match=etag).headers["ETag"], etag)
        self.assertEqual(self.get(Range="bytes=0-1", If_Range=etag).status, 206)
        self.assertEqual(self.get(Range="bytes=0-1", If_Range='"other"').status, 200)
        self.assert_problem(self.get(If_Match='"other"'), 412)

    def test_a_result_that_is_not_there(self) -> None:
        """409 before the end, with a sentence that says what to do."""
        running = self.send(host="192.0.2.7")
        response = self.client.request("GET", f"/api/v1/tasks/{running}/result")
        self.assert_problem(response, 409)
        self.assert_problem(self.client.request("POST", f"/api/v1/tasks/{running}/link"), 409)

    def test_a_broken_download_does_not_count(self) -> None:
        """The file is closed."""
        by_hand: Any = ByHand()
        self.use(disk=by_hand)
        client = self.rig.http_client()
        client.send(f"GET {self.path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        client.lose()
        by_hand.run_all()
        self.assertFalse(self.fetched())
        self.assertEqual(self.rig.tasks.results._downloads, {})


class ReadinessTests(TaskTestCase):
    def test_not_ready_while_draining(self) -> None:
        self.rig.gate.draining = True
        response = self.client.request("GET", "/readyz")
        self.assert_problem(response, 503)
        self.assertIn("Retry-After", response.headers)

    def test_a_server_that_drains_is_still_alive(self) -> None:
        self.rig.gate.draining = True
        self.assertEqual(self.client.request("GET", "/healthz").status, 200)

    def test_not_ready_without_free_space(self) -> None:
        self.patch(Space, "free", lambda _: 0)
        self.assert_problem(self.client.request("GET", "/readyz"), 503)

    def test_a_result_that_can_be_removed_is_free_space(self) -> None:
        task_id = self.done()
        self.rig.tasks.note_downloaded(task_id)
        self.patch(Space, "free", lambda _: 0)
        self.assertEqual(self.client.request("GET", "/readyz").status, 200)


class InfoTests(TaskTestCase):
    def test_info_is_the_same_as_mmps_long_form(self) -> None:
        """Each parameter has its type, range, default, unit and a sentence."""
        info = self.client.request("GET", "/api/v1/info").json
        self.assertEqual(info, self.rig.connect().request({"action": "info", "detail": True})[0][0])
        fps = info["operations"]["gif"]["fps"]
        self.assertEqual(
            (fps["type"], fps["minimum"], fps["maximum"], fps["default"], fps["unit"]),
            ("number", 1, 50, 12, "frames/s"),
        )
        self.assertEqual(fps["description"], "Frames per second.")


class FigureTests(TaskTestCase):
    def setUp(self) -> None:
        super().setUp()
        in_place: Any = InPlace()
        runner: Any = self.rig.runner
        meter = Meter(self.rig.clock, runner, self.rig.gate.traffic, 2)
        self.service = PerformanceService(
            self.rig.clock,
            self.rig.tasks,
            meter,
            self.rig.gate,
            self.rig.storage,
            in_place,
            2,
        )
        recent = self.service.recent
        self.metrics = Metrics(
            self.rig.clock,
            self.rig.tasks,
            self.rig.gate,
            self.rig.storage.space,
            meter.count,
            lambda: recent.last,
        )
        self.use(figures=recent.answer, metrics=self.metrics.render)

    def samples(self) -> dict[tuple[str, tuple[str, ...]], float]:
        """Return the samples in /metrics, by name and label values in the order of their names."""
        self.rig.clock.advance(FRESH)
        response = self.client.request("GET", "/metrics")
        self.assertTrue(response.headers["Content-Type"].startswith("text/plain; version="))
        return {
            (
                sample.name,
                tuple(sample.labels[name] for name in sorted(sample.labels)),
            ): sample.value
            for family in text_string_to_metric_families(response.body.decode())
            for sample in family.samples
        }

    def test_the_panel_has_ten_minutes(self) -> None:
        """A point every 10 s, and at most sixty of them."""
        self.service.startService()
        self.addCleanup(self.service.stopService)
        first = self.client.request("GET", "/api/v1/server").json
        self.assertEqual(len(first["points"]), 1)
        for _ in range(700):
            self.rig.clock.advance(1)
        self.client = self.rig.http_client()
        figures = msgspec.convert(self.client.request("GET", "/api/v1/server").json, ServerFigures)
        self.assertEqual((len(figures.points), figures.interval), (60, INTERVAL))
        self.assertGreaterEqual(figures.uptime, 700)
        self.assertEqual(figures.points[-1].concurrency, self.rig.tasks.queue.concurrency)
        self.assertEqual(figures.cpu_reserve, self.rig.tasks.settings.cpu_reserve / 100)
        self.assertGreater(figures.disk_limit, figures.points[-1].disk_used)

    def test_figures_alone(self) -> None:
        """Neither has IDs, names or addresses."""
        self.service.startService()
        self.addCleanup(self.service.stopService)
        task_id = self.send(host="198.51.100.23", filename="secret holiday.mov")
        for _ in range(20):
            self.rig.clock.advance(1)
        self.complete()
        for path in ("/metrics", "/api/v1/server"):
            text = self.rig.http_client().request("GET", path).body.decode()
            for word in (task_id, "holiday", "198.51.100", "192.0.2"):
                self.assertNotIn(word, text, path)

    def test_a_flood_of_scrapes_renders_once_a_second(self) -> None:
        """Because each rendering asks every socket."""
        counts: list[int] = []
        counted = self.metrics._registry.collect

        def collect() -> Any:
            counts.append(1)
            return counted()

        self.patch(self.metrics._registry, "collect", collect)
        for _ in range(3):
            for _ in range(10):
                self.assertEqual(self.rig.http_client().request("GET", "/metrics").status, 200)
            self.rig.clock.advance(FRESH)
        self.assertEqual(len(counts), 3)

    def test_tasks_are_counted_by_operation_and_outcome(self) -> None:
        before = self.samples()
        self.assertEqual(before["vidproc_tasks_ended_total", ("gif", "completed")], 0)
        self.done()
        self.client.request("DELETE", f"/api/v1/tasks/{self.send()}")
        after = self.samples()
        self.assertEqual(after["vidproc_tasks_accepted_total", ("gif",)], 2)
        self.assertEqual(after["vidproc_tasks_ended_total", ("gif", "completed")], 1)
        self.assertEqual(after["vidproc_tasks_ended_total", ("gif", "cancelled")], 1)
        self.assertEqual(after["vidproc_task_output_bytes_sum", ("gif",)], len(CONTENT))
        self.assertEqual(after["vidproc_task_duration_seconds_count", ("gif", "completed")], 1)
        for operation in PARAMETERS:
            self.assertIn(("vidproc_tasks_ended_total", (operation, "failed")), after)

    def test_queue_and_traffic(self) -> None:
        for number in range(1, 5):
            self.send(host=f"192.0.2.{number}")
        samples = self.samples()
        running = samples["vidproc_tasks_running", ()]
        self.assertEqual(running, self.rig.tasks.queue.running)
        self.assertEqual(samples["vidproc_tasks_queued", ()], 4 - running)
        sent = 4 * Path(CLIP).stat().st_size
        self.assertGreater(samples["vidproc_transferred_bytes_total", ("in",)], sent)
        self.assertEqual(samples["vidproc_disk_bytes", ("used",)], self.rig.storage.space.used)

    def test_the_dashboard_asks_for_metrics_that_there_are(self) -> None:
        """All metrics that it uses exist and have the labels."""
        self.service.startService()
        self.addCleanup(self.service.stopService)
        self.client.request("GET", "/nothing")
        self.done()
        text = self.client.request("GET", "/metrics").body.decode()
        known: dict[str, set[str]] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                known.setdefault(sample.name, set()).update(sample.labels)
        dashboard = json.loads(DASHBOARD.read_text())
        queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
        asked: set[str] = set()
        for query in queries:
            for name, selector in re.findall(r"(vidproc_\w+)\{([^}]*)\}", query):
                labels = {label.partition("=")[0] for label in selector.split(",")}
                self.assertIn(name, known, query)
                self.assertLessEqual(labels - {"job"}, known[name], query)
                asked.add(name)
            self.assertEqual(query.count("{"), query.count("vidproc_"), query)
        families = {re.sub("_(total|sum|count|bucket|created)$", "", name) for name in known}
        shown = {re.sub("_(total|sum|count|bucket)$", "", name) for name in asked}
        self.assertEqual({name for name in families if name.startswith("vidproc_")}, shown)

    def test_refusals_are_counted_by_frontend_and_code(self) -> None:
        """For both frontends, whatever was refused."""
        self.client.request("GET", "/nothing")
        self.client.request("GET", "/api/v1/tasks/nothing")
        self.rig.connect().request({"action": "status", "task_id": "nothing"})
        self.rig.http_client().send(b"nonsense\r\n\r\n")
        samples = self.samples()
        self.assertEqual(samples["vidproc_refusals_total", ("404", "http")], 2)
        self.assertEqual(samples["vidproc_refusals_total", ("404", "mmp")], 1)
        self.assertEqual(samples["vidproc_refusals_total", ("400", "http")], 1)
