"""Which requests the HTTP frontend serves: hosts, origins, and clients behind proxies."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.http_rig import Response
from tests.test_http_connection import GIF, HTTPTestCase
from vidproc.frontends.http.browsers import Hosts, Origins
from vidproc.frontends.http.options import network
from vidproc.frontends.http.problems import HTTPError
from vidproc.frontends.http.proxies import TrustedProxies, read_address

PAGE = "https://app.example"


class HostTests(SynchronousTestCase):
    def status(self, hosts: Hosts, host: str) -> int:
        try:
            hosts.require(host)
        except HTTPError as error:
            return error.status
        return 200

    def test_addresses_and_localhost_are_served(self) -> None:
        """With or without a port. Other names are not, except those that the operator gives."""
        hosts = Hosts(["video.example"])
        for host in (
            "localhost",
            "LOCALHOST:9980",
            "localhost.",
            "127.0.0.1:9980",
            "192.0.2.7",
            "[::1]:9980",
            "[2001:db8::1]",
            "Video.Example:443",
        ):
            self.assertEqual(self.status(hosts, host), 200, host)
        for host in ("evil.example", "localhost.evil.example", "127.0.0.1.nip.io", "notlocalhost"):
            self.assertEqual(self.status(hosts, host), 421, host)
        for host in ("", ":80", "a b", "a/b", "u@localhost", "[::1", "localhost:x"):
            self.assertEqual(self.status(hosts, host), 400, host)

    def test_any_host_on_request(self) -> None:
        """With an asterisk."""
        self.assertEqual(self.status(Hosts(["*"]), "anything.example"), 200)


class OriginTests(HTTPTestCase):
    http: dict[str, Any] = {"origins": (PAGE,)}

    def test_a_page_elsewhere_is_refused_before_anything_else(self) -> None:
        """Whatever it asks for."""
        for origin in (
            "https://evil.example",
            "null",
            "http://localhost:8080",
            "http://app.example",
            "https://app.example.evil.example",
            "localhost",
        ):
            for method, path in (("GET", "/healthz"), ("POST", GIF), ("OPTIONS", GIF)):
                response = self.client.request(method, path, b"film", Origin=origin)
                self.assert_problem(response, 403)
                self.assertIsNone(response.headers["Access-Control-Allow-Origin"])
        self.assertEqual(self.rig.tasks.uploads.active, 0)

    def test_a_form_elsewhere_that_names_no_origin_is_refused(self) -> None:
        """Another header of browsers reveals it. Links from other sites are allowed."""
        response = self.client.request("POST", GIF, b"film", Sec_Fetch_Site="cross-site")
        self.assert_problem(response, 403)
        for method, path, site in (("GET", "/healthz", "cross-site"), ("POST", GIF, "same-origin")):
            response = self.client.request(method, path, b"film", Sec_Fetch_Site=site)
            self.assertLess(response.status, 300)

    def test_its_own_page_may_use_it(self) -> None:
        """Under whatever name the page was loaded."""
        for host in ("localhost", "localhost:9980", "127.0.0.1:9980", "[::1]:9980"):
            response = self.client.request("GET", "/healthz", Host=host, Origin=f"http://{host}")
            self.assertEqual(response.status, 200)
            self.assertIsNone(response.headers["Access-Control-Allow-Origin"])
        response = self.client.request(
            "GET", "/healthz", Host="localhost", Origin="http://localhost:80"
        )
        self.assertEqual(response.status, 200)

    def test_a_permitted_page_may_read_answers(self) -> None:
        """Even errors, and the headers that it needs."""
        for path, status in (("/healthz", 200), ("/nothing", 404)):
            response = self.client.request("GET", path, Origin=PAGE)
            self.assertEqual(response.status, status)
            self.assertEqual(response.headers["Access-Control-Allow-Origin"], PAGE)
            self.assertEqual(response.headers["Vary"], "Origin")
            exposed = response.headers["Access-Control-Expose-Headers"]
            for name in ("Location", "Upload-Offset", "Vidproc-Task", "ETag", "Retry-After"):
                self.assertIn(name, exposed)

    def test_a_preflight(self) -> None:
        """It needs no token, and lists methods and headers, including those of tus."""
        response = self.client.request(
            "OPTIONS",
            "/api/v1/uploads/x",
            Origin=PAGE,
            Access_Control_Request_Method="PATCH",
            Access_Control_Request_Headers="tus-resumable, upload-offset, content-type",
            Access_Control_Request_Private_Network="true",
        )
        self.assertEqual(response.status, 204)
        self.assertEqual(response.headers["Access-Control-Allow-Origin"], PAGE)
        self.assertIn("PATCH", response.headers["Access-Control-Allow-Methods"])
        self.assertEqual(response.headers["Access-Control-Allow-Private-Network"], "true")
        allowed = response.headers["Access-Control-Allow-Headers"]
        for name in ("Tus-Resumable", "Upload-Offset", "Authorization", "Idempotency-Key"):
            self.assertIn(name, allowed)

    def test_every_answer_is_safe_in_a_browser(self) -> None:
        """No sniffing, no frames, no scripts, no cookies."""
        for path in ("/healthz", "/nothing"):
            headers = self.client.request("GET", path).headers
            self.assertEqual(headers["X-Content-Type-Options"], "nosniff")
            self.assertEqual(headers["X-Frame-Options"], "DENY")
            self.assertIn("default-src 'none'", headers["Content-Security-Policy"])
            self.assertEqual(headers["Cross-Origin-Resource-Policy"], "same-origin")
            self.assertIsNone(headers["Set-Cookie"])

    def test_an_origin_is_compared_as_a_whole(self) -> None:
        """A default port equals no port; schemes that pages can't have are foreign."""
        origins = Origins()
        self.assertFalse(origins.require("https://a.example", "a.example:443"))
        for origin in ("ftp://localhost", "chrome-extension://localhost", "https://a.example:444"):
            self.assertRaises(HTTPError, origins.require, origin, "a.example")


