"""Starts and stops the parts of the server in order.

`MultiService` stops its children at the same time, but the order matters: stop listening, stop the
jobs while transfers finish, then close the store, release the lock and close the logs.
"""

from __future__ import annotations

import hashlib
import os
import signal
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING, cast

import psutil
from twisted.application.service import IServiceCollection, Service
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred, ensureDeferred, maybeDeferred
from twisted.internet.interfaces import IListeningPort

from vidproc import __version__
from vidproc.app import garbage, stopping, twistd_log
from vidproc.app.clock_watch import ClockWatch
from vidproc.app.cluster_figures import ClusterFigures
from vidproc.app.log_format import FORMATS
from vidproc.app.logs import TopicLogs
from vidproc.app.measuring import Meter, usable_cores
from vidproc.app.metrics import Metrics
from vidproc.app.on_done import OnDone
from vidproc.app.open_files import LEAST_FILES, most_connections, raise_open_files
from vidproc.app.performance import PerformanceService
from vidproc.app.ports import CannotListen, Ports, reload_or_log
from vidproc.app.private_files import everything_below, keep_private, tighten
from vidproc.app.settings import Config
from vidproc.app.startup_errors import CannotStart, explain, show_in_one_line
from vidproc.app.stopping import Deadline, Patience
from vidproc.clock import SteadyClock
from vidproc.ffmpeg.binary import FFmpegUnusable, find_ffmpeg
from vidproc.ffmpeg.sandbox import Sandbox, SandboxIncomplete, find_layers, missing_layers
from vidproc.files.data_folder import DataFolder, DataFolderInUse
from vidproc.files.keys import load_key
from vidproc.files.ownership import NotADataFolder
from vidproc.files.threads import WorkerThreads
from vidproc.frontends.gate import Gate
from vidproc.frontends.interface import Backend
from vidproc.frontends.server_info import ServerInfo
from vidproc.reactor import IFullReactor
from vidproc.runners.forking import probe_fork_server
from vidproc.runners.interface import Runner
from vidproc.runners.local import LocalRunner
from vidproc.tasks.facade import Tasks
from vidproc.tasks.foundation import Foundation
from vidproc.tasks.model import State
from vidproc.tasks.recovery import recover
from vidproc.tasks.store.database import SchemaTooNew
from vidproc.tasks.store.store import TaskStore
from vidproc.topics import Topic, TopicLogger

if TYPE_CHECKING:
    from vidproc.cluster.runner import ClusterRunner

DISK_THREADS = 10
WRITER_THREADS = 2
"""Threads that write uploads to the disk. If the kernel preempts a thread that holds Python's lock,
the reactor waits: with ten threads, ten uploads raised the p99 of a status from 53 to 105 ms. Two
are as fast as the network, and none of them waits for an fsync."""

TOLD = frozenset(
    (
        "cpu-reserve",
        "grace",
        "idle-timeout",
        "job-timeout",
        "max-concurrent",
        "max-connections",
        "max-connections-per-ip",
        "max-upload",
        "min-retention",
        "owner-only",
        "queue-size",
        "retention",
        "sandbox",
        "storage-limit",
        "tasks-per-ip",
        "tasks-per-token",
        "upload-retention",
    )
)
"""Options that clients may know of: limits, but no paths, ports or commands."""


