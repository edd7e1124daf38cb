"""The frontends that there are: the one place that lists them.

The server's options import it, so it loads a frontend only when that has ports to serve.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from twisted.python.reflect import namedAny

if TYPE_CHECKING:
    from vidproc.frontends.interface import Backend, Frontend


@dataclass(frozen=True, slots=True)
class ListedFrontend:
    """A frontend that the server can have.

    `option` is the option that names its endpoints, `short` its one-letter form if it has one.
    Without the option it listens at `default`, or is off if that is empty. `make` is the full name
    of what makes the frontend from a `Backend`.
    """

    name: str
    make: str
    option: str
    help: str
    short: str | None = None
    default: tuple[str, ...] = ()

    def load(self, backend: Backend) -> Frontend:
        """Import the frontend and make it."""
        frontend: Frontend = namedAny(self.make)(backend)
        return frontend


FRONTENDS = (
    ListedFrontend(
        "mmp",
        "vidproc.frontends.mmp.frontend.MMPFrontend",
        option="port",
        short="p",
        default=("tcp:9999:interface=127.0.0.1",),
        help="An endpoint string (tcp:, ssl:, systemd:, haproxy:...) or a bare port number on the"
        " loopback; may be given more than once. [default: tcp:9999:interface=127.0.0.1]",
    ),
)