class ProxyTests(HTTPTestCase):
    http: dict[str, Any] = {"trusted_proxies": (network("10.0.0.0/8"),)}

    def submit(self, host: str, forwarded: str) -> Response:
        client = self.rig.http_client(host)
        return client.request("POST", GIF, b"film", X_Forwarded_For=forwarded)

    def test_clients_of_a_trusted_proxy_have_slots_of_their_own(self) -> None:
        """Each has one."""
        self.assertEqual(self.submit("10.0.0.1", "198.51.100.1").status, 201)
        self.assertEqual(self.submit("10.0.0.1", "198.51.100.2").status, 201)
        self.assert_problem(self.submit("10.0.0.2", "198.51.100.1"), 429)

    def test_what_others_say_is_not_believed(self) -> None:
        """Anyone who is not a trusted proxy counts as a client, whatever the headers say."""
        self.assertEqual(self.submit("192.0.2.1", "198.51.100.1").status, 201)
        self.assert_problem(self.submit("192.0.2.1", "198.51.100.2"), 429)

    def test_what_a_client_says_to_a_trusted_proxy_is_not_believed(self) -> None:
        """Only the rightmost entry, which the proxy added, is."""
        self.assertEqual(self.submit("10.0.0.1", "1.1.1.1, 198.51.100.1").status, 201)
        self.assert_problem(self.submit("10.0.0.1", "2.2.2.2, 198.51.100.1, 10.9.9.9"), 429)

    def test_a_trusted_proxy_may_have_many_connections(self) -> None:
        """They belong to many clients."""
        clients = [self.rig.http_client("10.0.0.1") for _ in range(100)]
        self.assertEqual({c.request("GET", "/healthz").status for c in clients}, {200})

    def test_the_scheme_that_a_trusted_proxy_names(self) -> None:
        """Its own page is the one loaded by TLS; headers of others are ignored."""
        for host, origin, status in (
            ("10.0.0.1", "https://localhost", 200),
            ("10.0.0.1", "http://localhost", 403),
            ("192.0.2.1", "http://localhost", 200),
        ):
            client = self.rig.http_client(host)
            response = client.request("GET", "/healthz", Origin=origin, X_Forwarded_Proto="https")
            self.assertEqual(response.status, status)

    def test_the_client_that_proxies_name(self) -> None:
        """The rightmost that is not a trusted proxy; the search ends at malformed entries."""
        proxies = TrustedProxies((network("10.0.0.0/8"), network("fd00::/8")))
        for lines, client in (
            (["198.51.100.1"], "198.51.100.1"),
            (["1.1.1.1, 198.51.100.1 , 10.0.0.3"], "198.51.100.1"),
            (["1.1.1.1", "198.51.100.1", "10.0.0.3"], "198.51.100.1"),
            (["10.0.0.4, 10.0.0.3"], "10.0.0.4"),
            (["198.51.100.1, unknown"], None),
            (["unknown, 10.0.0.3"], "10.0.0.3"),
            (["[2001:db8::1]:4711"], "2001:db8::1"),
            (["2001:db8::1, fd00::1"], "2001:db8::1"),
            (["198.51.100.1:4711"], "198.51.100.1"),
            ([""], None),
            ([], None),
        ):
            self.assertEqual(proxies.client(lines), client, lines)
        self.assertFalse(TrustedProxies().trusts("10.0.0.1"))
        self.assertTrue(proxies.trusts("::ffff:10.0.0.1"))
        self.assertIsNone(read_address("proxy.example"))
