"""The server's ports, and the frontends that serve them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.interfaces import IAddress, IListeningPort, IProtocolFactory
from twisted.internet.protocol import Factory
from twisted.python.failure import Failure

from vidproc.app.accepting import PatientPort
from vidproc.app.bulk_tls import use_bulk_transport
from vidproc.app.certificates import CertificateReactor
from vidproc.frontends import registry
from vidproc.frontends.interface import Backend, Frontend
from vidproc.reactor import IFullReactor
from vidproc.topics import Topic, TopicLogger


class CannotListen(Exception):
    """A port can't be opened. The text says which one, and why."""


class _UntilServed(Factory):
    """Serves the ports of a frontend until the frontend exists, because opening ports may need
    privileges. Closes all connections."""

    noisy = False
    served_by: IProtocolFactory | None = None

    def buildProtocol(self, addr: IAddress | None) -> Any:  # a type that Twisted keeps private
        if self.served_by is None:
            return None
        return self.served_by.buildProtocol(addr)  # type: ignore[arg-type]  # as Factory says


class Ports:
    """All ports of the server, by the names of their frontends. The frontends named in `endpoints`
    run, each with its `options`."""

    log = TopicLogger(Topic.SERVICE)

    def __init__(
        self,
        endpoints: Mapping[str, Sequence[str]],
        options: Mapping[str, Mapping[str, Sequence[object]]],
    ) -> None:
        self._options = options
        self._endpoints = {name: texts for name, texts in endpoints.items() if texts}
        self._factories = {name: _UntilServed() for name in self._endpoints}
        self._open: list[IListeningPort] = []
        self._tls: list[CertificateReactor] = []
        self._frontends: dict[str, Frontend] = {}

    @property
    def open(self) -> list[IListeningPort]:
        """The open ports."""
        return list(self._open)

    def listen(self, reactor: IFullReactor) -> None:
        """Open the ports. Raises `CannotListen`."""
        for name, descriptions in self._endpoints.items():
            for description in descriptions:
                outcome: list[Any] = []
                tls = CertificateReactor(reactor, description)
                listening = serverFromString(tls, description).listen(self._factories[name])
                listening.addBoth(outcome.append)
                if outcome and isinstance(outcome[0], Failure):
                    raise CannotListen(
                        f"can't listen on {description}: {outcome[0].getErrorMessage()}"
                    )
                self._tls.append(tls)
                for port in outcome:
                    self._open.append(port)
                    use_bulk_transport(getattr(port, "factory", None))
                    if hasattr(port, "doRead"):
                        PatientPort(port, reactor)

    def serve(self, backend: Backend) -> None:
        """Make the frontends, which then get the connections of their ports."""
        for listed in registry.FRONTENDS:
            if listed.name in self._endpoints:
                frontend = self._frontends[listed.name] = listed.load(
                    backend, self._options.get(listed.name, {})
                )
                frontend.start()
                self._factories[listed.name].served_by = frontend.factory

    def reload(self) -> None:
        """Reload certificates, and let the frontends reload their files. Errors are logged."""
        for tls in self._tls:
            if tls.certificates:
                reload_or_log(self.log, f"the certificate of {tls.description}", tls.reload)
        for name, frontend in self._frontends.items():
            reload_or_log(self.log, f"the {name} frontend", frontend.reload)

    def stop_listening(self) -> list[Deferred[Any]]:
        """Close the ports."""
        return [maybeDeferred(port.stopListening) for port in self._open]

    def stop(self) -> list[Deferred[Any]]:
        """Stop the frontends, whose connections have ended."""
        return [maybeDeferred(frontend.stop) for frontend in self._frontends.values()]


def reload_or_log(log: TopicLogger, what: str, reload: Callable[[], None]) -> None:
    """Call `reload`. If it raises `OSError` or `ValueError`, log that `what` stays as it was."""
    try:
        reload()
    except (OSError, ValueError) as error:
        log.error("{what} stays as it was: {error}", what=what, error=str(error))
    else:
        log.info("{what} was read again", what=what)
