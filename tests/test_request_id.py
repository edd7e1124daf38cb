"""A request's id: from the frontend to the task, its commands, each log line and a 500's reference.

And the logs as JSON, where a program reads it.
"""

from __future__ import annotations

import io
import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, ensureDeferred
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import provider

from support.server_process import START_TIMEOUT, PlainClient, wait_for
from tests.http_rig import HTTPRig
from tests.media_harness import FRIDAY
from tests.rig import Rig
from vidproc.app.log_format import json_line, text_line
from vidproc.app.logs import TopicLogs
from vidproc.client.log import open_log
from vidproc.request_id import accepted_request_id, current_request_id, within
from vidproc.topics import Topic, TopicLogger

UPLOAD = {"action": "upload", "type": "extract_audio", "parameters": {}}


class RequestIdCase(SynchronousTestCase):
    """A test that sees all log events."""

    def setUp(self) -> None:
        self.events: list[LogEvent] = []

        @provider(ILogObserver)
        def observe(event: LogEvent) -> None:
            self.events.append(event)

        observer: ILogObserver = observe
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)

    def ids(self, **fields: Any) -> set[Any]:
        """Return the request ids of all events with these fields."""
        return {
            event.get("request_id")
            for event in self.events
            if all(event.get(name) == value for name, value in fields.items())
        }


class MMPTests(RequestIdCase):
    def setUp(self) -> None:
        super().setUp()
        self.rig = Rig(Path(self.mktemp()))
        self.addCleanup(self.rig.close)

    def upload(self, host: str, **fields: Any) -> dict[str, Any]:
        ((answer, _, _),) = self.rig.connect(host).request({**UPLOAD, **fields}, b"x" * 9, "mp4")
        return answer

    def test_a_task_keeps_the_id_of_its_upload_through_its_commands_and_lines(self) -> None:
        first, second = self.upload("192.0.2.1"), self.upload("192.0.2.2")
        for answer in (first, second):
            task_id = answer["task_id"]
            task = self.rig.store.get(task_id)
            assert task is not None
            self.assertRegex(task.request_id or "", r"\A[0-9a-f]{16}\Z")
            self.assertEqual(self.ids(task_id=task_id), {task.request_id})
            self.assertIn(
                task.request_id, [one.workspace.request_id for one in self.rig.runner.running]
            )
        while self.rig.runner.running:  # the failures, and what they begin
            self.rig.runner.running[0].fail()
        for answer in (first, second):
            task = self.rig.store.get(answer["task_id"])
            assert task is not None
            self.assertEqual(self.ids(task_id=task.task_id), {task.request_id})

    def test_the_request_that_completes_an_upload_names_its_task(self) -> None:
        upload = {"upload_id": "11111111-2222-4333-8444-555555555555", "size": 18}
        self.upload("192.0.2.1", **upload)
        parts = self.ids(offset=0)
        answer = self.upload("192.0.2.1", offset=9, **upload)
        task = self.rig.store.get(answer["task_id"])
        assert task is not None
        self.assertNotIn(task.request_id, parts)
        self.assertEqual(self.ids(offset=9), {task.request_id})

    def test_a_fault_is_answered_with_the_requests_id(self) -> None:
        def fail(*_: Any) -> Any:
            raise RuntimeError("a bug")

        self.patch(type(self.rig.tasks), "status", fail)
        client = self.rig.connect()
        ((answer, _, _),) = client.request({"action": "status", "task_id": "1", "id": "theirs"})
        reference = re.search(r"reference (\w+)", answer["error"]["description"])
        assert reference is not None
        self.assertEqual(answer["id"], "theirs")
        self.assertEqual(self.ids(reference=reference[1]), {reference[1]})
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)


class HTTPTests(RequestIdCase):
    def rig(self, **http: Any) -> HTTPRig:
        rig = HTTPRig(Path(self.mktemp()), http=http)
        self.addCleanup(rig.close)
        return rig

    def test_each_answer_has_an_id_of_its_own(self) -> None:
        client = self.rig().http_client()
        ids = [
            client.request(method, path).headers["X-Request-Id"]
            for method, path in (("GET", "/healthz"), ("GET", "/nothing"), ("GET", "/api/v1/info"))
        ]
        self.assertEqual(len(set(ids)), 3)
        for one in ids:
            self.assertRegex(one, r"\A[0-9a-f]{16}\Z")

    def test_it_is_the_task_s_and_a_fault_s(self) -> None:
        rig = self.rig()
        client = rig.http_client()
        response = client.request("POST", "/api/v1/tasks?type=extract_audio&filename=a.mp4", b"x")
        task = rig.store.get(response.json["task_id"])
        assert task is not None
        self.assertEqual(task.request_id, response.headers["X-Request-Id"])

        def fail(*_: Any) -> Any:
            raise RuntimeError("a bug")

        rig.tasks.uploads.known._in_store = fail
        response = client.request("DELETE", "/api/v1/uploads/x", Tus_Resumable="1.0.0")
        own = response.headers["X-Request-Id"]
        self.assertIn(f"reference {own}", response.json["detail"])
        self.assertEqual(self.ids(reference=own), {own})
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    def test_only_a_trusted_proxy_may_choose_it(self) -> None:
        from vidproc.frontends.http.options import network

        for proxies, expected in (((), None), ((network("192.0.2.1"),), "abc-123")):
            client = self.rig(trusted_proxies=proxies).http_client()
            response = client.request("GET", "/healthz", X_Request_Id="abc-123")
            if expected is None:
                self.assertNotEqual(response.headers["X-Request-Id"], "abc-123")
            else:
                self.assertEqual(response.headers["X-Request-Id"], expected)
        for text in ("", "a b", "x" * 65, 'a"', None):
            self.assertIsNone(accepted_request_id(text))


