"""MMP's framing: any bytes, split in any way, become the right events."""

import re
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from vidproc.mmp.codec import (
    HEADER_SIZE,
    MAX_JSON_SIZE,
    MAX_MEDIA_TYPE_SIZE,
    MAX_PAYLOAD_SIZE,
    NEED_DATA,
    Decoder,
    Event,
    MessageEnded,
    MessageStarted,
    PayloadChunk,
    encode_head,
)
from vidproc.mmp.errors import LocalProtocolError, RemoteProtocolError
from vidproc.mmp.messages import Upload, parse_request

PROPERTY = settings(max_examples=150, deadline=None, derandomize=True, database=None)

MAX_HEAD = HEADER_SIZE + MAX_JSON_SIZE + MAX_MEDIA_TYPE_SIZE

Message = tuple[bytes, str, bytes]
"""JSON, media type and payload."""


def encode(message: Message) -> bytes:
    json, media_type, payload = message
    return encode_head(json, media_type, len(payload)) + payload


def drain(decoder: Decoder) -> list[Event]:
    """Return all events that are available now."""
    events: list[Event] = []
    while (event := decoder.next_event()) is not NEED_DATA:
        assert isinstance(event, MessageStarted | PayloadChunk | MessageEnded)
        events.append(event)
    return events


def feed(decoder: Decoder, pieces: Iterable[bytes]) -> list[Event]:
    events = []
    for piece in pieces:
        decoder.receive_data(piece)
        events += drain(decoder)
    return events


def collect(events: Iterable[Event]) -> list[Message]:
    """Return the messages in `events`. Fails if their order or number is wrong."""
    messages: list[Message] = []
    started: MessageStarted | None = None
    payload = b""
    for event in events:
        if isinstance(event, MessageStarted):
            assert started is None
            started, payload = event, b""
        elif isinstance(event, PayloadChunk):
            assert started is not None and len(event.data) > 0
            payload += event.data
        else:
            assert started is not None and len(payload) == started.payload_size
            messages.append((started.json, started.media_type, payload))
            started = None
    assert started is None
    return messages


def split(data: bytes, cuts: Iterable[int]) -> list[bytes]:
    marks = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[a:b] for a, b in pairwise(marks)]


json_objects = st.one_of(
    st.sampled_from([b"", b"{}", b'{"action":"info"}', b' \r\n\t{ "a": {"b": [1, "}"]}}']),
    st.text(max_size=200).map(lambda text: b'{"k":"' + text.encode().hex().encode() + b'"}'),
)
messages = st.tuples(
    json_objects,
    st.one_of(st.sampled_from(["", "mp4", "mkv"]), st.text(max_size=60)),
    st.binary(max_size=300),
)
cuts = st.lists(st.integers(0, 10_000), max_size=30)

UPLOAD: Message = (b'{"action":"upload","type":"compress"}', "mp4", bytes(range(256)) * 8)
STATUS: Message = (b'{"action":"status","task_id":"x"}', "", b"")
ONLY_PAYLOAD: Message = (b"", "", b"abc")
EMPTY: Message = (b"", "", b"")
SAMPLE = [UPLOAD, STATUS, EMPTY, ONLY_PAYLOAD, (b"{}", "", b"x"), (b"", "mp4", b""), UPLOAD]


