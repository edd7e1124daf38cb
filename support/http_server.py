"""A real twistd process that speaks HTTP, too."""

from __future__ import annotations

import re

from support.server_process import ServerProcess


class HTTPServerProcess(ServerProcess):
    """A server that speaks HTTP at `http_port`."""

    def command(self) -> list[str]:
        return [*super().command(), "--http=0"]

    @property
    def http_port(self) -> int:
        return self.ports[1]

    @property
    def ports(self) -> list[int]:
        """The ports that it serves, in the order of the frontends and of their options."""
        line = re.findall(r"vidproc \S+ serves (.*); FFmpeg", self.log())[-1]
        return [int(port) for port in re.findall(r" port (\d+)", line)]