class ContextTests(SynchronousTestCase):
    def test_a_coroutine_keeps_it_and_others_do_not_see_it(self) -> None:
        later: Deferred[None] = Deferred()
        seen: list[str | None] = []

        async def work() -> None:
            await later
            seen.append(current_request_id())

        with within("one"):
            ensureDeferred(work())
        with within("two"):
            later.callback(None)
            seen.append(current_request_id())
        self.assertEqual((seen, current_request_id()), (["one", "two"], None))


class Speaker:
    media = TopicLogger(Topic.MEDIA)


class LineTests(SynchronousTestCase):
    def lines(self, line: Any) -> list[str]:
        out = io.StringIO()
        logs = TopicLogs(None, line, out)
        logs.start()
        try:
            with within("r1"):
                Speaker().media.info("file {name}: {size}", name='a"\n', size=3)
            try:
                raise OSError("gone")
            except OSError:
                Speaker().media.failure("it broke")
        finally:
            logs.stop()
        self.assertEqual(len(self.flushLoggedErrors(OSError)), 1)
        return out.getvalue().splitlines()

    def test_json(self) -> None:
        first, second = map(json.loads, self.lines(json_line))
        self.assertRegex(first.pop("time"), r"\A\d{4}-\d\d-\d\dT[\d:.]+Z\Z")
        self.assertEqual(
            first,
            {
                "level": "info",
                "topic": "media",
                "message": 'file a"\n: 3',
                "request_id": "r1",
                "fields": {"name": 'a"\n', "size": 3},
            },
        )
        self.assertIn("OSError: gone", second["traceback"])
        self.assertNotIn("request_id", second)

    def test_text(self) -> None:
        first, second = self.lines(text_line)
        self.assertRegex(first, r' INFO file a"\\n: 3 request=r1$')
        self.assertNotIn("request=", second)

    def test_the_clients_log(self) -> None:
        folder = Path(self.mktemp())
        log, warning = open_log(folder, "json")
        self.assertIsNone(warning)
        log.info("sent %d", 3)
        for handler in log.handlers:
            handler.close()
        line = json.loads((folder / "client.log").read_text())
        self.assertEqual((line["level"], line["message"]), ("info", "sent 3"))


class ProcessTests(SynchronousTestCase):
    def test_a_server_in_a_container_says_all_of_it_in_json_on_standard_output(self) -> None:
        """Twisted's own lines too; all lines of a task have its request's id."""
        root = Path(self.mktemp()).absolute()
        root.mkdir()
        output = root / "output"
        twistd = Path(sys.executable).with_name("twistd")
        options = ["--port=0", "--data-dir=data", "--log-dir=-", "--log-format=json"]
        with output.open("wb") as file:
            server = subprocess.Popen(
                [twistd, "-n", "--pidfile=", "vidproc", *options],
                cwd=root,
                stdout=file,
                stderr=file,
            )
        try:
            found = wait_for(
                lambda: re.search(r"serves tcp 127.0.0.1 port (\d+)", output.read_text()),
                START_TIMEOUT,
                lambda: server.poll() is None,
            )
            client = PlainClient(int(found[1]))
            answer = client.upload(FRIDAY, "extract_audio", {})
            client.wait(answer["task_id"])
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(60)
        lines = [json.loads(line) for line in output.read_text().splitlines()]
        self.assertLessEqual({"time", "level", "message"}, set.intersection(*map(set, lines)))
        messages = [line["message"] for line in lines]
        self.assertEqual(len([text for text in messages if "serves tcp" in text]), 1, messages)
        self.assertTrue([line for line in lines if "topic" not in line])
        ids = {
            line.get("request_id")
            for line in lines
            if line.get("fields", {}).get("task_id") == answer["task_id"]
        }
        self.assertEqual(len(ids), 1)
        self.assertRegex(ids.pop() or "", r"\A[0-9a-f]{16}\Z")
        self.assertFalse((root / "logs").exists())
