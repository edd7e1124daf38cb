"""Hostile and damaged files on a real server, and what they must not reach.

Each file is sent to every operation, from different addresses. Each task must end within a limited
time, with a result or an error that says what is wrong, and leave neither processes nor damage.
"""

from __future__ import annotations

import atexit
import ctypes
import json
import os
import random
import select
import socket
import struct
import subprocess
import sys
import threading
import time
import uuid
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

import psutil
from twisted.trial.unittest import SkipTest, TestCase

from support.server_process import PlainClient, ServerProcess, receive, send, wait_for
from vidproc.ffmpeg.binary import find_ffmpeg

MEDIA = Path(__file__).parent / "media"
HOSTILE = Path(__file__).parent / "hostile"
FILM = MEDIA / "friday-480p-aac.mp4"

OPERATIONS: dict[str, dict[str, Any]] = {
    "compress": {"preset": "fast"},
    "resolution": {"width": 160, "height": 120},
    "aspect_ratio": {"aspect_ratio": "1:1"},
    "extract_audio": {},
    "gif": {"start_time": 0, "duration": 0.5, "width": 160},
    "webm": {"start_time": 0, "duration": 0.5, "width": 160},
}
QUICK = ("extract_audio", "gif", "webm")
"""The operations for generated files that contain a film; others are slower and no different."""

TASK_TIME = 120.0  # long, because it should catch hangs but not busy machines
SERVER_MEMORY = 150 << 20

_addresses = count(1)


def next_address() -> str:
    """Return an unused address, whose slot and connections are free."""
    return "127.1.{}.{}".format(*divmod(next(_addresses), 250))


@cache
def shared_server() -> ServerProcess:
    """Start the server that all tests use; it ends with the test run."""
    options = ("--max-concurrent=4", "--queue-size=1000")
    server = ServerProcess(Path(f"hostile-server-{os.getpid()}"), *options).start()
    atexit.register(server.stop)
    return server


# --- files that are made here ----------------------------------------------------------------


def box(kind: bytes, *parts: bytes) -> bytes:
    """Return a box of an MP4 file."""
    body = b"".join(parts)
    return struct.pack(">I4s", 8 + len(body), kind) + body


def full_box(kind: bytes, *parts: bytes, flags: int = 0) -> bytes:
    return box(kind, struct.pack(">I", flags), *parts)


EXTERNAL_OFFSET = 100_000
"""The position of the samples in the other file, which is beyond the end of the first file."""


def mp4_with_external_data(url: str) -> bytes:
    """Return an MP4 whose samples are in another file, named by a URL and by an alias."""
    one = 1 << 16
    matrix = struct.pack(">9I", one, 0, 0, 0, one, 0, 0, 0, 1 << 30)
    path = url.removeprefix("file://").encode()
    # One level up from this file, and one down to the other.
    alias = (
        bytes(130)
        + struct.pack(">HH16x", 1, 1)
        + struct.pack(">HH", 2, len(path))
        + path
        + b"\xff\xff\0\0"
    )
    references = full_box(b"url ", url.encode() + b"\0") + full_box(b"alis", alias)
    entry = struct.pack(
        ">6xH16xHHIII H32sHh", 2, 16, 16, 72 << 16, 72 << 16, 0, 1, b"", 24, -1
    )  # the alias
    stbl = box(
        b"stbl",
        full_box(b"stsd", struct.pack(">I", 1), box(b"raw ", entry)),
        full_box(b"stts", struct.pack(">3I", 1, 1, 1)),
        full_box(b"stsc", struct.pack(">4I", 1, 1, 1, 1)),
        full_box(b"stsz", struct.pack(">2I", 16 * 16 * 3, 1)),
        full_box(b"stco", struct.pack(">2I", 1, EXTERNAL_OFFSET)),
    )
    dinf = box(b"dinf", full_box(b"dref", struct.pack(">I", 2), references))
    minf = box(b"minf", full_box(b"vmhd", bytes(8), flags=1), dinf, stbl)
    hdlr = full_box(b"hdlr", b"mhlrvide", bytes(12), b"x\0")
    mdhd = full_box(b"mdhd", struct.pack(">4I4x", 0, 0, 1, 1))
    size = struct.pack(">2I", 16 << 16, 16 << 16)
    tkhd = full_box(b"tkhd", struct.pack(">5I16x", 0, 0, 1, 0, 1), matrix, size, flags=7)
    clock = struct.pack(">4IIH10x", 0, 0, 1, 1, one, 256)
    mvhd = full_box(b"mvhd", clock, matrix, bytes(24), struct.pack(">I", 2))
    trak = box(b"trak", tkhd, box(b"mdia", mdhd, hdlr, minf))
    return box(b"ftyp", b"qt  ", bytes(4), b"qt  ") + box(b"moov", mvhd, trak)


