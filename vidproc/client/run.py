"""Running a session in Twisted's reactor, and the signals that end it early."""

from __future__ import annotations

import logging
import signal
import sys
import time
from typing import TYPE_CHECKING, cast

from vidproc.client.client import Client
from vidproc.client.display import make_display, write_line
from vidproc.client.errors import ConnectFailed
from vidproc.client.exit_status import FAILED
from vidproc.client.link import Link, RetryPolicy, Server
from vidproc.client.log import open_log, route_twisted_log
from vidproc.client.options import Options, UsageError
from vidproc.client.session import Session
from vidproc.client.startup import started
from vidproc.client.words import printable
from vidproc.reactor import IFullReactor

if TYPE_CHECKING:
    from vidproc.client.batch import Batch
    from vidproc.client.early import EarlyUpload


def run(options: Options, early: EarlyUpload | None = None) -> int:
    """Carry out the options in Twisted's reactor and return the exit status.

    `early` is their upload, if it has begun. Raises `UsageError` if the given certificates cannot
    be used. Call it only once per process.
    """
    from twisted.internet import reactor as installed

    reactor = cast(IFullReactor, installed)
    started()
    tls = None
    if options.tls:
        from vidproc.client.tls import tls_options

        try:
            ca = options.ca.read_bytes() if options.ca is not None else None
            tls = tls_options(options.host, ca)
        except (ConnectFailed, OSError) as error:
            raise UsageError(str(error), getattr(error, "advice", "")) from None
    server = Server(options.host, options.port, tls, options.token)
    log, warning = open_log(options.log_dir, options.log_format)
    if warning:
        write_line(sys.stderr, warning)
    route_twisted_log(log)
    if options.action == "batch":
        return drive(reactor, _batch(options, reactor, log, server))
    display = make_display(sys.stderr, options.check_interval, time.monotonic)
    link = Link(
        reactor,
        server,
        log=log,
        notice=lambda text: display.line(printable(text)),
        retry=RetryPolicy(),
        early=early,
    )
    session = Session(
        options,
        reactor,
        client=Client(link),
        display=display,
        out=sys.stdout,
        err=sys.stderr,
        log=log,
        early=early,
    )
    return drive(reactor, session, early)


def _batch(options: Options, reactor: IFullReactor, log: logging.Logger, server: Server) -> Batch:
    from vidproc.client.batch import Batch
    from vidproc.client.batch_display import make_batch_display

    display = make_batch_display(
        len(options.films), sys.stderr, options.check_interval, time.monotonic
    )

    def connect(reached: bool) -> Client:
        link = Link(
            reactor,
            server,
            log=log,
            notice=lambda text: display.line(printable(text)),
            # About three minutes, because nobody may be there to restart a long batch.
            retry=RetryPolicy(tries=10),
            reached=reached,
        )
        return Client(link)

    return Batch(
        options,
        reactor,
        connect=connect,
        display=display,
        out=sys.stdout,
        err=sys.stderr,
        log=log,
    )


def drive(reactor: IFullReactor, session: Session | Batch, early: EarlyUpload | None = None) -> int:
    """Run the reactor until the session has ended, on its own or by a signal, if only `early`'s."""
    statuses: list[int] = []

    def ended(status: int) -> None:
        statuses.append(status)
        if reactor.running:
            reactor.stop()

    def interrupted(signal_number: int, frame: object) -> None:
        reactor.callFromThread(session.interrupt, signal_number)

    # Ignored signals stay ignored, as nohup wants.
    known = [getattr(signal, name, None) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")]
    wanted = [one for one in known if one and signal.getsignal(one) is not signal.SIG_IGN]

    def begin() -> None:
        # Replaces Twisted's handlers, which would stop the reactor before the session ends.
        for wanted_signal in wanted:
            signal.signal(wanted_signal, interrupted)
        session.start().addCallback(ended)
        if early is not None and early.signal:
            session.interrupt(early.signal)

    reactor.callWhenRunning(begin)
    reactor.run()
    return statuses[0] if statuses else FAILED
