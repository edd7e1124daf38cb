"""How fast bytes move, compared with nginx on the same machine.

One and eight streams, sends of 1,400 bytes and as large as possible, up and down, on tmpfs. nginx
(PUT and GET) and vidproc alternate. Prints the medians, the median ratio of consecutive runs, and
the speed of the load generator alone. Run it from a checkout: ``python -m benchmarks.transfer``.
Linux only.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from benchmarks.load import (
    LARGE,
    PACKET,
    connect,
    discard,
    http_get,
    http_put,
    mmp_download,
    mmp_upload,
    run_streams,
    send_file,
)
from benchmarks.memory import place_result
from support.server_process import PlainClient, ServerProcess, wait_for
from vidproc.files.data_folder import result_key
from vidproc.units import format_size, parse_size

TMPFS = Path("/dev/shm")
INSTALL_NGINX = """\
nginx is not in PATH. Debian, Ubuntu: apt install nginx-light; Fedora: dnf install nginx.
It needs the http_dav_module, which the distributions' packages have.
--alone measures vidproc only."""

# As fast as it can be set up: no logs, one worker a core, its temporary files beside the target.
_NGINX_CONF = """\
daemon off; master_process on; worker_processes auto; pid nginx.pid; error_log error.log;
user root;
events {{ worker_connections 256; }}
http {{
  access_log off; sendfile on; tcp_nopush on; tcp_nodelay on; client_max_body_size 0;
  client_body_temp_path tmp; client_body_buffer_size {buffer};
  proxy_temp_path tmp; fastcgi_temp_path tmp; uwsgi_temp_path tmp; scgi_temp_path tmp;
  server {{
    listen 127.0.0.1:{port}; root {root}/files;{tls}
    location / {{ dav_methods PUT DELETE; }}
  }}
}}
"""


@contextlib.contextmanager
def nginx(
    root: Path, buffer: str = "1m", certificate: tuple[Path, Path] | None = None
) -> Iterator[tuple[int, int]]:
    """Run nginx on files below `root`; yields its port and, with a certificate and its key, the one
    for TLS. Exits when there is no nginx."""
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    if program is None:
        raise SystemExit(INSTALL_NGINX)
    (root / "files").mkdir(parents=True)
    with (
        socket.create_server(("127.0.0.1", 0)) as probe,
        socket.create_server(("127.0.0.1", 0)) as other,
    ):
        port, tls_port = probe.getsockname()[1], other.getsockname()[1]
    tls = ""
    if certificate is not None:
        tls = (
            f" listen 127.0.0.1:{tls_port} ssl;"
            f" ssl_certificate {certificate[0]}; ssl_certificate_key {certificate[1]};"
        )
    text = _NGINX_CONF.format(port=port, root=root, buffer=buffer, tls=tls)
    if os.geteuid() != 0:
        text = text.replace("user root;\n", "")
    (root / "nginx.conf").write_text(text)
    server = subprocess.Popen([program, "-p", f"{root}/", "-c", "nginx.conf", "-e", "error.log"])

    def serves() -> bool:
        with contextlib.suppress(OSError), connect(port):
            return True
        return False

    try:
        wait_for(serves, 10, lambda: server.poll() is None)
        yield port, tls_port
    finally:
        server.terminate()
        server.wait(30)


class Sink:
    """A server that throws away what comes and then says a byte: the sender's own limit."""

    def __init__(self, size: int) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = self._listener.getsockname()[1]
        self.size = size

    def serve(self, streams: int) -> list[int]:
        """Start a process for each stream; returns their ids."""
        children = []
        for _ in range(streams):
            child = os.fork()
            if child == 0:
                connection, _ = self._listener.accept()
                with connection:
                    discard(connection, self.size)
                    connection.sendall(b"!")
                os._exit(0)
            children.append(child)
        return children

    def close(self) -> None:
        self._listener.close()


def generator_limit(streams: int, path: Path, size: int, send_size: int) -> float:
    """Return the seconds in which the clients send to a server that does nothing."""
    sink = Sink(size)
    children = sink.serve(streams)

    def work(_: int) -> None:
        with connect(sink.port) as connection:
            send_file(connection, path, size, send_size)
            connection.recv(1)

    try:
        return run_streams(streams, work)[0]
    finally:
        sink.close()
        for child in children:
            os.waitpid(child, 0)