def playlist(*entries: str) -> bytes:
    """Return an HLS playlist with these entries."""
    lines = "".join(f"#EXTINF:10.0,\n{entry}\n" for entry in entries)
    return f"#EXTM3U\n#EXT-X-TARGETDURATION:10\n{lines}#EXT-X-ENDLIST\n".encode()


def concat_script(*entries: str) -> bytes:
    """Return a script for FFmpeg's concat demuxer with these files."""
    return b"ffconcat version 1.0\n" + "".join(f"file {entry}\n" for entry in entries).encode()


def svg(url: str) -> bytes:
    """Return an SVG with an external entity."""
    entity = f'<!DOCTYPE svg [<!ENTITY x SYSTEM "{url}">]>'
    return f'<?xml version="1.0"?>{entity}<svg width="9" height="9"><text>&x;</text></svg>'.encode()


def image_bomb(width: int, height: int) -> bytes:
    """Return a GIF of a few bytes with a frame of that many pixels."""
    return (
        struct.pack("<6sHHBBB", b"GIF89a", width, height, 0x80, 0, 0)
        + bytes(6)
        + struct.pack("<BHHHHBB", 0x2C, 0, 0, width, height, 0, 2)
        + b"\x02\x4c\x01\x00\x3b"
    )


def png(width: int, height: int) -> bytes:
    """Return a PNG that claims that many pixels but contains few."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(bytes(1 << 16)))
    return b"\x89PNG\r\n\x1a\n" + head + body + chunk(b"IEND", b"")


def nested_matroska(depth: int) -> bytes:
    """Return a Matroska file with deeply nested chapters."""
    body = b""
    for _ in range(depth):
        body = b"\xb6" + (len(body) | 1 << 28).to_bytes(4, "big") + body  # ChapterAtom
    edition = b"\x45\xb9" + (len(body) | 1 << 56).to_bytes(8, "big") + body
    chapters = b"\x10\x43\xa7\x70" + (len(edition) | 1 << 56).to_bytes(8, "big") + edition
    head = bytes.fromhex("1a45dfa38f4282886d6174726f736b614287810142858101")
    return head + b"\x18\x53\x80\x67" + (len(chapters) | 1 << 56).to_bytes(8, "big") + chapters


def adts_noise() -> bytes:
    """Return AAC frames with valid headers and random contents."""
    noise = random.Random(5)
    frames = []
    for _ in range(300):
        size = noise.randrange(20, 700)
        head = 0xFFF14C80 << 24 | size << 13 | 0x1FFC
        frames.append(head.to_bytes(7, "big") + noise.randbytes(size - 7))
    return b"".join(frames)


def long_avi() -> bytes:
    """Return a real AVI whose header claims a hundred hours."""
    data = bytearray((MEDIA / "mpeg4asp-mp3.avi").read_bytes())
    start = data.index(b"avih") + 8
    struct.pack_into("<I", data, start + 16, 8_631_000)
    for _ in range(2):
        start = data.index(b"strh", start) + 8
        struct.pack_into("<I", data, start + 32, 8_631_000)
    return bytes(data)


def damaged(damage: Callable[[bytearray, random.Random], None]) -> bytes:
    """Return a real film, damaged."""
    data = bytearray(FILM.read_bytes())
    damage(data, random.Random(7))
    return bytes(data)


def flip_bits(data: bytearray, chance: random.Random) -> None:
    start = data.index(b"moov")
    size = int.from_bytes(data[start - 4 : start], "big")
    for _ in range(60):
        data[start + 4 + chance.randrange(size - 8)] ^= 1 << chance.randrange(8)


def claim_4g_samples(data: bytearray, _: random.Random) -> None:
    start = data.index(b"stsz") + 12
    data[start : start + 4] = b"\xff\xff\xff\xff"


def noise_in_pictures(data: bytearray, chance: random.Random) -> None:
    start = data.index(b"mdat") + 50_000
    data[start : start + 4000] = chance.randbytes(4000)


def cut(data: bytearray, _: random.Random) -> None:
    del data[len(data) * 6 // 10 :]


MADE: dict[str, Callable[[], bytes]] = {
    "self-reference.mp4": lambda: playlist("input.mp4", "file:input.mp4", "../inputs"),
    "hls-nested.m3u8": lambda: playlist("/dev/zero", "concat:/etc/passwd|/etc/hostname"),
    "subtitles.m3u8": lambda: b'#EXTM3U\n#EXT-X-MEDIA:TYPE=SUBTITLES,URI="/etc/passwd"\n',
    "concat.mkv": lambda: concat_script("/etc/passwd", "../../etc/passwd"),
    "dash.mp4": lambda: (
        b'<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period>'
        b'<AdaptationSet><Representation id="1" bandwidth="1"><BaseURL>file:///etc/passwd</BaseURL>'
        b"</Representation></AdaptationSet></Period></MPD>"
    ),
    "entity.mp4": lambda: svg("file:///etc/passwd"),
    "session.mp4": lambda: (
        b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\n"
        b"m=video 9 RTP/AVP 96\na=rtpmap:96 H264/90000\n"
    ),
    "external-data.mov": lambda: mp4_with_external_data("file:///etc/passwd"),
    "gif-15000.gif": lambda: image_bomb(15000, 15000),
    "png-60000.mp4": lambda: png(60000, 60000),
    "png-10000.mp4": lambda: png(10000, 10000),
    "adts-noise.aac": adts_noise,
    "zeros.mp4": lambda: bytes(1 << 20),
    "nested.mkv": lambda: nested_matroska(20_000),
    "hundred-hours.avi": long_avi,
    "bitflips.mp4": lambda: damaged(flip_bits),
    "4g-samples.mp4": lambda: damaged(claim_4g_samples),
    "noise.mp4": lambda: damaged(noise_in_pictures),
    "cut.mp4": lambda: damaged(cut),
}


# --- witnesses -------------------------------------------------------------------------------


@contextmanager
def watched(*paths: Path) -> Iterator[Callable[[], list[str]]]:
    """Watch files with inotify. The value returns the names of those that were opened."""
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "inotify_init1"):
        raise SkipTest("needs inotify")
    fd = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    opened_or_read = 0x20 | 0x01
    names = {libc.inotify_add_watch(fd, os.fsencode(p), opened_or_read): str(p) for p in paths}
    if fd < 0 or -1 in names:
        raise SkipTest("inotify does not work here")

    def seen() -> list[str]:
        found = []
        while select.select([fd], [], [], 0)[0]:
            events = os.read(fd, 65536)
            while events:
                watch, _, _, size = struct.unpack_from("iIII", events)
                found.append(names[watch])
                events = events[16 + size :]
        return sorted(set(found))

    try:
        yield seen
    finally:
        os.close(fd)


class Listener:
    """A socket on this machine that nothing should connect to."""

    def __init__(self) -> None:
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self.heard = 0
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            self.heard += 1
            connection.close()

    def close(self) -> None:
        self.socket.close()


class HostileTestCase(TestCase):
    _seen = 0
    """Characters of the shared server's output that tests have looked through."""

    def setUp(self) -> None:
        self.server = shared_server()
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir(parents=True)

    def send(
        self, data: bytes, kind: str, operation: str, parameters: dict[str, Any]
    ) -> tuple[dict[str, Any], float]:
        """Send a file to an operation; return the detailed outcome, and the seconds."""
        client = PlainClient(self.server.port, next_address())
        start = time.monotonic()
        request: dict[str, Any] = {"action": "upload", "type": operation, "parameters": parameters}
        answer = client.request(request, data, kind)[0]
        if "error" in answer:
            error = answer["error"]
            answer = {"status": "refused", "error_code": error["code"]}
            answer |= {"error": error["description"], "solution": error["solution"]}
            return answer, time.monotonic() - start
        with client.connect() as connection:
            request = {"action": "watch", "task_id": answer["task_id"], "interval": 60}
            send(connection, request)
            connection.settimeout(2 * TASK_TIME)
            while (status := receive(connection)[0])["status"] in ("queued", "processing"):
                pass
        elapsed = time.monotonic() - start
        detail = client.status(answer["task_id"], detail=True)
        self.assertEqual(detail["status"], status["status"])
        if status["status"] == "completed":
            head, _, payload = client.download(answer["task_id"])
            self.assertEqual((head["size"], len(payload) > 0), (len(payload), True))
            detail["payload"] = payload
        client.request({"action": "cancel", "task_id": answer["task_id"]})
        return detail, elapsed

    def send_all(
        self, files: dict[str, bytes], operations: tuple[str, ...]
    ) -> dict[tuple[str, str], tuple[dict[str, Any], float]]:
        """Send files to operations in parallel; return the outcome of each pair."""
        pairs = [(name, operation) for name in files for operation in operations]
        with ThreadPoolExecutor(4) as threads:
            ended = threads.map(
                lambda pair: self.send(
                    files[pair[0]], Path(pair[0]).suffix[1:], pair[1], OPERATIONS[pair[1]]
                ),
                pairs,
            )
            return dict(zip(pairs, ended, strict=True))

    def problems(self, ended: dict[Any, tuple[dict[str, Any], float]]) -> list[str]:
        """Return what is wrong with how tasks ended."""
        found = []
        for what, (status, elapsed) in ended.items():
            shown = {k: v for k, v in status.items() if k != "payload"}
            if elapsed > TASK_TIME:
                found.append(f"{what} took {elapsed:.1f} s")
            if str(self.server.root) in json.dumps(shown):
                found.append(f"{what} tells a path of the server: {shown}")
            if status["status"] == "completed":
                continue
            if status["error_code"] not in (413, 415, 422):
                found.append(f"{what}: {shown}")
            if not (status["error"] or "").strip().endswith(".") or not status["solution"]:
                found.append(f"{what} has no sentence: {shown}")
        return found

    def assertServerIsWell(self) -> None:
        """The server answers, uses little memory, and has no child or file of these tasks."""
        client = PlainClient(self.server.port, next_address())
        load = client.request({"action": "info", "detail": True})[0]["load"]
        self.assertEqual((load["queued"], load["running"]), (0, 0))
        self.assertEqual(self.server.commands_at_work(), [])
        self.assertEqual(self.server.files(), [])
        self.assertLess(psutil.Process(self.server.pid).memory_info().rss, SERVER_MEMORY)
        self.assertNotIn("Traceback", self.new_output())

    def new_output(self) -> str:
        """Return what the server has written since the last call, so that a fault fails one test
        and not all that follow."""
        output = (self.server.root / "output.txt").read_text()
        start, HostileTestCase._seen = HostileTestCase._seen, len(output)
        return output[start:]


