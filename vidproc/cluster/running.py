"""One command of the server on its way through the cluster, or on this machine if that fails."""

from __future__ import annotations

import math
import secrets
from collections.abc import Awaitable
from typing import Any, Protocol, TypeVar

from twisted.internet.defer import Deferred, ensureDeferred
from twisted.python.failure import Failure

from vidproc.cluster import messages
from vidproc.cluster.journey import Journey
from vidproc.cluster.link import DaskLink, LinkLost
from vidproc.cluster.messages import Order, Outcome, Report, ShippedFile
from vidproc.cluster.object_store import Damaged, NoSpace, StoreAway, TransferStopped
from vidproc.cluster.objects import Objects
from vidproc.cluster.outcomes import Nonsense, checked
from vidproc.cluster.placing import Placing, Wanted
from vidproc.cluster.workers import Grant, Worker, Workers
from vidproc.ffmpeg.command import (
    Command,
    CommandFailed,
    CommandStopped,
    Completed,
    FailureKind,
    OnProgress,
    Progress,
    Workspace,
)
from vidproc.ffmpeg.sandbox import Sandbox
from vidproc.runners.admission import Admission, Place
from vidproc.runners.interface import RunningCommand
from vidproc.runners.local import LocalRunner
from vidproc.topics import Topic, TopicLogger

R = TypeVar("R")

MOST_LOSSES = 3
"""Workers that a command may take with it before it is the command's own fault."""
MOST_UNLUCKY = 6
"""The same if other workers were lost meanwhile: it may just have been there each time."""
REST = 15.0
"""Seconds that a command waits after its second loss. If workers are lost for another reason, such
as someone who restarts one after another, it is seen by then."""
_BEFORE = 60.0
"""Seconds before a command's first loss in which other losses count as well."""
MOST_FAULTS = 4
"""Workers that may be unable to run a command before it runs on this machine."""
_THE_WORKERS = frozenset({FailureKind.SPACE, FailureKind.REFUSED, FailureKind.OURS})
"""Failures that say something about the worker, not about the command."""


class WorkerLost(Exception):
    """The worker that ran a command is gone. `blamed`: the command may be the reason."""

    def __init__(self, reason: str, *, blamed: bool) -> None:
        super().__init__(reason)
        self.blamed = blamed


class Cluster(Protocol):
    """What a command needs of its runner (`vidproc.cluster.runner`)."""

    local: LocalRunner
    sandbox: Sandbox
    here: Admission
    link: DaskLink
    objects: Objects
    workers: Workers
    placing: Placing

    @property
    def up(self) -> bool:
        """Whether commands can be sent to a worker."""

    @property
    def why_not_up(self) -> str:
        """Why they can't be sent."""

    @property
    def expects_workers(self) -> bool:
        """Whether workers may be back soon."""

    def pause(self, seconds: float = 0.5) -> Deferred[None]:
        """Wait a moment for them."""

    def now(self) -> float:
        """Return the time in seconds."""

    def lost_another(self, running: RemoteRunning, since: float) -> bool:
        """Return whether a worker that did not run this command was lost since then."""

    def has_another(self, worker: Worker) -> bool:
        """Return whether there is a worker besides this one."""

    def ended(self, running: RemoteRunning) -> None:
        """Note that a command has ended."""

    def tell_done(self, running: RemoteRunning, outcome: Outcome, worker: Worker) -> None:
        """Log what a worker did."""