class DecoderTests(SynchronousTestCase):
    def test_a_whole_message(self) -> None:
        decoder = Decoder()
        events = feed(decoder, [encode(UPLOAD)])
        json, media_type, payload = UPLOAD
        self.assertEqual(events[0], MessageStarted(json, media_type, len(payload)))
        self.assertEqual(collect(events), [UPLOAD])
        self.assertTrue(decoder.idle)
        decoder.receive_eof()

    def test_the_layout_of_the_header(self) -> None:
        head = encode_head(b"{}", "mp4", 0x0102030405)
        self.assertEqual(head, bytes.fromhex("0002 03 0102030405") + b"{}mp4")
        self.assertEqual(feed(Decoder(), [head]), [MessageStarted(b"{}", "mp4", 0x0102030405)])

    def test_byte_by_byte(self) -> None:
        for message in SAMPLE:
            pieces = [bytes([byte]) for byte in encode(message)]
            self.assertEqual(collect(feed(Decoder(), pieces)), [message])

    def test_many_messages_in_one_piece(self) -> None:
        data = b"".join(map(encode, SAMPLE))
        self.assertEqual(collect(feed(Decoder(), [data])), SAMPLE)

    def test_every_split_in_two(self) -> None:
        data = b"".join(map(encode, [STATUS, (b"{}", "mkv", b"0123456789"), EMPTY]))
        whole = collect(feed(Decoder(), [data]))
        for cut in range(len(data) + 1):
            self.assertEqual(collect(feed(Decoder(), [data[:cut], data[cut:]])), whole, cut)

    def test_trailing_data_stays_for_the_next_message(self) -> None:
        decoder = Decoder()
        second = encode(STATUS)
        events = feed(decoder, [encode(UPLOAD) + second[:11]])
        self.assertEqual(collect(events), [UPLOAD])
        self.assertEqual(decoder.buffered, 11)
        self.assertFalse(decoder.idle)
        self.assertEqual(collect(feed(decoder, [second[11:]])), [STATUS])

    def test_events_wait_until_they_are_asked_for(self) -> None:
        decoder = Decoder()
        decoder.receive_data(encode(UPLOAD) + encode(STATUS))
        self.assertIsInstance(decoder.next_event(), MessageStarted)
        self.assertEqual(decoder.payload_remaining, len(UPLOAD[2]))
        self.assertIsInstance(decoder.next_event(), PayloadChunk)
        self.assertEqual(decoder.payload_remaining, 0)
        # More bytes may arrive in between; nothing is lost.
        decoder.receive_data(encode(STATUS))
        self.assertIsInstance(decoder.next_event(), MessageEnded)
        self.assertEqual(collect(drain(decoder)), [STATUS, STATUS])

    def test_no_data_changes_nothing(self) -> None:
        decoder = Decoder()
        self.assertEqual(feed(decoder, [b"", b""]), [])
        self.assertTrue(decoder.idle)
        data = encode(UPLOAD)
        self.assertEqual(
            collect(feed(decoder, [data[:9], b"", data[9:60], b"", data[60:]])), [UPLOAD]
        )

    def test_the_largest_head(self) -> None:
        json = b'{"k":"' + b"x" * (MAX_JSON_SIZE - 8) + b'"}'
        message = (json, "t" * MAX_MEDIA_TYPE_SIZE, b"p")
        self.assertEqual(len(encode(message)), MAX_HEAD + 1)
        self.assertEqual(collect(feed(Decoder(), [encode(message)])), [message])

    def test_the_largest_payload_is_announced(self) -> None:
        decoder = Decoder()
        feed(decoder, [encode_head(b"{}", "", MAX_PAYLOAD_SIZE)])
        self.assertEqual(decoder.payload_remaining, (1 << 40) - 1)

    @PROPERTY
    @given(st.lists(messages, max_size=6), cuts)
    def test_any_split_gives_the_same_messages(self, sent: list[Message], at: list[int]) -> None:
        decoder = Decoder()
        events = feed(decoder, split(b"".join(map(encode, sent)), at))
        self.assertEqual(collect(events), sent)
        self.assertTrue(decoder.idle)

    @PROPERTY
    @given(st.lists(messages, min_size=1, max_size=4), cuts, st.integers(1, 10_000))
    def test_an_end_in_the_middle_is_an_error(
        self, sent: list[Message], at: list[int], missing: int
    ) -> None:
        last = encode(sent[-1])
        missing = 1 + missing % (len(last) - 1)
        decoder = Decoder()
        data = b"".join(map(encode, sent))[:-missing]
        feed(decoder, split(data, at))
        self.assertRaises(RemoteProtocolError, decoder.receive_eof)

    def test_where_the_stream_ended(self) -> None:
        for size, part in [(3, "head"), (20, "head"), (100, "payload")]:
            decoder = Decoder()
            feed(decoder, [encode(UPLOAD)[:size]])
            error = self.assertRaises(RemoteProtocolError, decoder.receive_eof)
            self.assertIn(part, str(error))


