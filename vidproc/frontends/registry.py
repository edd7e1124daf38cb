"""The list of frontends.

The server's options import this module, so it loads a frontend only when it has ports to serve.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from twisted.python.reflect import namedAny

if TYPE_CHECKING:
    from vidproc.frontends.interface import Backend, Frontend


@dataclass(frozen=True, slots=True)
class FrontendOption:
    """An option of one frontend, besides its endpoints. May be given more than once.

    `convert` is the full name of a function that turns the option's text into a value, or raises
    `ValueError`. The frontend gets all values as the keyword argument `argument`.
    """

    option: str
    argument: str
    convert: str
    help: str

    def values(self, texts: Sequence[str]) -> tuple[object, ...]:
        """Return the values of what was given. Imports the frontend only if anything was."""
        return tuple(namedAny(self.convert)(text) for text in texts)


@dataclass(frozen=True, slots=True)
class ListedFrontend:
    """A frontend that the server can have.

    `option` is the option that names its endpoints, `short` its one-letter form if it has one.
    Without the option, it listens at `default`, or is off if that is empty. `make` is the full name
    of a function that makes the frontend from a `Backend` and the values of its `options`.
    """

    name: str
    make: str
    option: str
    help: str
    short: str | None = None
    default: tuple[str, ...] = ()
    options: tuple[FrontendOption, ...] = ()

    def load(self, backend: Backend, options: Mapping[str, Sequence[object]]) -> Frontend:
        """Import the frontend and make it. `options` are the values by their `argument`."""
        frontend: Frontend = namedAny(self.make)(backend, **options)
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
    ListedFrontend(
        "http",
        "vidproc.frontends.http.frontend.HTTPFrontend",
        option="http",
        help="An endpoint string or a bare port number on the loopback that serves HTTP; may be"
        " given more than once. [default: off]",
        options=(
            FrontendOption(
                "http-origin",
                "origins",
                "vidproc.frontends.http.options.origin",
                "A page of this origin (https://video.example) may use the API; repeatable.",
            ),
            FrontendOption(
                "trusted-proxy",
                "trusted_proxies",
                "vidproc.frontends.http.options.network",
                "An address or network whose X-Forwarded-For is believed; repeatable.",
            ),
            FrontendOption(
                "http-host",
                "hosts",
                "vidproc.frontends.http.options.host",
                "A Host that is served besides localhost and IP addresses, * for any; repeatable.",
            ),
        ),
    ),
)
