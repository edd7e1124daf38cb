"""A real twistd process with the HTTP frontend."""

from __future__ import annotations

from support.server_process import ServerProcess


class HTTPServerProcess(ServerProcess):
    """A server with the HTTP frontend at `http_port`."""

    def command(self) -> list[str]:
        return [*super().command(), "--http=0"]

    @property
    def http_port(self) -> int:
        return self.ports[1]
