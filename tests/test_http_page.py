"""The page as it is served: its headers, its files, and that it asks for nothing else."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

from tests.http_rig import HTTPRig
from tests.test_http_connection import HTTPTestCase
from vidproc.frontends.http.page.files import page
from vidproc.frontends.tokens import Tokens

STATIC = re.compile(r'static/[0-9a-f]{16}/([\w.-]+)"')
IMPORT = re.compile(r'from "\./([\w.-]+)"')


class PageTests(HTTPTestCase):
    def setUp(self) -> None:
        self.rig = HTTPRig(Path(self.mktemp()), tokens=Tokens({"ada": "a-token-of-ada"}))
        self.addCleanup(self.rig.close)
        self.client = self.rig.http_client()

    def test_the_document(self) -> None:
        """Anybody may have it; it is strict, and asked for again each time."""
        answer = self.client.request("GET", "/")
        self.assertEqual(answer.status, 200)
        self.assertEqual(answer.headers["Content-Type"], "text/html; charset=utf-8")
        self.assertEqual(answer.headers["Cache-Control"], "no-cache")
        policy = answer.headers["Content-Security-Policy"]
        self.assertTrue(
            policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'")
        )
        self.assertNotIn("unsafe", policy)
        self.assertIn("frame-ancestors 'none'", policy)
        again = self.client.request("GET", "/", If_None_Match=answer.headers["ETag"])
        self.assertEqual((again.status, again.body), (304, b""))
        other = self.client.request("GET", "/", If_None_Match='W/"0123456789abcdef"')
        self.assertEqual(other.status, 200)

    def test_its_files(self) -> None:
        """What the document and the modules name is there, in a folder of this version."""
        document = self.client.request("GET", "/").body.decode()
        names = set(STATIC.findall(document))
        self.assertLess({"app.js", "style.css", "tus.min.js"}, names)
        seen: set[str] = set()
        while names - seen:
            name = (names - seen).pop()
            seen.add(name)
            answer = self.client.request("GET", f"/static/{page().version}/{name}")
            self.assertEqual(answer.status, 200, name)
            self.assertIn("immutable", answer.headers["Cache-Control"])
            if name.endswith(".js"):
                names |= set(IMPORT.findall(answer.body.decode()))
        unused = set(page().files) - seen - {"tus-licences.txt"}
        self.assertEqual(unused, set())

    def test_a_proxy_may_put_a_prefix_before_it(self) -> None:
        """No address in the page begins with a slash or names a host."""
        document = page().document.data.decode()
        for reference in re.findall(r'(?:src|href)="([^"]*)"', document):
            self.assertRegex(reference, r"\A(static|api)/")
        self.assertNotIn("VERSION", document)

    def test_compressed(self) -> None:
        """For those who take it."""
        path = f"/static/{page().version}/app.js"
        plain = self.client.request("GET", path)
        packed = self.client.request("GET", path, Accept_Encoding="br, gzip;q=0.8")
        self.assertEqual(packed.headers["Content-Encoding"], "gzip")
        self.assertEqual(gzip.decompress(packed.body), plain.body)
        for header in ("gzip;q=0", "gzip; q=0.0", "br"):
            answer = self.client.request("GET", path, Accept_Encoding=header)
            self.assertNotIn("Content-Encoding", answer.headers, header)

    def test_no_other_file(self) -> None:
        """Neither of another version, nor from outside of the folder."""
        for path in (
            "/static/0000000000000000/app.js",
            f"/static/{page().version}/nothing.js",
            f"/static/{page().version}/..%2findex.html",
            f"/static/{page().version}/%2e%2e",
        ):
            self.assert_problem(self.client.request("GET", path), 404)
