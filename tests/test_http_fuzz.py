"""Any bytes on an HTTP connection lead to an HTTP answer or to waiting, but not to a fault."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.http_rig import HTTPRig, Response, request
from tests.test_http_connection import GIF
from vidproc.tasks.model import State
from vidproc.tasks.settings import Settings

TUS = {"Tus_Resumable": "1.0.0", "Upload_Length": "8", "Upload_Metadata": "type Z2lm"}
FORM = b"--X\r\nContent-Disposition: form-data; name=file; filename=a\r\n\r\nfilm\r\n--X--\r\n"
VALID = [
    request("GET", "/healthz"),
    request("HEAD", "/api/v1/info"),
    request("OPTIONS", "/api/v1/uploads", Origin="http://localhost"),
    request("POST", GIF, b"film"),
    request("PUT", GIF, Transfer_Encoding="chunked") + b"4;a=b\r\nfilm\r\n0\r\nX: y\r\n\r\n",
    request("POST", f"{GIF}&x=%41", FORM, Content_Type="multipart/form-data; boundary=X"),
    request("POST", "/api/v1/uploads", b"", **TUS),
    request("PATCH", "/api/v1/uploads/x", b"film", Upload_Offset="0", **TUS),
    request("GET", "/api/v1/tasks/x/result", Range="bytes=0-5", If_None_Match='"x"'),
]
SPICE = [
    b"\r\n",
    b"\n",
    b"\x00",
    b"\xff",
    b":",
    b" ",
    b"\t",
    b"%",
    b";",
    b"--X",
    b"0",
    b"9" * 30,
    b",",
]


@st.composite
def mangled(draw: st.DrawFn) -> bytes:
    """Several requests, with bytes replaced, repeated, removed or inserted."""
    data = b"".join(draw(st.lists(st.sampled_from(VALID), min_size=1, max_size=3)))
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.integers(0, 20)))
        part = draw(st.sampled_from([b"", data[start:end] * 2, *SPICE]) | st.binary(max_size=8))
        data = data[:start] + part + data[end:]
    return data


class FuzzTests(SynchronousTestCase):
    @settings(max_examples=100, deadline=None)
    @given(mangled(), st.integers(1, 400), st.booleans())
    def check(self, data: bytes, step: int, closes: bool) -> None:
        client = self.rig.http_client()
        for start in range(0, len(data), step):
            client.send(data[start : start + step])
        if not client.transport.aborted:
            self.assertEqual(client.transport.producerState, "producing")
        if closes:
            client.half_close()
        self.rig.clock.advance(0)
        written = client.written().replace(b"HTTP/1.1 100 Continue\r\n\r\n", b"")
        while written:
            response = self.first(written)
            ours = response.status >= 500 and response.status != 505  # 505: another version
            self.assertFalse(ours, written)
            written = response.rest
        if not client.transport.aborted:
            client.lose()
        self.assertEqual(self.rig.store.in_states([State.UPLOADING]), [])
        self.assertEqual(self.flushLoggedErrors(), [])
        self.assertEqual(self.rig.gate.connections, 0)

    def first(self, data: bytes) -> Response:
        """Return the first answer; that of a HEAD has no body."""
        try:
            response = Response(data)
        except AssertionError:
            return Response(data, head_only=True)
        if response.rest and not response.rest.startswith(b"HTTP/1."):
            return Response(data, head_only=True)
        return response

    def test_any_bytes(self) -> None:
        """No upload is left in progress, and no fault is logged."""
        options: dict[str, Any] = {"settings": Settings(tasks_per_ip=10**6, queue_size=10**6)}
        self.rig = HTTPRig(Path(self.mktemp()), **options)
        self.addCleanup(self.rig.close)
        self.check()
