"""The speed of HTTP transfers, plain and over TLS, compared with nginx on the same machine.

One stream and eight, PUT and GET, on tmpfs; over TLS also MMP. nginx and vidproc take turns. The
medians are printed, and the median of the ratios of neighbouring runs. Run it from a checkout:
``python -m benchmarks.http_transfer``. Linux only.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.load import StreamFailed, connect, discard, run_streams, send_file
from benchmarks.memory import place_result
from benchmarks.transfer import begin, compare, nginx, option_parser
from support.certificates import write_certificate
from support.http_server import HTTPServerProcess
from support.server_process import PlainClient
from vidproc.files.data_folder import result_key
from vidproc.mmp.codec import encode_head

_STEP = 1 << 20
_UPLOAD = "/api/v1/tasks?type=extract_audio"


class Server(HTTPServerProcess):
    """Serves MMP and HTTP, each plain and over TLS."""

    certificate: Path
    key: Path

    def command(self) -> list[str]:
        tls = f"ssl:0:interface=127.0.0.1:privateKey={self.key}:certKey={self.certificate}"
        return [*super().command(), f"--port={tls}", f"--http={tls}"]

    @property
    def mmp_tls_port(self) -> int:
        return self.ports[1]

    @property
    def http_port(self) -> int:
        return self.ports[2]

    @property
    def http_tls_port(self) -> int:
        return self.ports[3]


@contextlib.contextmanager
def open_stream(port: int, address: str, tls: bool) -> Iterator[socket.socket]:
    """Connect, with TLS if asked for."""
    with connect(port, address) as plain:
        if not tls:
            yield plain
            return
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with context.wrap_socket(plain) as secure:
            yield secure


def send_body(connection: socket.socket, path: Path, size: int, tls: bool) -> None:
    """Send the first `size` bytes of a file."""
    if not tls:
        send_file(connection, path, size)
        return
    with path.open("rb") as file:
        block = bytearray(_STEP)
        view = memoryview(block)
        while size:
            got = file.readinto(view[: min(_STEP, size)])
            connection.sendall(view[:got])
            size -= got


def read_head(connection: socket.socket) -> bytes:
    """Read an answer's head, and nothing that follows it."""
    head = b""
    while b"\r\n\r\n" not in head:
        got = connection.recv(1)
        if not got:
            raise StreamFailed(f"the server closed the connection: {head!r}")
        head += got
    return head


def put(port: int, target: str, path: Path, size: int, *, address: str, tls: bool) -> bytes:
    """PUT a file's first `size` bytes; return the answer's head."""
    with open_stream(port, address, tls) as connection:
        head = f"PUT {target} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {size}\r\n\r\n"
        connection.sendall(head.encode())
        send_body(connection, path, size, tls)
        answer = read_head(connection)
    if answer.split()[1] not in (b"201", b"204"):
        raise StreamFailed(f"PUT was refused: {answer!r}")
    return answer


