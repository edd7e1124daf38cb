"""The connection to Dask's scheduler: its client, on an event loop in a thread of its own.

All public methods and all callbacks are for the reactor's thread. When the scheduler is lost, every
command on it is; the link connects again until it is stopped.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorFromThreads

from vidproc.cluster import entry, messages
from vidproc.cluster.messages import Report
from vidproc.cluster.security import ClusterOptions, dask_security
from vidproc.topics import Topic, TopicLogger

POLL_EVERY = 1.0
"""Seconds between two looks at the scheduler's workers."""
WORKERS_A_SECOND = 500.0
"""Workers whose facts are read in a second, so that many of them are looked at less often."""
CONNECT_TIMEOUT = 10.0
CALL_TIMEOUT = 5.0
"""Seconds after which a scheduler that does not answer counts as lost."""
STOP_TIMEOUT = 20.0
"""Seconds for a worker to end a process, which may take it TERM, KILL and patience."""
_PAUSE = 1.0
_CLOSING = 3.0


class LinkLost(Exception):
    """The scheduler was lost, and with it what became of a command."""


class DaskLink:
    """The connection to the scheduler of `options`.

    `on_workers` gets what the scheduler says of its workers, by their addresses, at each look, or
    None when it is lost; `on_report` gets reports of progress.
    """

    log = TopicLogger(Topic.SERVICE)

    def __init__(
        self,
        reactor: IReactorFromThreads,
        options: ClusterOptions,
        topic: str,
        on_workers: Callable[[dict[str, Any] | None], None],
        on_report: Callable[[Report], None],
        poll_every: float = POLL_EVERY,
    ) -> None:
        self._reactor = reactor
        self._options = options
        self.topic = topic
        self._on_workers = on_workers
        self._on_report = on_report
        self._poll_every = poll_every
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="dask", daemon=True)
        self._client: Any = None
        self._lost: asyncio.Event | None = None
        self._futures: dict[str, tuple[Any, asyncio.Event]] = {}
        self._stopping = False
        self._main: asyncio.Task[None] | None = None
        self._told = ""

    # --- for the reactor's thread ---------------------------------------------------------------

    def start(self) -> None:
        """Begin to connect."""
        self._thread.start()

    def stop(self) -> Deferred[None]:
        """Disconnect; the Deferred fires when that is done."""
        done: Deferred[None] = Deferred()
        self._stopping = True

        def stop() -> None:
            if self._main is not None:
                self._main.cancel()

        self._loop.call_soon_threadsafe(stop)

        def wait() -> None:
            self._thread.join(_CLOSING + 2)
            self._reactor.callFromThread(done.callback, None)

        threading.Thread(target=wait, daemon=True).start()
        return done

    def submit(
        self, key: str, order: bytes, worker: str, cores: int, memory: int
    ) -> Deferred[bytes]:
        """Run an encoded order on a worker; the Deferred fires with the encoded outcome.

        It fails with `LinkLost`, or not at all while the worker is gone: release it then.
        """
        return self._deferred(self._submit(key, order, worker, cores, memory))

    def end_command(self, key: str, worker: str) -> Deferred[None]:
        """End a command's process on a worker, and then release it.

        Fires when that has happened, or when the worker did not answer.
        """
        return self._deferred(self._end(key, worker))

    def release(self, key: str) -> None:
        """Forget a command; a worker that still runs it stops it when it notices."""
        self._loop.call_soon_threadsafe(self._release, key)

    # --- in the loop's thread -------------------------------------------------------------------

    def _deferred(self, work: Coroutine[Any, Any, Any]) -> Deferred[Any]:
        deferred: Deferred[Any] = Deferred()
        future = asyncio.run_coroutine_threadsafe(work, self._loop)

        def done(_: object) -> None:
            try:
                result = future.result()
            except BaseException as error:
                failed = error if isinstance(error, LinkLost) else LinkLost(repr(error))
                self._reactor.callFromThread(deferred.errback, failed)
            else:
                self._reactor.callFromThread(deferred.callback, result)

        future.add_done_callback(done)
        return deferred

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._main = self._loop.create_task(self._keep_connected())
        try:
            self._loop.run_until_complete(self._main)
        except asyncio.CancelledError:
            pass
        except Exception:
            self.log.failure("the connection to the cluster ended")
        finally:
            for task in asyncio.all_tasks(self._loop):
                task.cancel()
            self._loop.run_until_complete(asyncio.sleep(0))

    async def _keep_connected(self) -> None:
        _quiet()
        while not self._stopping:
            try:
                await self._connect_and_watch()
            except asyncio.CancelledError:
                raise
            except Exception as error:
                self._tell(f"{type(error).__name__}: {error}")
            await asyncio.sleep(_PAUSE)

    def _tell(self, reason: str) -> None:
        if reason != self._told:
            self._told = reason
            self.log.warn(
                "no cluster at {address}: {reason}; commands run on this machine until there is",
                address=self._options.address,
                reason=reason,
            )

    async def _connect_and_watch(self) -> None:
        import distributed

        connect: Any = distributed.Client
        self._lost = asyncio.Event()
        client: Any = connect(
            self._options.address,
            asynchronous=True,
            set_as_default=False,
            timeout=CONNECT_TIMEOUT,
            security=dask_security(self._options),
            name="vidproc",
        )
        try:
            await asyncio.wait_for(client, CONNECT_TIMEOUT + 2)
            client.subscribe_topic(self.topic, self._reported)
            first = await asyncio.wait_for(client.scheduler.identity(), CALL_TIMEOUT)
            self._client, self._told = client, ""
            self.log.info("connected to the cluster at {address}", address=self._options.address)
            await self._watch(client, first)
        finally:
            self._client = None
            self._lost.set()
            self._futures.clear()
            self._reactor.callFromThread(self._on_workers, None)
            await self._close(client)

    async def _watch(self, client: Any, found: dict[str, Any]) -> None:
        scheduler = found["id"]
        while True:
            workers = found["workers"]
            self._reactor.callFromThread(self._on_workers, workers)
            await asyncio.sleep(max(self._poll_every, len(workers) / WORKERS_A_SECOND))
            found = await asyncio.wait_for(client.scheduler.identity(), CALL_TIMEOUT)
            if found["id"] != scheduler or client.status != "running":
                raise LinkLost("the scheduler was started again")

    async def _close(self, client: Any) -> None:
        # Its own patience with a scheduler that is gone is longer than ours.
        with suppress(Exception, asyncio.CancelledError):
            await asyncio.wait_for(client._close(fast=True), _CLOSING)

    async def _reported(self, event: tuple[float, bytes]) -> None:
        try:
            report = messages.decode_report(event[1])
        except (msgspec.MsgspecError, TypeError, IndexError):
            return  # not one of ours
        self._reactor.callFromThread(self._on_report, report)

    async def _submit(self, key: str, order: bytes, worker: str, cores: int, memory: int) -> bytes:
        client, lost = self._client, self._lost
        if client is None or lost is None:
            raise LinkLost("there is no scheduler")
        future = client.submit(
            entry.run,
            order,
            key=key,
            workers=[worker],
            allow_other_workers=False,
            resources={"cores": cores, "memory": memory},
            pure=False,
            retries=0,
        )
        released = asyncio.Event()
        self._futures[key] = future, released
        result = asyncio.ensure_future(future.result())
        waits = [asyncio.ensure_future(event.wait()) for event in (lost, released)]
        try:
            await asyncio.wait([result, *waits], return_when=asyncio.FIRST_COMPLETED)
            if not result.done():
                raise LinkLost("the scheduler was lost, or the command released")
            outcome = result.result()
            if not isinstance(outcome, bytes):
                raise LinkLost(f"a worker answered with {type(outcome).__name__}")
            return outcome
        finally:
            for task in (result, *waits):
                task.cancel()
            self._release(key)

    async def _end(self, key: str, worker: str) -> None:
        client = self._client
        try:
            if client is not None:
                await asyncio.wait_for(
                    client.run(entry.stop, key, workers=[worker], on_error="return"), STOP_TIMEOUT
                )
        except Exception as error:
            self.log.warn(
                "{key} could not be stopped on {worker}: {error}; it stops when it is released",
                key=key,
                worker=worker,
                error=repr(error),
            )
        self._release(key)

    def _release(self, key: str) -> None:
        future, released = self._futures.pop(key, (None, None))
        if future is not None and released is not None:
            future.release()
            released.set()


def _quiet() -> None:
    """Dask's own messages go nowhere: what matters of them is in ours."""
    import distributed  # noqa: F401 - it sets up its loggers when it is imported

    names = [name for name in logging.root.manager.loggerDict if name.startswith("distributed")]
    for name in (*names, "tornado.application", "asyncio"):
        logger = logging.getLogger(name)
        logger.handlers[:] = [logging.NullHandler()]
        logger.propagate = False