class RemoteRunning:
    """A command in progress; implements `RunningCommand`."""

    log = TopicLogger(Topic.MEDIA)

    def __init__(
        self,
        runner: Cluster,
        command: Command,
        workspace: Workspace,
        threads: int,
        on_progress: OnProgress,
    ) -> None:
        self.command = command
        self.threads = threads
        self.result: Deferred[Completed] = Deferred()
        self.key = ""
        self.request_id = workspace.request_id
        self.here = False
        self.cpu_time = 0.0
        self.peak_memory = 0
        self._runner = runner
        self._workspace = workspace
        self._on_progress = on_progress
        self._local: RunningCommand | None = None
        self._worker: Worker | None = None
        self._interrupt: Deferred[Any] | None = None
        self._stopping = False
        self._lost_on: list[str] = []
        self._first_loss = 0.0
        self._faults = 0
        self.journey = Journey(runner.workers.now)

    @property
    def worker(self) -> Worker | None:
        """The worker that runs it now, if one does."""
        return self._worker

    @property
    def losses(self) -> int:
        """How many workers were lost while they ran it."""
        return len(self._lost_on)

    def measure(self) -> None:
        """Update `cpu_time` and `peak_memory`, if the command runs on this machine."""
        if self._local is not None:
            self._local.measure()
            self.cpu_time = self._local.cpu_time
            self.peak_memory = self._local.peak_memory

    def begin(self) -> None:
        """Begin; `result` fires however it ends."""
        ensureDeferred(self._carry_out()).addBoth(self._finish)

    def _finish(self, result: Completed | Failure) -> None:
        self._runner.ended(self)
        if isinstance(result, Failure) and not result.check(CommandFailed, CommandStopped):
            self.log.failure("{stage}: a fault in the cluster", result, stage=self.command.stage)
            result = Failure(CommandFailed(self.command, str(result.value), kind=FailureKind.OURS))
        if isinstance(result, Failure):
            self.result.errback(result)
        else:
            self.result.callback(result)

    # --- stopping -------------------------------------------------------------------------------

    def stop(self) -> None:
        """Stop the process, wherever it is."""
        if self._stopping:
            return
        self._stopping = True
        if self._local is not None:
            self._local.stop()
        elif self._worker is not None:
            ended = self._runner.link.end_command(self.key, self._worker.address)
            ended.addBoth(lambda _: self._raise(CommandStopped("stopped on request")))
        else:
            self._raise(CommandStopped("stopped on request"))

    def kill(self) -> None:
        """Like `stop`; at once if the process is on this machine."""
        self.stop()
        if self._local is not None:
            self._local.kill()

    def lost(self, reason: str, *, blamed: bool) -> None:
        """Note that the worker is gone."""
        if self._worker is not None:
            self._runner.link.release(self.key)
            self._raise(WorkerLost(reason, blamed=blamed))

    def _raise(self, error: Exception) -> None:
        interrupt, self._interrupt = self._interrupt, None
        if interrupt is not None:
            interrupt.errback(error)

    async def _unless_interrupted(self, work: Awaitable[R]) -> R:
        """Await something that `stop` and `lost` interrupt; it may go on without us then."""
        self._check_stopped()
        interrupt = self._interrupt = Deferred()

        def deliver(result: Any) -> None:
            if self._interrupt is interrupt:
                self._interrupt = None
                interrupt.callback(result)

        async def wait() -> R:
            return await work

        ensureDeferred(wait()).addBoth(deliver)
        result: R = await interrupt
        return result

    def _check_stopped(self) -> None:
        if self._stopping:
            raise CommandStopped("stopped on request")

    # --- the way --------------------------------------------------------------------------------

    async def _carry_out(self) -> Completed:
        while True:
            self._check_stopped()
            if self._faults >= MOST_FAULTS:
                return await self._run_here("the cluster was not able to run it")
            if not self._runner.up:
                if not self._runner.expects_workers:
                    return await self._run_here(self._runner.why_not_up)
                await self._unless_interrupted(self._runner.pause())
                continue
            try:
                done = await self._try_worker()
            except (StoreAway, TransferStopped) as error:
                self._check_stopped()
                self._faults = MOST_FAULTS  # enough patience was had with it
                self._tell(f"the object store: {error}")
            except NoSpace as error:
                raise CommandFailed(self.command, str(error), kind=FailureKind.SPACE) from error
            else:
                if done is not None:
                    return done

    async def _try_worker(self) -> Completed | None:
        """Run the command on a worker; return None if it is to be tried again."""
        self.journey.begin()
        if len(self._lost_on) >= MOST_LOSSES - 1:
            await self._unless_interrupted(self._runner.pause(REST))
        files = await self._unless_interrupted(
            self._runner.objects.ship(self.command, self._workspace)
        )
        self.journey.note("shipped")
        grant = await self._wait_for_worker(files)
        self.journey.note("placed")
        if grant is None:
            if self._runner.up:
                return await self._run_here("no worker has enough disk space")
            return None
        worker = grant.worker
        try:
            outcome = await self._run_on(grant, files)
        except Nonsense as error:
            self._note_fault(worker, str(error))
            return None
        except WorkerLost as lost:
            self._note_loss(worker, lost)
            return None
        except LinkLost as error:
            self._check_stopped()
            if self._runner.up:  # it is not the scheduler
                self._note_fault(worker, str(error))
            else:
                self._tell(f"worker {worker.facts.id}: {error}")
            return None
        finally:
            self._worker = None
            self._runner.placing.give_back(grant)
        self.journey.note("answered")
        if outcome.bad_inputs:
            self._faults += 1
            self._runner.objects.distrust(files, self._workspace)
            self._tell(f"worker {worker.facts.id}: {outcome.reason}; the inputs are put again")
            return None
        return await self._judge(outcome, worker)

    async def _wait_for_worker(self, files: tuple[ShippedFile, ...]) -> Grant | None:
        granted: Deferred[Grant | None] = Deferred()
        limit, space = self._runner.sandbox.file_size, self._workspace.space
        wanted = Wanted(
            self.command,
            self._new_key(),
            granted.callback,
            scratch=messages.bytes_of(files) + messages.expected_output(files, limit, space),
            lost_on=self._lost_on,
        )
        self._runner.placing.ask(wanted)
        try:
            return await self._unless_interrupted(granted)
        except CommandStopped:
            self._runner.placing.withdraw(wanted)
            raise

    def _new_key(self) -> str:
        self.key = f"vidproc-{self.command.stage}-{secrets.token_hex(6)}"
        return self.key

    async def _run_on(self, grant: Grant, files: tuple[ShippedFile, ...]) -> Outcome:
        worker, runner = grant.worker, self._runner
        prefix = runner.objects.prefix_of(self._workspace)
        self.threads = min(grant.cores, max(1, math.ceil(self.command.cpus)))
        order = Order(
            key=self.key,
            prefix=prefix,
            topic=runner.link.topic,
            command=messages.remote(self.command),
            inputs=files,
            threads=self.threads,
            space=self._workspace.space,
            file_size=runner.sandbox.file_size,
            cpu_time=runner.sandbox.cpu_time,
            request_id=self.request_id,
        )
        self._check_stopped()
        self._worker = worker
        runner.workers.heard(worker)
        data = await self._unless_interrupted(
            runner.link.submit(
                self.key, messages.encode(order), worker.address, grant.cores, grant.memory
            )
        )
        most = runner.sandbox.file_size
        if self._workspace.space is not None:
            most = min(most, self._workspace.space)
        return checked(data, self.command, prefix, most)

    def reported(self, report: Report) -> None:
        """Take in a report of the worker."""
        if self._worker is None:
            return
        self._runner.workers.heard(self._worker)
        if report.out_time is not None or report.frame is not None:
            self._on_progress(Progress(report.out_time, report.frame, report.speed))

    # --- how it ended ---------------------------------------------------------------------------

    def _note_loss(self, worker: Worker, lost: WorkerLost) -> None:
        self._tell(f"worker {worker.facts.id}: {lost}")
        if not lost.blamed:
            return
        if not self._lost_on:
            self._first_loss = self._runner.now()
        self._lost_on.append(worker.facts.id)
        unlucky = self._runner.lost_another(self, self._first_loss - _BEFORE)
        on_two = len(set(self._lost_on)) >= 2 or not self._runner.has_another(worker)
        if len(self._lost_on) >= (MOST_UNLUCKY if unlucky else MOST_LOSSES) and on_two:
            raise CommandFailed(
                self.command,
                f"{len(self._lost_on)} workers were lost while they ran it",
                kind=FailureKind.CRASHED,
            )

    def _note_fault(self, worker: Worker, reason: str) -> None:
        """Try another worker, and give this one nothing for a while."""
        self._faults += 1
        self._runner.workers.pause(worker, f"it could not run a command: {reason}")
        self._tell(f"worker {worker.facts.id}: {reason}")

    async def _judge(self, outcome: Outcome, worker: Worker) -> Completed | None:
        self._check_stopped()
        kind = FailureKind(outcome.kind) if outcome.state == "failed" else None
        if outcome.state == "completed":
            return await self._bring_back(outcome, worker)
        if kind is not None and kind not in _THE_WORKERS:
            raise CommandFailed(self.command, outcome.reason, outcome.stderr_tail, kind=kind)
        self._note_fault(worker, outcome.reason or outcome.state)
        return None

    async def _bring_back(self, outcome: Outcome, worker: Worker) -> Completed | None:
        for made in outcome.outputs:
            try:
                await self._unless_interrupted(self._runner.objects.fetch(made, self._workspace))
            except Damaged as error:
                self._note_fault(worker, str(error))
                return None
        worker.done += 1
        self.journey.note("back")
        self._runner.tell_done(self, outcome, worker)
        return Completed(
            outcome.stdout,
            outcome.stderr_tail,
            outcome.elapsed,
            outcome.cpu_time,
            outcome.peak_memory,
        )

    async def _run_here(self, reason: str) -> Completed:
        self._tell(f"{reason}; it runs on this machine")
        self._check_stopped()
        cores = max(1, min(self.threads, math.ceil(self.command.cpus)))
        begun: Deferred[None] = Deferred()
        place = Place(cores, lambda: begun.callback(None))
        self._runner.here.enter(place)
        try:
            await self._unless_interrupted(begun)
            running = self._local = self._runner.local.start(
                self.command, self._workspace, self.threads, self._on_progress
            )
            self.threads = running.threads
            self.here = True
            return await running.result
        finally:
            self._runner.here.leave(place)

    def _tell(self, reason: str) -> None:
        self.log.warn(
            "{key} {stage}: {reason}",
            key=self.key,
            stage=self.command.stage,
            reason=reason,
            request_id=self.request_id,
        )