class VidprocService(Service):
    """The whole server as one service."""

    log = TopicLogger(Topic.SERVICE)
    name = "vidproc"

    def __init__(self, config: Config, reactor: IFullReactor | None = None) -> None:
        self.config = config
        self._given_reactor = reactor
        self._ports = Ports(config.endpoints, config.frontend_options)
        self._patience: Patience | None = None
        self._deadline = Deadline(self._give_up)
        self._pid_file: Path | None = None

    def setServiceParent(self, parent: IServiceCollection) -> None:
        """Join the application that twistd runs, and limit the size of twistd's log."""
        super().setServiceParent(parent)
        if self.config.twistd is not None:
            alone = self.config.log_dir is not None
            own_form = alone and self.config.log_format == "text"
            line = None if own_form else FORMATS[self.config.log_format]
            twistd_log.bound(parent, self.config.twistd, line, alone=alone)

    def privilegedStartService(self) -> None:
        """Open the ports. Raises `CannotStart`."""
        show_in_one_line()
        keep_private()
        if self.config.pid_file is not None:
            # Absolute only now: a daemon has changed to its --rundir.
            self._pid_file = self.config.pid_file.absolute()
            tighten([self._pid_file])
        reactor = self._given_reactor
        if reactor is None:
            from twisted.internet import reactor as installed

            reactor = cast(IFullReactor, installed)
        self._reactor = reactor
        self._clock = SteadyClock()
        self._clock.install(self._reactor)
        try:
            self._ports.listen(self._reactor)
        except CannotListen as error:
            raise CannotStart(str(error)) from None

    @property
    def ports(self) -> list[IListeningPort]:
        """The ports that are open."""
        return self._ports.open

    def startService(self) -> None:
        """Build and start everything. Raises `CannotStart` before the server is up."""
        if not self._ports.open:
            self.privilegedStartService()
        super().startService()
        try:
            self._build()
        except (
            DataFolderInUse,
            FFmpegUnusable,
            NotADataFolder,
            SandboxIncomplete,
            SchemaTooNew,
            OSError,
            sqlite3.Error,
        ) as error:
            raise CannotStart(explain(error, self.config.data_dir, self.config.log_dir)) from error

    def _build(self) -> None:
        """Build everything from the ground up and start it; the ports serve last."""
        files = raise_open_files()
        if files < LEAST_FILES:
            raise CannotStart(
                f"the limit of open files is {files}, and at least {LEAST_FILES} are needed; raise"
                " it with ulimit -n 1024 or, for systemd, LimitNOFILE="
            )
        self._ffmpeg = find_ffmpeg(self.config.ffmpeg)
        layers = find_layers(self.config.sandbox)
        cores = usable_cores()
        self._open_data()
        self._make_threads()
        self._runner = self._build_runner(layers, cores)
        self._build_tasks(cores)
        connections = min(self.config.max_connections, most_connections(files))
        self._build_gate(connections)
        meter = self._build_upkeep(cores)
        self._start_all()
        self._serve(meter)
        signal.signal(signal.SIGHUP, lambda *_: self._reactor.callFromThread(self._reload))
        self._tell_start(cores)
        garbage.keep_for_good()
        if connections < self.config.max_connections:
            self.log.warn(
                "the limit of open files ({files}) allows {n} connections, not {wanted}",
                files=files,
                n=connections,
                wanted=self.config.max_connections,
            )

    def _open_data(self) -> None:
        """Open the data folder, the logs and the store, and put the store in order."""
        config = self.config
        self._data_folder = DataFolder(config.data_dir, config.storage_limit)
        self._data_folder.open()
        tighten(everything_below(config.data_dir))
        self._logs = TopicLogs(config.log_dir, FORMATS[config.log_format])
        self._logs.start()
        self._store = TaskStore(config.data_dir / "tasks.sqlite")
        self._store.open()
        if config.on_done is None:
            self._store.on_done.forget()
        else:
            self._store.on_done.note_ends()
        recover(self._store, self._data_folder, self._reactor.seconds())

    def _make_threads(self) -> None:
        self._store_thread = WorkerThreads(self._reactor, "store", 1)
        self._lookup_thread = WorkerThreads(self._reactor, "lookup", 1)
        self._disk = WorkerThreads(self._reactor, "disk", DISK_THREADS)
        self._writers = WorkerThreads(self._reactor, "writers", WRITER_THREADS)

    def _build_tasks(self, cores: int) -> None:
        config = self.config
        foundation = Foundation(
            self._reactor,
            config.settings,
            self._data_folder,
            self._disk,
            self._store,
            self._store_thread,
        )
        self._tasks = Tasks(
            foundation,
            writers=self._writers,
            lookup_thread=self._lookup_thread,
            runner=self._runner,
            cores=cores,
        )
        self._on_done = OnDone(
            self._reactor,
            config.on_done or (),
            self._store.on_done,
            self._store_thread,
            self._data_folder.path,
        )
        if config.on_done is not None:
            self._tasks.queue.watches.on_ended.append(self._on_done.ended)

    def _build_gate(self, connections: int) -> None:
        self._gate = Gate(
            self._reactor,
            tokens=self.config.tokens,
            idle_timeout=self.config.idle_timeout,
            max_connections=connections,
            max_connections_per_ip=self.config.max_connections_per_ip,
        )

    def _build_upkeep(self, cores: int) -> Meter:
        """Build what measures and rebalances; return its meter."""
        meter = Meter(
            self._reactor,
            self._runner,
            self._gate.traffic,
            cores,
            lambda: self._fork_server.children_cpu if self._fork_server is not None else 0.0,
        )
        self._cluster_figures = ClusterFigures(self._cluster, self._tasks.queue)
        self._performance = PerformanceService(
            self._reactor,
            self._tasks,
            meter,
            self._gate,
            self._data_folder,
            self._disk,
            cores,
            ClockWatch(self._clock, self._store, self._store_thread),
            self._cluster_figures,
        )
        return meter

    def _start_all(self) -> None:
        """Start what was built; the threads first, because the rest calls them."""
        self._on_done.start()  # reads the store itself, so before the threads
        self._store_thread.start()
        self._lookup_thread.start()
        self._disk.start()
        self._writers.start()
        if self._fork_server is not None:
            self._fork_server.start()
        self._tasks.start(self._store.in_states([State.QUEUED]))
        self._performance.startService()

    def _serve(self, meter: Meter) -> None:
        """Let the open ports serve clients."""
        metrics = Metrics(
            self._reactor,
            self._tasks,
            self._gate,
            self._data_folder.space,
            meter.count,
            lambda: self._performance.recent.last,
            self._cluster_figures,
        )
        self._ports.serve(
            Backend(
                self._reactor,
                self._gate,
                self._tasks,
                self._disk,
                self._server_info,
                figures=self._performance.recent.answer,
                metrics=metrics.render,
                secret=lambda name: load_key(self._data_folder.path(name)),
            )
        )

    def _build_runner(self, layers: frozenset[str], cores: int) -> Runner:
        """Build the sandbox, the fork server and the runner: the cluster's if there is one."""
        config = self.config
        self._sandbox = Sandbox(
            address_space=min(psutil.virtual_memory().total * 3 // 4, 16 << 30),
            file_size=config.storage_limit,
            cpu_time=int(config.settings.job_timeout * cores) + 60,
            layers=layers,
        )
        self._fork_server = probe_fork_server(self._reactor, layers)
        local = LocalRunner(
            self._reactor,
            self._ffmpeg,
            self._sandbox,
            self._data_folder.path,
            fork_server=self._fork_server,
        )
        self._cluster: ClusterRunner | None = None
        if config.cluster is None:
            return local
        from vidproc.cluster.runner import ClusterRunner

        key = load_key(self._data_folder.path("server.key"))
        self._cluster = ClusterRunner(
            self._reactor,
            config.cluster,
            local,
            self._ffmpeg,
            self._sandbox,
            config.sandbox,
            self._data_folder.path,
            hashlib.sha256(key).hexdigest()[:16],
        )
        self._cluster.open()
        return self._cluster

    def _tell_start(self, cores: int) -> None:
        self.log.info(
            "vidproc {version} serves {ports}; FFmpeg {ffmpeg}, {cores} cores, data in {data}",
            version=__version__,
            ports=", ".join(_readable(port.getHost()) for port in self.ports),
            ffmpeg=self._ffmpeg.version,
            cores=cores,
            data=str(self.config.data_dir),
        )
        self.log.info("media processes: {layers}", layers=", ".join(self._sandbox.description))
        if self.config.sandbox == "auto":
            for layer in missing_layers(self._sandbox.layers):
                self.log.warn(
                    "media processes run without {layer}: this machine does not have it;"
                    " --sandbox strict refuses to start then",
                    layer=layer,
                )
        if missing := self._ffmpeg.missing():
            self.log.warn("this FFmpeg lacks {missing}", missing=", ".join(missing))

    def _server_info(self) -> ServerInfo:
        return ServerInfo(
            settings=self.config.settings,
            ffmpeg_version=self._ffmpeg.version,
            sandbox=self._sandbox.description,
            queued=self._tasks.queue.queued,
            running=self._tasks.queue.running,
            concurrency=self._tasks.queue.concurrency,
            held=tuple(one for one in self.config.held if one.name in TOLD),
            workers=self._cluster_figures.reports(),
        )

    def _reload(self) -> None:
        """Handle SIGHUP: reload the files that the operator may have changed."""
        if self._gate.tokens.needed:
            reload_or_log(self.log, "the token file", self._gate.tokens.reload)
        self._ports.reload()

    def stopService(self) -> Deferred[None]:
        """Stop everything in order. The Deferred fires when it has really ended."""
        super().stopService()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._second_signal)
        self._deadline.set(self.config.grace + stopping.DEADLINE)
        self._patience = Patience(self._reactor, self.config.grace + stopping.MARGIN)
        return ensureDeferred(self._stop(self._patience))

    def _second_signal(self, *_: object) -> None:
        self._deadline.set(stopping.HURRIED_DEADLINE)
        self._reactor.callFromThread(self._hurry)

    def _hurry(self) -> None:
        """Handle a second signal: wait for nothing. Interrupted work continues at the next
        start."""
        self.log.info("stopping at once")
        self._gate.abort_all()
        for running in list(self._runner.running):
            running.kill()
        if self._patience is not None:
            self._patience.shorten(stopping.HURRIED_MARGIN)

    def _give_up(self) -> None:
        """End the process as `kill -9` would, but remove the pid file."""
        for running in list(self._runner.running):
            running.kill()
        if self._pid_file is not None:
            self._pid_file.unlink(missing_ok=True)
        os._exit(1)

    async def _stop(self, patience: Patience) -> None:
        self.log.info("stopping")
        for closing in self._ports.stop_listening():
            await patience.wait_for("a port", closing)
        self._tasks.refuse_new()
        tasks_stop = ensureDeferred(self._tasks.stop())
        transfers_end = self._gate.drain(self.config.grace)
        await patience.wait_for("running tasks", tasks_stop)
        await patience.wait_for("transfers", transfers_end)
        for ending in self._ports.stop():
            await patience.wait_for("a frontend", ending)
        await patience.wait_for("--on-done", ensureDeferred(self._on_done.stop()))
        await patience.wait_for("uploads", ensureDeferred(self._tasks.uploads.abort_all()))
        if self._cluster is not None:
            await patience.wait_for("the cluster", ensureDeferred(self._cluster.close()))
        await patience.wait_for("upkeep", maybeDeferred(self._performance.stopService))
        if self._fork_server is not None:
            await patience.wait_for("the fork server", self._fork_server.stop())
        patience.cancel()
        if await self._stop_threads(hurried=patience.hurried):
            self._store.close()
            self._deadline.cancel()
        else:
            # At its end, Python would wait for them, or for what they hold in SQLite.
            self._reactor.addSystemEventTrigger("after", "shutdown", self._give_up)
        self.log.info("stopped")
        self._logs.stop()
        self._data_folder.close()

    async def _stop_threads(self, *, hurried: bool) -> bool:
        """End the worker threads; return whether all have ended."""
        pools = (self._writers, self._disk, self._store_thread, self._lookup_thread)
        stops = [pool.stop_in_background() for pool in pools]
        margin = stopping.HURRIED_THREADS_MARGIN if hurried else stopping.THREADS_MARGIN
        patience = self._patience = Patience(self._reactor, margin)
        ended = [await patience.wait_for("a thread", stop) for stop in stops]
        patience.cancel()
        return all(ended)


def _readable(address: object) -> str:
    if isinstance(address, IPv4Address | IPv6Address):
        return f"{address.type.lower()} {address.host} port {address.port}"
    return str(address)
