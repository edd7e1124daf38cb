"""The undocumented parts of twisted.web that the HTTP frontend uses.

If one of these fails with a new Twisted, check `vidproc/frontends/http/parser.py`.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.http import HTTPChannel, Request

HEAD = b"POST /path HTTP/1.1\r\nHost: localhost\r\n"


class Recorder(Request):
    """Records the calls that a streaming request overrides."""

    calls: list[tuple[object, ...]]

    def gotLength(self, length: int | None) -> None:
        self.calls.append(("length", length))

    def handleContentChunk(self, data: bytes) -> None:
        self.calls.append(("data", bytes(data)))

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        self.calls.append(("received", command, path, version))


class ChannelTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.calls: list[tuple[object, ...]] = []
        self.channel = HTTPChannel()
        factory: Any = type("Recording", (Recorder,), {"calls": self.calls})
        self.channel.requestFactory = factory
        self.channel.makeConnection(StringTransport())

    def test_a_request_is_made_at_its_first_line(self) -> None:
        """It is in `requests` while its head arrives."""
        self.channel.dataReceived(HEAD)
        self.assertEqual(len(self.channel.requests), 1)
        self.assertTrue(self.channel.line_mode)
        self.assertEqual(self.channel._buffer, b"")
        self.assertEqual(self.channel._command, b"POST")
        self.assertEqual(self.channel._path, b"/path")
        self.assertEqual(self.channel._version, b"HTTP/1.1")

    def test_a_body_with_a_length(self) -> None:
        """The decoder's `contentLength` is the rest and may be counted down. When it is 0, empty
        data ends the body."""
        self.channel.dataReceived(HEAD + b"Content-Length: 10\r\n\r\nfilm")
        self.assertEqual(self.calls, [("length", 10), ("data", b"film")])
        decoder = self.channel._transferDecoder
        assert decoder is not None
        self.assertEqual(decoder.contentLength, 6)
        self.assertFalse(self.channel.line_mode)
        decoder.contentLength = 0
        self.channel.rawDataReceived(b"")
        self.assertEqual(self.calls[-1], ("received", b"POST", b"/path", b"HTTP/1.1"))

    def test_a_chunked_body(self) -> None:
        """Its `length` is None."""
        self.channel.dataReceived(HEAD + b"Transfer-Encoding: chunked\r\n\r\n4\r\nfilm\r\n")
        self.assertIsNone(self.channel.length)
        self.channel.dataReceived(b"0\r\n\r\n")
        self.assertEqual(
            self.calls,
            [("length", None), ("data", b"film"), ("received", b"POST", b"/path", b"HTTP/1.1")],
        )

    def test_what_is_malformed_goes_one_way(self) -> None:
        """So that one method can answer all of it."""
        refused: list[bool] = []
        self.patch(self.channel, "_respondToBadRequestAndDisconnect", lambda: refused.append(True))
        self.channel.dataReceived(b"nonsense\r\n")
        self.assertEqual(refused, [True])

    def test_reading_is_paused_by_one_object(self) -> None:
        """The connection replaces it with its own."""
        self.channel.dataReceived(HEAD + b"\r\n")
        self.assertTrue(self.channel._handlingRequest)
        self.assertFalse(self.channel._busyReceiving)
        paused: list[bool] = []
        self.patch(self.channel._networkProducer, "pauseProducing", lambda: paused.append(True))
        self.channel.dataReceived(bytes(self.channel._optimisticEagerReadSize + 1))
        self.assertEqual(paused, [True])