class HostileFileTests(HostileTestCase):
    """One test per file, with all operations in parallel; see the end of this module."""

    def go_through(self, name: str, data: bytes, operations: tuple[str, ...]) -> None:
        ended = self.send_all({name: data}, operations)
        self.assertEqual(self.problems(ended), [])
        self.assertServerIsWell()

    def test_an_attachment_is_not_written_to_the_path_that_it_names(self) -> None:
        """It names a path outside, which stays empty."""
        place = Path("/tmp/pwned-attachment.txt")
        if place.exists():
            raise SkipTest(f"{place} is there already")
        self.send((HOSTILE / "attachment-traversal.mkv").read_bytes(), "mkv", "extract_audio", {})
        self.assertFalse(place.exists())

    def test_tags_reach_neither_a_shell_nor_the_log_as_lines(self) -> None:
        """Nothing is run, and every line of the logs is ours."""
        self.send((HOSTILE / "metadata-injection.mp4").read_bytes(), "mp4", "extract_audio", {})
        self.assertFalse(Path("/tmp/pwned").exists())
        for name in ("server.log", "video_processor.log"):
            for line in self.server.log(name).splitlines():
                self.assertRegex(line, r"^\d{4}-\d\d-\d\dT.{12,14}Z [A-Z]+ ")