class MemoryTests(SynchronousTestCase):
    """A payload is passed on; it is neither collected nor copied."""

    def test_chunks_are_the_very_objects_that_came_in(self) -> None:
        decoder = Decoder()
        feed(decoder, [encode_head(b"{}", "mp4", 1 << 30)])
        for _ in range(4):
            piece = bytes(64 << 10)
            (event,) = feed(decoder, [piece])
            assert isinstance(event, PayloadChunk)
            self.assertIs(event.data, piece)
            self.assertEqual(decoder.buffered, 0)

    def test_a_chunk_beside_a_head_is_a_view(self) -> None:
        data = encode(UPLOAD)
        _, chunk, _ = feed(Decoder(), [data])
        assert isinstance(chunk, PayloadChunk) and isinstance(chunk.data, memoryview)
        self.assertIs(chunk.data.obj, data)

    def test_a_finished_payload_is_let_go(self) -> None:
        decoder = Decoder()
        feed(decoder, [encode_head(b"", "", 1 << 20), bytes(1 << 20)])
        self.assertEqual(decoder._buffer, b"")

    @PROPERTY
    @given(st.lists(messages, max_size=5), cuts)
    def test_what_is_held_is_less_than_a_head(self, sent: list[Message], at: list[int]) -> None:
        decoder = Decoder()
        for piece in split(b"".join(map(encode, sent)), at):
            feed(decoder, [piece])
            self.assertLess(decoder.buffered, MAX_HEAD)
            if decoder.payload_remaining:
                self.assertEqual(decoder.buffered, 0)


class ForeignBytesTests(SynchronousTestCase):
    """Bytes that are not MMP are detected at the first impossible byte."""

    def refused_at(self, data: bytes) -> int:
        """Return how many bytes it took."""
        decoder = Decoder()
        for count, byte in enumerate(data, 1):
            decoder.receive_data(bytes([byte]))
            try:
                drain(decoder)
            except RemoteProtocolError:
                return count
        raise self.failureException(f"{data[:20]!r} was not refused")

    def test_other_protocols(self) -> None:
        hello = bytes.fromhex("16030102000100 01fc 0303") + bytes(500)
        for data, count in [
            (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", 9),
            (b"POST /upload HTTP/1.1\r\n", 9),
            (b"HEAD / HTTP/1.0\r\n\r\n", 9),
            # "PUT /abc" fills the header, and a space may precede an object, but an H can't.
            (b"PUT /abc HTTP/1.1\r\n", 10),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 9),
            (b"SSH-2.0-OpenSSH_9.6\r\n", 9),
            (hello, 9),
            (b"EHLO example.org\r\n", 9),
            (b"PROXY TCP4 127.0.0.1 127.0.0.1 1 2\r\n", 9),
            (b'{"action":"info"}', 9),
            (b"\xff" * 64, 9),
        ]:
            self.assertEqual(self.refused_at(data), count, data[:20])

    def test_a_tls_hello_of_any_length(self) -> None:
        for low in range(256):
            hello = bytes.fromhex("1603010200010001") + bytes([low]) + b"\x03\x03"
            self.assertLessEqual(self.refused_at(hello), 10, low)

    def test_it_does_not_wait_for_the_rest_of_the_promised_json(self) -> None:
        decoder = Decoder()
        decoder.receive_data(b"\xff\xff\x00\x00\x00\x00\x00\x00[")
        self.assertRaises(RemoteProtocolError, decoder.next_event)

    def test_a_json_that_starts_no_object(self) -> None:
        for json in [
            b"[1]",
            b'"x"',
            b"null",
            b"17",
            b"{1:2}",
            b"{]",
            b"{{",
            b" \n x",
            b"\xef\xbb\xbf{}",
        ]:
            decoder = Decoder()
            decoder.receive_data(encode_head(json))
            self.assertRaises(RemoteProtocolError, decoder.next_event)

    def test_a_media_type_that_is_not_utf8(self) -> None:
        decoder = Decoder()
        decoder.receive_data(b"\x00\x00\x02\x00\x00\x00\x00\x00\xff\xfe")
        self.assertRaises(RemoteProtocolError, decoder.next_event)

    def test_a_payload_is_never_looked_into(self) -> None:
        for payload in [b"GET / HTTP/1.1\r\n", b"\xff" * 100, b"[" * 100]:
            message = (b"{}", "", payload)
            self.assertEqual(collect(feed(Decoder(), [encode(message)])), [message])

    def test_after_an_error_it_stays_broken(self) -> None:
        decoder = Decoder()
        decoder.receive_data(b"GET / HTTP/1.1\r\n")
        self.assertRaises(RemoteProtocolError, decoder.next_event)
        for _ in range(3):
            decoder.receive_data(encode(STATUS))
            self.assertEqual(decoder.buffered, 0)
            self.assertRaises(RemoteProtocolError, decoder.next_event)
        self.assertFalse(decoder.idle)
        decoder.receive_eof()  # the error was raised before

    @PROPERTY
    @given(
        st.one_of(
            st.binary(max_size=400),
            st.binary(max_size=8).map(lambda head: head.ljust(8, b"\0") + b'{"a":1}'),
            st.tuples(messages, st.binary(max_size=40)).map(lambda t: encode(t[0]) + t[1]),
        ),
        cuts,
    )
    def test_any_bytes_are_events_or_a_remote_protocol_error(
        self, data: bytes, at: list[int]
    ) -> None:
        decoder = Decoder()
        pieces = split(data, at)
        for number, piece in enumerate(pieces):
            try:
                feed(decoder, [piece])
            except RemoteProtocolError:
                for later in pieces[number + 1 :]:
                    decoder.receive_data(later)
                    self.assertRaises(RemoteProtocolError, decoder.next_event)
                return
        try:
            decoder.receive_eof()
        except RemoteProtocolError:
            self.assertFalse(decoder.idle)
        else:
            self.assertTrue(decoder.idle)

    @PROPERTY
    @given(st.binary(min_size=1, max_size=200), cuts)
    def test_how_bytes_are_split_does_not_matter_to_errors(
        self, data: bytes, at: list[int]
    ) -> None:
        def outcome(pieces: list[bytes]) -> tuple[list[object], bool]:
            decoder = Decoder()
            seen: list[object] = []
            payload = b""
            broken = False
            try:
                for piece in pieces:
                    decoder.receive_data(piece)
                    while (event := decoder.next_event()) is not NEED_DATA:
                        if isinstance(event, PayloadChunk):
                            payload += event.data
                        else:
                            seen.append(event)
            except RemoteProtocolError:
                broken = True
            return [*seen, payload], broken

        self.assertEqual(outcome(split(data, at)), outcome([data]))