def get(port: int, target: str, *, address: str, tls: bool) -> None:
    """GET a file and discard it."""
    with open_stream(port, address, tls) as connection:
        connection.sendall(f"GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        head = read_head(connection)
        if b" 200 " not in head:
            raise StreamFailed(f"GET was refused: {head!r}")
        throw_away(connection, int(head.lower().split(b"content-length:")[1].split()[0]), tls)


def throw_away(connection: socket.socket, size: int, tls: bool) -> None:
    """Receive `size` bytes without looking at them."""
    if not tls:
        discard(connection, size)
        return
    nowhere = bytearray(_STEP)
    while size:
        got = connection.recv_into(nowhere, min(_STEP, size))
        if not got:
            raise StreamFailed("the server closed the connection")
        size -= got


def task_of(head: bytes) -> str:
    """Return the id of the task that an answer's Location names."""
    return head.split(b"api/v1/tasks/")[1].split()[0].decode()


class Bench:
    """The servers, and the runs on them."""

    def __init__(self, root: Path, size: int, stack: contextlib.ExitStack) -> None:
        self.root = root
        self.source = root / "source"
        with self.source.open("wb") as file:
            block = os.urandom(1 << 20)
            for _ in range(size >> 20):
                file.write(block)
        self.size = size >> 20 << 20
        Server.certificate, Server.key = write_certificate(root / "tls")
        tls = (Server.certificate, Server.key)
        self.nginx_port, self.nginx_tls_port = stack.enter_context(
            nginx(root / "nginx", certificate=tls)
        )
        self.server = Server(root / "vidproc").start()
        self.server.stop()
        self.task_id = place_result(self.server, self.size, fill=True)
        self.server.start()
        stack.callback(self.server.stop)
        result = self.server.data_dir / result_key(self.task_id, "webm")
        # The same pages: their layout in memory makes more of a difference than the server.
        os.link(result, root / "nginx" / "files" / "result")

    def _run(self, streams: int, work: Callable[[str], Any]) -> float:
        seconds, outcomes = run_streams(streams, lambda index: work(f"127.0.0.{10 + index}"))
        for task_id in filter(None, outcomes):
            PlainClient(self.server.port).wait(task_id)  # so that it does not disturb the next run
        return seconds

    def vidproc_up(self, streams: int, each: int, tls: bool) -> float:
        """PUT to vidproc; return seconds."""
        port = self.server.http_tls_port if tls else self.server.http_port

        def work(address: str) -> str:
            return task_of(put(port, _UPLOAD, self.source, each, address=address, tls=tls))

        return self._run(streams, work)

    def mmp_up(self, streams: int, each: int, tls: bool) -> float:
        """Upload by MMP; return seconds."""
        port = self.server.mmp_tls_port if tls else self.server.port

        def work(address: str) -> str:
            with open_stream(port, address, tls) as connection:
                connection.sendall(
                    encode_head(b'{"action":"upload","type":"extract_audio"}', "mp4", each)
                )
                send_body(connection, self.source, each, tls)
                answer = connection.recv(4096)
            return answer.split(b'"task_id":"')[1].split(b'"')[0].decode()

        return self._run(streams, work)

    def nginx_up(self, streams: int, each: int, tls: bool) -> float:
        """PUT to nginx; return seconds."""
        port = self.nginx_tls_port if tls else self.nginx_port

        def work(address: str) -> None:
            put(port, f"/up-{address}", self.source, each, address=address, tls=tls)

        seconds = self._run(streams, work)
        for path in (self.root / "nginx" / "files").glob("up-*"):
            path.unlink()
        return seconds

    def vidproc_down(self, streams: int, tls: bool) -> float:
        """GET from vidproc; return seconds."""
        port = self.server.http_tls_port if tls else self.server.http_port
        target = f"/api/v1/tasks/{self.task_id}/result"
        return self._run(streams, lambda address: get(port, target, address=address, tls=tls))

    def mmp_down(self, streams: int, tls: bool) -> float:
        """Download by MMP; return seconds."""
        port = self.server.mmp_tls_port if tls else self.server.port

        def work(address: str) -> None:
            with open_stream(port, address, tls) as connection:
                request = b'{"action":"download","task_id":"%s"}' % self.task_id.encode()
                connection.sendall(encode_head(request))
                header = b""
                while len(header) < 8:
                    header += connection.recv(8 - len(header))
                rest = int.from_bytes(header[:2], "big") + header[2]
                throw_away(connection, rest + int.from_bytes(header[3:], "big"), tls)

        return self._run(streams, work)

    def nginx_down(self, streams: int, tls: bool) -> float:
        """GET from nginx; return seconds."""
        port = self.nginx_tls_port if tls else self.nginx_port
        return self._run(streams, lambda address: get(port, "/result", address=address, tls=tls))


def main() -> None:
    """Run the benchmark."""
    options = option_parser(__doc__.splitlines()[0]).parse_args()
    with contextlib.ExitStack() as stack:
        root, size, repeat = begin(options, stack)
        bench = Bench(root, size, stack)
        print(f"{'':34}{'vidproc':>8}{'nginx':>8}{'ratio':>6}")
        for tls in (False, True):
            for streams in (1, 8):
                each = (bench.size // streams) >> 20 << 20
                line = f"{'TLS' if tls else 'plain'}, {streams} stream{'s' * (streams > 1)}"
                ups: list[tuple[str, Any]] = [("HTTP up", bench.vidproc_up)]
                downs: list[tuple[str, Any]] = [("HTTP down", bench.vidproc_down)]
                if tls:
                    ups.append(("MMP up", bench.mmp_up))
                    downs.append(("MMP down", bench.mmp_down))
                for name, ours in ups:
                    if options.only in f"{name}, {line}":
                        theirs = partial(bench.nginx_up, streams, each, tls)
                        mine = partial(ours, streams, each, tls)
                        compare(f"{name}, {line}", each * streams, repeat, mine, theirs)
                for name, ours in downs:
                    if options.only in f"{name}, {line}":
                        theirs = partial(bench.nginx_down, streams, tls)
                        mine = partial(ours, streams, tls)
                        compare(f"{name}, {line}", bench.size * streams, repeat, mine, theirs)
    print("ratio: vidproc's speed over nginx's")


if __name__ == "__main__":
    main()
