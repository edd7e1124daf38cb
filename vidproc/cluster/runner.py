"""The runner that sends commands to other machines.

Commands that compute little for what they move, and probes, stay on this machine; so does
everything while no worker is up.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall, deferLater

from vidproc.cluster.lease import TERM, Lease
from vidproc.cluster.link import DaskLink
from vidproc.cluster.messages import Outcome, Report
from vidproc.cluster.object_store import PATIENCE, ObjectStore, StoreAway
from vidproc.cluster.objects import Objects
from vidproc.cluster.placing import Placing
from vidproc.cluster.running import RemoteRunning
from vidproc.cluster.security import ClusterOptions
from vidproc.cluster.workers import Worker, Workers
from vidproc.ffmpeg.binary import FFmpeg
from vidproc.ffmpeg.command import SOURCE, Command, OnProgress, Workspace
from vidproc.ffmpeg.sandbox import Sandbox
from vidproc.files.threads import WorkerThreads, when_fired
from vidproc.runners.admission import Admission
from vidproc.runners.interface import RunningCommand
from vidproc.runners.local import LocalRunner
from vidproc.topics import Topic, TopicLogger

TRANSFERS = 6
"""Threads that put inputs and fetch outputs."""
SWEEP_EVERY = 60.0
"""Seconds between two sweeps of the object store."""
SHORT = 5.0
"""Seconds of output up to which a command runs here: it would take longer to send."""
COMING_BACK = 20.0
"""Seconds that commands wait for workers when all of them were lost, before they run here."""
_PAUSE = 0.5
_LOSSES = 100
"""Lost workers that are remembered."""
_SMALL = 64 << 20
"""Bytes of input up to which a command for one core runs here (the audio of a short video)."""


class ClusterCapabilities:
    """What the FFmpeg of the server and all its workers can do; `spare_cores` is true now."""

    def __init__(self, ffmpeg: FFmpeg, runner: ClusterRunner) -> None:
        self._ffmpeg = ffmpeg
        self._runner = runner
        self.encoders = ffmpeg.encoders
        self.filters = ffmpeg.filters

    @property
    def spare_cores(self) -> int:
        """Cores of workers that no command has."""
        return self._runner.spare_cores


class ClusterRunner:
    """Runs commands on the workers of a cluster, and on this machine. See `Runner`."""

    log = TopicLogger(Topic.PERFORMANCE)

    def __init__(
        self,
        reactor: Any,
        options: ClusterOptions,
        local: LocalRunner,
        ffmpeg: FFmpeg,
        sandbox: Sandbox,
        sandbox_mode: str,
        path_of_key: Callable[[str], Path],
        server_id: str,
        *,
        short: float = SHORT,
        patience: float = PATIENCE,
        term: float = TERM,
        sweep_every: float = SWEEP_EVERY,
        store: ObjectStore | None = None,
    ) -> None:
        self.local = local
        self.sandbox = sandbox
        self._reactor = reactor
        self._path_of_key = path_of_key
        self._short = short
        self._small = _SMALL if short else 0
        self._threads = WorkerThreads(reactor, "cluster", TRANSFERS)
        self._upkeep_thread = WorkerThreads(reactor, "lease", 1)
        self._store = store or ObjectStore(options.object_store, patience)
        prefix = f"vidproc/{server_id}"
        self._lease = Lease(self._store, prefix, term)
        self.objects = Objects(self._store, prefix, self._lease, self._threads, path_of_key)
        self.workers = Workers(ffmpeg, sandbox_mode, reactor.seconds, self._lost)
        self.placing = Placing(self.workers)
        self.link = DaskLink(
            reactor, options, f"vidproc-{server_id}", self._saw_workers, self._reported
        )
        self._capabilities = ClusterCapabilities(ffmpeg, self)
        self._remote: dict[RemoteRunning, None] = {}
        self._by_key: dict[str, RemoteRunning] = {}
        self._losses: dict[str, tuple[float, list[RemoteRunning]]] = {}
        self._was_up = False
        self._sweep_every = sweep_every
        self._next_sweep = 0.0
        self._told = "not yet known"
        self._upkeep = LoopingCall(self._keep_lease)
        self._upkeep.clock = reactor
        self._upkeep_every = term / 4
        self._upkept: Deferred[Any] | None = None
        self.closed = False
        self._last_up = float("-inf")
        # Commands here that were meant for workers: each task may have many.
        self.here = Admission(2 * (os.cpu_count() or 1))

    # --- life -----------------------------------------------------------------------------------

    def open(self) -> None:
        """Connect, and take the lease. It may take a while; until then everything runs here."""
        self._threads.start()
        self._upkeep_thread.start()
        self.link.start()
        self._upkept = self._upkeep.start(self._upkeep_every)

    async def close(self) -> None:
        """Disconnect and remove what is ours in the object store. No command may run any more."""
        self.closed = True
        if self._upkeep.running:
            self._upkeep.stop()
        if self._upkept is not None:
            await when_fired(self._upkept)
        self.objects.release_all()
        await self.link.stop()
        # What is on its way stops first: nothing is put after the sweep.
        await self._threads.stop_in_background()
        await self._upkeep_thread.call(self._leave)
        await self._upkeep_thread.stop_in_background()

    def _leave(self) -> None:
        try:
            if self._lease.renew():  # the stop may have taken longer than its term
                self.objects.sweep()
            self._lease.give_up()
        except StoreAway as error:
            self.log.warn("the object store could not be swept: {error}", error=str(error))

    async def _keep_lease(self) -> None:
        try:
            held = await self._upkeep_thread.call(self._lease.renew)
            if not held:
                self._tell_lease("another server with this data folder's id uses the object store")
            else:
                self._tell_lease("")
                if self._reactor.seconds() >= self._next_sweep:
                    self._next_sweep = self._reactor.seconds() + self._sweep_every
                    removed = await self._upkeep_thread.call(self.objects.sweep)
                    if removed:
                        self.log.info("swept {count} objects", count=removed)
        except StoreAway as error:
            self._tell_lease("the object store cannot be reached", str(error))
        except Exception:
            self.log.failure("the lease could not be renewed")

    def _tell_lease(self, reason: str, details: str = "") -> None:
        # Details differ each time: they have durations, say.
        if reason != self._told:
            self._told = reason
            if reason:
                self.log.warn(
                    "{reason}; commands run on this machine{details}",
                    reason=reason,
                    details=f": {details}" if details else "",
                )
            else:
                self.log.info("the object store is ours")
                self.placing.place()

    # --- the runner -----------------------------------------------------------------------------

    @property
    def capabilities(self) -> ClusterCapabilities:
        """The capabilities of the FFmpeg that runs the commands."""
        return self._capabilities

    @property
    def running(self) -> Collection[RunningCommand]:
        """The commands in progress, here and elsewhere."""
        elsewhere = [each for each in self._remote if each.worker is not None]
        return [*self.local.running, *elsewhere]

    @property
    def up(self) -> bool:
        """Whether commands can be sent to a worker."""
        return (
            not self.closed
            and self.workers.connected
            and self._lease.held
            and bool(self.workers.usable())
        )

    @property
    def why_not_up(self) -> str:
        """Why commands can't be sent to a worker, if they can't."""
        if self.workers.connected and self.workers.usable() and not self._lease.held:
            return "the object store has not answered for a while"
        return "no worker is up"

    @property
    def expects_workers(self) -> bool:
        """Whether workers were up a moment ago: they may be back soon."""
        if self.up:
            self._last_up = self._reactor.seconds()
        return not self.closed and self._reactor.seconds() - self._last_up < COMING_BACK

    def forget_workers(self) -> None:
        """Expect no worker back."""
        self._last_up = float("-inf")

    def pause(self, seconds: float = _PAUSE) -> Deferred[None]:
        """Wait a moment for workers."""
        return deferLater(self._reactor, seconds, lambda: None)

    def now(self) -> float:
        """Return the time in seconds."""
        seconds: float = self._reactor.seconds()
        return seconds

    def lost_another(self, running: RemoteRunning, since: float) -> bool:
        """Return whether a worker that did not run this command was lost since then."""
        return any(at >= since and running not in ran for at, ran in self._losses.values())

    @property
    def spare_cores(self) -> int:
        """Cores of workers that no command has."""
        return self.workers.free_cores if self.up else 0

    def start(
        self, command: Command, workspace: Workspace, threads: int, on_progress: OnProgress
    ) -> RunningCommand:
        """Start a command on a worker, or here."""
        # One of many, such as a segment, waits for its turn here, too.
        away = self.up or self.expects_workers or command.part is not None
        if self.up and command.program == "survey" and SOURCE in command.inputs:
            self.objects.ship_ahead(workspace)  # while it finds out where to cut it
        if not away or self._stays(command, workspace):
            return self.local.start(command, workspace, threads, on_progress)
        running = RemoteRunning(self, command, workspace, threads, on_progress)
        self._remote[running] = None
        running.begin()
        return running

    def _stays(self, command: Command, workspace: Workspace) -> bool:
        """Return whether a command runs here although workers are up."""
        if command.near or command.program != "ffmpeg":
            return True
        if command.part is not None:
            return False
        if command.duration is not None and command.duration <= self._short:
            return True
        if command.cpus <= 1:
            paths = [self._path_of_key(workspace.key_of(name)) for name in command.inputs]
            return sum(path.stat().st_size for path in paths if path.exists()) < self._small
        return False

    def release(self, workspace: Workspace) -> None:
        """Remove what an attempt has in the object store: it is over."""
        self.objects.release(workspace)

    # --- what happens ---------------------------------------------------------------------------

    def ended(self, running: RemoteRunning) -> None:
        """Note that a command has ended."""
        self._remote.pop(running, None)
        self._by_key.pop(running.key, None)

    def has_another(self, worker: Worker) -> bool:
        """Return whether there is a worker besides this one."""
        return any(each.facts.id != worker.facts.id for each in self.workers.usable())

    def tell_done(self, running: RemoteRunning, outcome: Outcome, worker: Worker) -> None:
        """Log what a worker did."""
        self.log.info(
            "worker {id}: {stage} took {elapsed:.1f} s, {cpu:.1f} s of CPU time, {fetched} bytes"
            " fetched, {made} made; {where}",
            id=worker.facts.id,
            stage=running.command.stage,
            elapsed=outcome.elapsed,
            cpu=outcome.cpu_time,
            fetched=outcome.fetched,
            made=sum(file.digest.size for file in outcome.outputs),
            where=", ".join(
                f"{part} {seconds:.2f}" for part, seconds in running.journey.spent(outcome).items()
            ),
            request_id=running.request_id,
        )

    def _reported(self, report: Report) -> None:
        running = self._by_key.get(report.key)
        if running is None or running.key != report.key:
            # A command gets another key with each try.
            self._by_key = {each.key: each for each in self._remote}
            running = self._by_key.get(report.key)
        if running is not None:
            running.reported(report)

    def _saw_workers(self, found: dict[str, Any] | None) -> None:
        if self.closed:
            return
        for sentence in self.workers.update(found):
            self.log.info("{sentence}", sentence=sentence)
        self._note_whether_up()
        self.placing.place()

    def _note_whether_up(self) -> None:
        up = self.up
        if up:
            self._last_up = self._reactor.seconds()
        if up != self._was_up:
            self._was_up = up
            if up:
                count = len(self.workers.usable())
                self.log.info(
                    "commands run on {workers} with {cores} cores",
                    workers="1 worker" if count == 1 else f"{count} workers",
                    cores=self.workers.cores,
                )
            else:
                self.log.warn("{reason}; commands run on this machine", reason=self.why_not_up)

    def _lost(self, worker: Worker, reason: str) -> None:
        """Let the commands of a worker that is gone go on elsewhere."""
        keys = {grant.key for grant in worker.grants}
        ran = [running for running in self._remote if running.key in keys]
        if reason and worker.state.taking and worker.facts.id not in self._losses:
            self._losses[worker.facts.id] = (self.now(), ran)
            while len(self._losses) > _LOSSES:
                del self._losses[next(iter(self._losses))]
        for running in ran:
            running.lost(reason or "the scheduler was lost", blamed=bool(reason))
