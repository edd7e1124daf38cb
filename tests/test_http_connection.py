"""HTTP connections: what they take and refuse, in which order, and how they end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.http_rig import HTTPClient, HTTPRig, request


class HTTPTestCase(SynchronousTestCase):
    http: dict[str, Any] = {}
    options: dict[str, Any] = {}

    def setUp(self) -> None:
        self.rig = HTTPRig(Path(self.mktemp()), http=self.http, **self.options)
        self.addCleanup(self.rig.close)
        self.client: HTTPClient = self.rig.http_client()

    def assert_problem(self, response: Any, status: int) -> None:
        self.assertEqual(response.status, status)
        self.assertEqual(response.headers["Content-Type"], "application/problem+json")
        problem = response.json
        self.assertEqual(problem["status"], status)
        self.assertEqual(problem["type"], "about:blank")
        for key in ("title", "detail", "solution"):
            self.assertTrue(problem[key], key)


class RequestTests(HTTPTestCase):
    def test_health(self) -> None:
        """A server that answers lives."""
        response = self.client.request("GET", "/healthz")
        self.assertEqual((response.status, response.json), (200, {"status": "ok"}))

    def test_info_is_the_long_form(self) -> None:
        """It has the schema of each parameter."""
        info = self.client.request("GET", "/api/v1/info").json
        self.assertEqual(info["operations"]["gif"]["fps"]["maximum"], 50)

    def test_head_is_served_wherever_get_is(self) -> None:
        """The same head, without the body."""
        got = self.client.request("GET", "/healthz")
        head = self.client.request("HEAD", "/healthz")
        self.assertEqual(head.status, 200)
        self.assertEqual(head.headers["Content-Length"], str(len(got.body)))
        self.assertEqual(head.rest, b"")

    def test_an_unknown_path_is_404(self) -> None:
        """As a problem, with a solution."""
        self.assert_problem(self.client.request("GET", "/nothing"), 404)

    def test_a_method_that_a_path_lacks_is_405(self) -> None:
        """With those that it has."""
        response = self.client.request("DELETE", "/healthz")
        self.assert_problem(response, 405)
        self.assertEqual(response.headers["Allow"], "GET, HEAD, OPTIONS")

    def test_options_tell_the_methods(self) -> None:
        """Without a token or a body."""
        response = self.client.request("OPTIONS", "/healthz")
        self.assertEqual((response.status, response.headers["Allow"]), (204, "GET, HEAD, OPTIONS"))

    def test_pipelined_requests_are_answered_in_order(self) -> None:
        """One at a time, a hundred in one piece of bytes."""
        paths = ["/healthz", "/nothing"] * 50
        self.client.send(b"".join(request("GET", path) for path in paths))
        while self.rig.clock.getDelayedCalls() and len(self.client.transport.value()) < 1 << 20:
            before = self.client.transport.value().count(b"HTTP/1.1 ")
            self.rig.clock.advance(0)
            if self.client.transport.value().count(b"HTTP/1.1 ") == before:
                break
        statuses = [response.status for response in self.client.responses()]
        self.assertEqual(statuses, [200, 404] * 50)