class EncodeHeadTests(SynchronousTestCase):
    def test_the_limits(self) -> None:
        encode_head(b"x" * MAX_JSON_SIZE, "x" * MAX_MEDIA_TYPE_SIZE, MAX_PAYLOAD_SIZE)
        for json, media_type, payload_size in [
            (b"x" * (MAX_JSON_SIZE + 1), "", 0),
            (b"", "x" * (MAX_MEDIA_TYPE_SIZE + 1), 0),
            (b"", "é" * 128, 0),
            (b"", "", MAX_PAYLOAD_SIZE + 1),
            (b"", "", -1),
        ]:
            self.assertRaises(LocalProtocolError, encode_head, json, media_type, payload_size)

    def test_the_sizes_of_the_specification(self) -> None:
        self.assertEqual(MAX_JSON_SIZE, 65_535)
        self.assertEqual(MAX_MEDIA_TYPE_SIZE, 255)
        self.assertEqual(MAX_PAYLOAD_SIZE, 2**40 - 1)

    def test_the_media_type_is_counted_in_bytes(self) -> None:
        self.assertEqual(encode_head(b"", "é")[2], 2)


class DocumentedBytesTests(SynchronousTestCase):
    """The hexadecimal examples of docs/mmp.md are right."""

    def test_examples(self) -> None:
        text = (Path(__file__).parents[1] / "docs" / "mmp.md").read_text(encoding="utf-8")
        blocks = re.findall(r"^```hex\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
        self.assertGreaterEqual(len(blocks), 4)
        requests = 0
        for block in blocks:
            data = bytes.fromhex("".join(line.split("#")[0] for line in block.splitlines()))
            for json, media_type, payload in collect(feed(Decoder(), [data])):
                self.assertTrue(json)
                if b'"action"' in json:
                    requests += 1
                    request = parse_request(json)
                    self.assertEqual(isinstance(request, Upload), bool(media_type and payload))
            # The text next to the bytes of a line is what they mean.
            for line in block.splitlines():
                digits, _, said = line.partition("#")
                quoted = re.search(r"`(.*)`", said)
                if quoted:
                    self.assertEqual(bytes.fromhex(digits).decode(), quoted[1])
        self.assertGreaterEqual(requests, 2)