class CanaryTests(HostileTestCase):
    """Files that name other files and addresses; inotify reports whether these are opened."""

    def lures(self, target: Path, relative: str) -> dict[str, bytes]:
        """Return files that name `target`, by absolute and by relative paths."""
        return {
            "hls-path.mp4": playlist(str(target)),
            "hls-url.mp4": playlist(f"file://{target}"),
            "hls-relative.mp4": playlist(relative),
            "hls-map.mp4": playlist(relative).replace(
                b"#EXTINF", b'#EXT-X-MAP:URI="%s"\n#EXTINF' % str(target).encode()
            ),
            "hls-sub.mp4": playlist(f"subfile,,start,0,end,64,,:{target}"),
            "concat-path.mkv": concat_script(str(target)),
            "concat-relative.mkv": concat_script(relative),
            "concat-url.mp4": concat_script(f"'file:{target}'"),
            "external-url.mov": mp4_with_external_data(f"file://{target}"),
            "external-relative.mov": mp4_with_external_data(relative),
            "entity.mp4": svg(str(target)),
        }

    def assertNothingLeaks(self, secret: bytes, lures: dict[str, bytes], *targets: Path) -> None:
        """No lure gets the secret, in a result or a message, and no target is opened."""
        with watched(*targets) as opened:
            ended = self.send_all(lures, ("webm", "extract_audio"))
            self.assertEqual(opened(), [])
        for what, (status, _) in ended.items():
            self.assertNotEqual(status["status"], "completed", what)
            self.assertNotIn(secret, json.dumps(status).encode(), what)
        self.assertEqual(self.problems(ended), [])

    def test_the_watch_on_a_file_sees_an_open(self) -> None:
        """Otherwise the tests of this class would prove nothing."""
        canary = self.folder / "canary"
        canary.write_text("x")
        with watched(canary) as opened:
            self.assertEqual(opened(), [])
            canary.read_text()
            self.assertEqual(opened(), [str(canary)])

    def test_an_ffmpeg_that_nothing_holds_does_follow_them(self) -> None:
        """Otherwise the lures would not work at all."""
        target = self.folder / "target"
        target.write_bytes(b"CANARY" * 50_000)
        lures = self.lures(target, "target")
        for name, options in (
            ("hls-path.mp4", "-f hls -extension_picky 0 -allowed_extensions ALL"),
            ("hls-relative.mp4", "-f hls -extension_picky 0 -allowed_extensions ALL"),
            ("concat-path.mkv", "-f concat -safe 0"),
            ("concat-relative.mkv", "-f concat"),
        ):
            lure = self.folder / name
            lure.write_bytes(lures[name])
            argv = [find_ffmpeg().path, "-nostdin", *options.split(), "-i", str(lure)]
            with watched(target) as opened:
                done = subprocess.run([*argv, "-f", "null", "-"], capture_output=True, timeout=120)
                self.assertEqual(opened(), [str(target)], done.stderr.decode())

    def test_a_file_of_this_machine_stays_closed(self) -> None:
        """However it is named: by a path, a URL, or relative to the input."""
        canary = self.folder / "canary.mp4"
        secret = os.urandom(16).hex().encode()
        canary.write_bytes(secret * 10_000)
        inputs = self.server.data_dir / "inputs"
        self.assertNothingLeaks(secret, self.lures(canary, os.path.relpath(canary, inputs)), canary)

    def test_another_task_keeps_its_input_and_its_result_to_itself(self) -> None:
        """A playlist that names them gets nothing, although they are playable films."""
        owner = PlainClient(self.server.port, next_address())

        def upload(operation: str, parameters: dict[str, Any]) -> str:
            task_id: str = owner.upload(FILM, operation, parameters)["task_id"]
            self.addCleanup(owner.request, {"action": "cancel", "task_id": task_id})
            return task_id

        done = upload("gif", OPERATIONS["gif"])
        owner.wait(done)
        running = upload("webm", {"start_time": 0, "duration": 6, "quality": 4})
        result = self.server.data_dir / "results" / f"{done}.gif"
        source = self.server.data_dir / "inputs" / running
        part = self.send_part()
        # The owner's own attempt opens its input before it encodes.
        owner.wait_for_stage(running, "encoding")
        lures = {f"result-{k}": v for k, v in self.lures(result, f"../results/{done}.gif").items()}
        lures |= {f"input-{k}": v for k, v in self.lures(source, running).items()}
        lures |= {f"part-{k}": v for k, v in self.lures(part, f"../uploads/{part.name}").items()}
        lures = {k: v for k, v in lures.items() if "-path" not in k and "entity" not in k}
        self.assertNothingLeaks(b"GIF89a", lures, result, part)

    def send_part(self) -> Path:
        """Leave an interrupted upload; return its file."""
        client = PlainClient(self.server.port, next_address())
        request: dict[str, Any] = {"action": "upload", "type": "extract_audio", "parameters": {}}
        request |= {"upload_id": str(uuid.uuid4()), "size": 1 << 20}
        answer = client.request(request, FILM.read_bytes()[:200_000], "mp4")[0]
        self.assertEqual(answer["status"], "partial", answer)
        (part,) = (self.server.data_dir / "uploads").iterdir()
        self.addCleanup(part.unlink)
        return part

    def test_a_listening_socket_of_this_machine_hears_nothing(self) -> None:
        """However it is named."""
        listener = Listener()
        self.addCleanup(listener.close)
        here = f"127.0.0.1:{listener.port}"
        lures = {
            "http.mp4": playlist(f"http://{here}/film.ts"),
            "tcp.mp4": playlist(f"tcp://{here}"),
            "hls.mp4": playlist(f"hls+http://{here}/more.m3u8"),
            "cache.mp4": playlist(f"cache:http://{here}/film.mp4"),
            "async.mkv": concat_script(f"async:tcp://{here}"),
            "concat.mkv": concat_script(f"http://{here}/film.mp4", f"rtmp://{here}/film"),
            "rtsp.mp4": concat_script(f"rtsp://{here}/film"),
            "external.mov": mp4_with_external_data(f"http://{here}/film.mov"),
            "entity.mp4": svg(f"http://{here}/x"),
            "session.mp4": b"v=0\nc=IN IP4 127.0.0.1\nm=video %d RTP/AVP 96\n" % listener.port,
        }
        ended = self.send_all(lures, ("webm",))
        self.assertEqual(self.problems(ended), [])
        self.assertEqual({s["status"] for s, _ in ended.values()}, {"failed"})
        self.assertEqual(listener.heard, 0)
        with socket.create_connection(("127.0.0.1", listener.port)):
            wait_for(lambda: listener.heard == 1)

    def test_what_everybodys_playlist_names_stays_closed(self) -> None:
        """They name /etc/passwd, which any program may open at any time: a file of ours, whose
        path is as long, stands in for it."""
        stand_in = Path("/tmp", os.urandom(3).hex())
        with stand_in.open("x") as file:
            self.addCleanup(stand_in.unlink)
            file.write("root:x:0:0:root:/root:/bin/sh\n" * 1000)
        files = {p.name: p.read_bytes() for p in HOSTILE.glob("hls-*")}
        files |= {name: make() for name, make in MADE.items()}
        lures = {
            name: data.replace(b"/etc/passwd", str(stand_in).encode())
            for name, data in files.items()
            if b"/etc/passwd" in data
        }
        self.assertGreater(len(lures), 5)
        self.assertNothingLeaks(b"root:", lures, stand_in)


def _add_tests() -> None:
    """Give `HostileFileTests` a test for each file."""

    def add(name: str, read: Callable[[], bytes], operations: tuple[str, ...]) -> None:
        def test(self: HostileFileTests) -> None:
            self.go_through(name, read(), operations)

        test.__name__ = "test_" + "".join(c if c.isalnum() else "_" for c in name)
        test.__doc__ = f"{name} ends in a sentence or in a result."
        setattr(HostileFileTests, test.__name__, test)

    for path in sorted(p for p in HOSTILE.iterdir() if p.name != "README.md"):
        add(path.name, path.read_bytes, tuple(OPERATIONS))
    for name, make in MADE.items():
        add(f"made-{name}", make, QUICK)
    if folder := os.environ.get("VIDPROC_HOSTILE"):
        for path in sorted(p for p in Path(folder).iterdir() if p.suffix != ".md"):
            add(f"folder-{path.name}", path.read_bytes, tuple(OPERATIONS))


if sys.platform == "linux":
    _add_tests()
