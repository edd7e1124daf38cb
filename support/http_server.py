"""A real twistd process that speaks HTTP, too."""

from __future__ import annotations

from support.server_process import ServerProcess


class HTTPServerProcess(ServerProcess):
    """A server that speaks HTTP at `http_port`."""

    def command(self) -> list[str]:
        return [*super().command(), "--http=0"]

    @property
    def http_port(self) -> int:
        return self.ports[1]