class Bench:
    """Both servers, and the runs on them."""

    def __init__(self, root: Path, size: int, http_port: int | None) -> None:
        self.root = root
        self.size = size
        self.http_port = http_port
        self.source = root / "source"
        with self.source.open("wb") as file:
            block = os.urandom(1 << 20)
            for _ in range(size // len(block)):
                file.write(block)
            file.write(block[: size % len(block)])
        self.server = ServerProcess(root / "vidproc").start()
        self.server.stop()
        self.task_id = place_result(self.server, size, fill=True)
        self.server.start()
        if http_port is not None:
            # The same pages: how they lie in memory makes more of a difference than the server.
            result = self.server.data_dir / result_key(self.task_id, "webm")
            os.link(result, root / "nginx" / "files" / "result")

    def vidproc_up(self, streams: int, send_size: int, each: int) -> float:
        """Upload to vidproc; return seconds."""

        def work(index: int) -> str:
            return mmp_upload(
                self.server.port,
                self.source,
                each,
                address=f"127.0.0.{10 + index}",
                send_size=send_size,
            )

        seconds, tasks = run_streams(streams, work)
        for task_id in tasks:
            PlainClient(self.server.port).wait(task_id)  # the next run shall have the machine
        return seconds

    def nginx_up(self, streams: int, send_size: int, each: int) -> float:
        """PUT to nginx; return seconds."""
        port = self.http_port
        assert port is not None

        def work(index: int) -> None:
            http_put(port, f"upload-{index}", self.source, each, send_size=send_size)

        seconds, _ = run_streams(streams, work)
        for index in range(streams):
            (self.root / "nginx" / "files" / f"upload-{index}").unlink()
        return seconds

    def vidproc_down(self, streams: int) -> float:
        """Download from vidproc; return seconds."""
        return run_streams(streams, lambda _: mmp_download(self.server.port, self.task_id))[0]

    def nginx_down(self, streams: int) -> float:
        """GET from nginx; return seconds."""
        port = self.http_port
        assert port is not None
        return run_streams(streams, lambda _: http_get(port, "result"))[0]


def compare(
    name: str,
    total: int,
    repeat: int,
    ours: Callable[[], float],
    theirs: Callable[[], float] | None,
    limit: Callable[[], float] | None = None,
) -> float | None:
    """Run both in turn, print a line, and return the median ratio of speeds."""
    our_times, their_times, limits = [], [], []
    ours()  # the first one finds caches and buffers cold
    for _ in range(repeat):
        if theirs is not None:
            their_times.append(theirs())
        our_times.append(ours())
        if limit is not None:
            limits.append(limit())

    def speed(times: list[float]) -> str:
        return f"{total / statistics.median(times) / 1e6:8.0f}" if times else "       -"

    ratio = None
    if their_times:
        ratio = statistics.median(b / a for a, b in zip(our_times, their_times, strict=True))
    shown = "     -" if ratio is None else f"{ratio:6.2f}"
    print(f"{name:34}{speed(our_times)}{speed(their_times)}{shown}{speed(limits)}", flush=True)
    return ratio


def option_parser(description: str) -> argparse.ArgumentParser:
    """Return a parser of the options that both transfer benchmarks have."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--size", type=parse_size, help="bytes a run (1G; quick: 256M)")
    parser.add_argument("--repeat", type=int, help="runs of each (5; quick: 3)")
    parser.add_argument("--quick", action="store_true", help="a minute instead of five")
    parser.add_argument("--only", default="", help="cases whose name holds this")
    return parser


def begin(options: argparse.Namespace, stack: contextlib.ExitStack) -> tuple[Path, int, int]:
    """Return a folder in memory for the files, the bytes of a run, and how many runs to do."""
    if not sys.platform.startswith("linux"):
        raise SystemExit("this benchmark needs Linux")
    size = options.size or (256 << 20 if options.quick else 1 << 30)
    repeat = options.repeat or (3 if options.quick else 5)
    root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vidproc-", dir=TMPFS)))
    root.chmod(0o755)
    print(f"{format_size(size)} a run on tmpfs, {repeat} runs each in turn, MB/s")
    return root, size, repeat


def main() -> None:
    """Run the benchmark."""
    parser = option_parser(__doc__.splitlines()[0])
    parser.add_argument("--alone", action="store_true", help="vidproc only")
    parser.add_argument("--nginx-buffer", default="1m", help="its client_body_buffer_size")
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        root, size, repeat = begin(options, stack)
        http_port = None
        if not options.alone:
            http_port, _ = stack.enter_context(nginx(root / "nginx", options.nginx_buffer))
        bench = Bench(root, size, http_port)
        stack.callback(bench.server.stop)
        print(f"{'':34}{'vidproc':>8}{'nginx':>8}{'ratio':>6}{'client':>8}")
        for streams in (1, 8):
            each = size // streams
            plural = "stream" if streams == 1 else "streams"
            for label, send_size in (("large sends", LARGE), ("1,400-byte sends", PACKET)):
                name = f"up, {streams} {plural}, {label}"
                if options.only in name:
                    compare(
                        name,
                        each * streams,
                        repeat,
                        partial(bench.vidproc_up, streams, send_size, each),
                        partial(bench.nginx_up, streams, send_size, each) if http_port else None,
                        partial(generator_limit, streams, bench.source, each, send_size),
                    )
            name = f"down, {streams} {plural}"
            if options.only in name:
                compare(
                    name,
                    size * streams,
                    repeat,
                    partial(bench.vidproc_down, streams),
                    partial(bench.nginx_down, streams) if http_port else None,
                )
    print("ratio: vidproc's speed over nginx's; client: the load generator into a sink")


if __name__ == "__main__":
    main()
