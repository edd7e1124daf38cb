"""A worker: runs commands for servers, in this machine's sandbox, as Dask hands them out.

Dask's worker and Twisted's reactor share one event loop, so a command is started by the main
thread, which lives as long as the process: when it dies the kernel kills its children.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall

from vidproc import __version__
from vidproc.cluster import entry, messages
from vidproc.cluster.messages import MadeFile, Order, Outcome, Report, WorkerFacts, WorkerState
from vidproc.cluster.object_store import (
    Damaged,
    Lacking,
    NoSpace,
    ObjectStore,
    StoreAway,
    TransferStopped,
)
from vidproc.cluster.scratch import Scratch
from vidproc.cluster.security import ClusterOptions, dask_security, local_address
from vidproc.ffmpeg.binary import FFmpeg
from vidproc.ffmpeg.command import (
    SOURCE,
    CommandFailed,
    CommandStopped,
    Completed,
    Progress,
    Workspace,
)
from vidproc.files.threads import WorkerThreads
from vidproc.request_id import within
from vidproc.runners.interface import RunningCommand
from vidproc.runners.local import LocalRunner
from vidproc.topics import Topic, TopicLogger

REPORT_EVERY = 0.5
"""Seconds between two reports of a command's progress."""
FROZEN_FOR = 10.0
"""Seconds that this process was frozen after which its commands have been given to others."""
TRANSFERS = 8
"""Threads that fetch inputs and put outputs."""
_RECONNECT = 1.0
_UNANSWERED = 5.0
"""Seconds of connecting after which the log says that there is no answer."""
_PATIENCE = 5.0
"""Seconds for the server to fetch the last outcomes of a worker that stops."""
_FRUGAL = {
    "distributed.worker.profile.enabled": False,
    "distributed.admin.system-monitor.interval": "5s",
    "distributed.admin.system-monitor.gil.enabled": False,
    "distributed.admin.tick.interval": "1s",
}
"""Dask's settings: by default it looks at itself 100 times a second, which takes 3 % of a core."""


@dataclass(eq=False)
class _Job:
    """A command on this worker."""

    order: Order
    stopped: bool = False
    given_back: str = ""
    """Why it was given back, if the worker stopped it."""
    running: RunningCommand | None = None
    latest: Progress | None = None
    began: bool = False
    fetched: int = 0
    ended: asyncio.Event = field(default_factory=asyncio.Event)


class WorkerService:
    """Runs commands; connects to the scheduler again whenever that was lost."""

    log = TopicLogger(Topic.SERVICE)

    def __init__(
        self,
        reactor: Any,
        options: ClusterOptions,
        ffmpeg: FFmpeg,
        runner: LocalRunner,
        scratch: Scratch,
        layers: tuple[str, ...],
        cores: int,
        memory: int,
        store: ObjectStore | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._reactor = reactor
        self._options = options
        self._runner = runner
        self._scratch = scratch
        self._store = store or ObjectStore(options.object_store)
        self._now = now
        self._threads = WorkerThreads(reactor, "transfers", TRANSFERS)
        self._jobs: dict[str, _Job] = {}
        self._taking = True
        self._ending = False
        self._dask: Any = None
        self._serving: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ticker = LoopingCall(self._tick)
        self._ticker.clock = reactor
        self._ticked_at = now()
        host = local_address(options.address)
        self.facts = WorkerFacts(
            id=f"{os.uname().nodename}-{os.getpid()}-{os.urandom(3).hex()}",
            host=host,
            pid=os.getpid(),
            version=__version__,
            protocol=messages.PROTOCOL,
            ffmpeg=ffmpeg.version,
            features=messages.features_of(ffmpeg),
            layers=layers,
            cores=cores,
            memory=memory,
        )

    # --- life -----------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin; call it in the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._threads.start()
        entry.service = self
        self._ticker.start(REPORT_EVERY, now=False)
        self.log.info("connecting to {address}", address=self._options.address)
        self._serving = asyncio.ensure_future(self._serve())

    async def end(self, grace: float) -> None:
        """Take no more; disconnect when what runs has ended, or was given back after `grace` s."""
        self._taking = False
        self.log.info("stopping; {count} commands run", count=len(self._jobs))
        if self._jobs:
            ended = [asyncio.ensure_future(job.ended.wait()) for job in self._jobs.values()]
            await asyncio.wait(ended, timeout=grace)
        await self._give_back_all("the worker is stopping")
        await self._until_outcomes_are_fetched()
        self._ending = True
        if self._serving is not None:
            self._serving.cancel()
            await asyncio.wait([self._serving], timeout=10)
        self._ticker.stop()
        entry.service = None
        await self._deferred(self._threads.stop_in_background())
        self._scratch.close()
        self.log.info("stopped")

    async def _until_outcomes_are_fetched(self) -> None:
        """Wait, for a while, until Dask has forgotten all commands here.

        An outcome stays on this worker until the server has fetched it and released the command.
        If the worker leaves before that, the command counts as lost.
        """
        patience = self._now() + _PATIENCE
        while self._dask is not None and self._dask.state.tasks and self._now() < patience:
            await asyncio.sleep(0.05)

    async def _serve(self) -> None:
        while not self._ending:
            try:
                await self._serve_once()
            except asyncio.CancelledError:
                raise
            except Exception:
                self.log.failure("the connection to the scheduler failed")
            await self._give_back_all("the scheduler was lost")
            self.log.warn("not connected to {address}; trying again", address=self._options.address)
            await asyncio.sleep(_RECONNECT)

    def _tell_unanswered(self) -> None:
        self.log.warn(
            "no answer from a scheduler at {address} yet: check that one runs there, that this"
            " machine can reach it, and that {tls}; still trying",
            address=self._options.address,
            tls="it uses TLS, with this certificate authority"
            if self._options.tls
            else "it does not use TLS",
        )

    async def _serve_once(self) -> None:
        import dask
        import distributed
        from distributed.worker import DEFAULT_METRICS, DEFAULT_STARTUP_INFORMATION

        dask.config.set(_FRUGAL)
        facts = messages.encode(self.facts)
        worker: Any = distributed.Worker(
            self._options.address,
            name=self.facts.id,
            nthreads=self.facts.cores,
            host=self.facts.host,
            security=dask_security(self._options),
            resources={"cores": self.facts.cores, "memory": self.facts.memory},
            memory_limit=0,
            local_directory=str(self._scratch.root / "dask"),
            dashboard=False,
            dashboard_address="127.0.0.1:0",
            startup_information={**DEFAULT_STARTUP_INFORMATION, "vidproc": lambda _: facts},
            metrics={**DEFAULT_METRICS, "vidproc": lambda _: messages.encode(self._state())},
        )
        assert self._loop is not None
        unanswered = self._loop.call_later(_UNANSWERED, self._tell_unanswered)
        try:
            await worker
            unanswered.cancel()
            self._dask = worker
            self.log.info(
                "{id} serves {address}: {cores} cores, {memory} MiB, FFmpeg {ffmpeg}",
                id=self.facts.id,
                address=self._options.address,
                cores=self.facts.cores,
                memory=self.facts.memory >> 20,
                ffmpeg=self.facts.ffmpeg,
            )
            await worker.finished()
        finally:
            unanswered.cancel()
            self._dask = None
            await worker.close(timeout=5, executor_wait=False, reason="vidproc-worker-ends")

    def _state(self) -> WorkerState:
        return WorkerState(self._taking, self._scratch.free())

    def _deferred(self, deferred: Deferred[Any]) -> asyncio.Future[Any]:
        assert self._loop is not None
        return deferred.asFuture(self._loop)

    # --- commands -------------------------------------------------------------------------------

    async def run(self, data: bytes) -> bytes:
        """Run the command of an encoded `Order`; return the encoded `Outcome`. Never raises."""
        order = messages.decode_order(data)
        if not self._taking:
            return messages.encode(Outcome("unable", "the worker is stopping"))
        with within(order.request_id):
            return await self._obey(order)

    async def _obey(self, order: Order) -> bytes:
        job = self._jobs[order.key] = _Job(order)
        started_at = self._now()
        try:
            outcome = await self._carry_out(job)
        except (CommandStopped, TransferStopped):
            outcome = Outcome("unable", job.given_back) if job.given_back else Outcome("stopped")
        except CommandFailed as error:
            outcome = Outcome("failed", error.reason, error.kind, stderr_tail=error.stderr_tail)
        except (NoSpace, StoreAway, Damaged) as error:
            self.log.error("{stage}: {error}", stage=order.command.stage, error=str(error))
            bad_inputs = not job.began and isinstance(error, (Lacking, Damaged))
            outcome = Outcome("unable", str(error), bad_inputs=bad_inputs)
        except Exception as error:
            self.log.failure("{stage}: a fault", stage=order.command.stage)
            outcome = Outcome("unable", f"a fault: {error!r}")
        finally:
            del self._jobs[order.key]
            job.ended.set()
        self.log.info(
            "{key} {stage}: {state} {reason} after {elapsed:.1f} s, {fetched} bytes fetched",
            key=order.key,
            stage=order.command.stage,
            state=outcome.state,
            reason=outcome.reason,
            elapsed=self._now() - started_at,
            fetched=job.fetched,
            request_id=order.request_id,
        )
        return messages.encode(outcome)

    async def _carry_out(self, job: _Job) -> Outcome:
        held = ExitStack()
        began = self._now()
        try:
            folder = await self._in_thread(self._prepare, job, held)
            fetched = self._now()
            completed = await self._execute(job, folder)
            executed = self._now()
            made = await self._in_thread(self._put_outputs, job, folder)
            stored = self._now()
        finally:
            await self._in_thread(held.close)
        return Outcome(
            "completed",
            stdout=completed.stdout,
            stderr_tail=completed.stderr_tail,
            elapsed=completed.elapsed,
            cpu_time=completed.cpu_time,
            peak_memory=completed.peak_memory,
            outputs=tuple(made),
            fetched=job.fetched,
            fetching=fetched - began,
            storing=stored - executed,
        )

    async def _in_thread(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return await self._deferred(self._threads.call(function, *arguments))

    def _prepare(self, job: _Job, stack: ExitStack) -> Path:
        """Fetch the inputs into a folder of the command's own. For a thread."""
        order = job.order
        output = messages.expected_output(order.inputs, order.file_size, order.space)
        folder = stack.enter_context(self._scratch.folder(output))
        files = folder / "files"
        files.mkdir(mode=0o700)
        for file in order.inputs:
            path = folder / "source" if file.name == SOURCE else files / file.name
            if file.data is not None:
                _write(path, file.data)
                continue
            kept, fetched = stack.enter_context(
                self._scratch.input(self._store, file, lambda: job.stopped)
            )
            job.fetched += fetched
            os.link(kept, path)
        return folder

    async def _execute(self, job: _Job, folder: Path) -> Completed:
        if job.stopped:
            raise CommandStopped("stopped on request")
        order = job.order
        at = folder.relative_to(self._scratch.root)
        workspace = Workspace(f"{at}/source", f"{at}/files", order.space, order.request_id)

        def progressed(progress: Progress) -> None:
            job.latest = progress

        runner = self._runner.with_limits(order.file_size, order.cpu_time)
        job.running = runner.start(
            messages.local(order.command), workspace, order.threads, progressed
        )
        job.began = True
        try:
            completed: Completed = await self._deferred(job.running.result)
        finally:
            job.running = None
        return completed

    def _put_outputs(self, job: _Job, folder: Path) -> list[MadeFile]:
        """Put what the command wrote into the object store. For a thread."""
        order, made = job.order, []
        command = messages.local(order.command)
        try:
            for name in command.outputs:
                path = folder / "files" / name
                if not path.exists():
                    continue
                key = f"{order.prefix}/{name}.{order.key.rpartition('-')[2]}"
                digest, _ = self._store.put_file(path, key, lambda: job.stopped)
                made.append(MadeFile(name, key, digest))
            if job.stopped:
                raise TransferStopped
        except BaseException:
            self._remove_quietly([file.key for file in made])
            raise
        return made

    def _remove_quietly(self, keys: list[str]) -> None:
        try:
            self._store.remove(keys)
        except StoreAway:
            pass  # the server sweeps them

    async def stop_command(self, key: str) -> bool:
        """End a command; return whether it was there. Its process has ended then."""
        job = self._jobs.get(key)
        if job is None:
            return False
        self._stop(job)
        await job.ended.wait()
        return True

    def _stop(self, job: _Job, given_back: str = "") -> None:
        if not job.stopped:
            job.given_back = given_back
        job.stopped = True
        if job.running is not None:
            job.running.stop()

    async def _give_back_all(self, reason: str) -> None:
        jobs = list(self._jobs.values())
        for job in jobs:
            self._stop(job, reason)
        for job in jobs:
            await job.ended.wait()

    # --- reports --------------------------------------------------------------------------------

    def _tick(self) -> None:
        """Report, and stop commands that no one waits for any more."""
        now = self._now()
        frozen_for, self._ticked_at = now - self._ticked_at - REPORT_EVERY, now
        for key, job in list(self._jobs.items()):
            try:
                self._look_at(key, job, frozen_for)
            except Exception:
                # It would end the LoopingCall, and with it the reports of all commands.
                self.log.failure("{key}: a fault while it was looked at", key=key)

    def _look_at(self, key: str, job: _Job, frozen_for: float) -> None:
        dask = self._dask
        if job.running is not None:
            job.running.measure()
        if frozen_for > FROZEN_FOR:
            self.log.warn("{key}: this process was frozen for {n:.0f} s", key=key, n=frozen_for)
            self._stop(job, "the worker was frozen")
        elif dask is not None and not _is_wanted(dask, key):
            self._stop(job)
        elif dask is not None:
            self._report(dask, job)

    def _report(self, dask: Any, job: _Job) -> None:
        latest = job.latest or Progress(None, None, None)
        report = Report(job.order.key, latest.out_time, latest.frame, latest.speed, job.began)
        try:
            dask.log_event(job.order.topic, messages.encode(report))
        except Exception:
            self.log.failure("a report could not be sent")


def _is_wanted(dask: Any, key: str) -> bool:
    """Return whether Dask still waits for this task here; releasing a future does not stop it."""
    task = dask.state.tasks.get(key)
    return task is not None and task.state in ("executing", "long-running")


def _write(path: Path, data: bytes) -> None:
    try:
        path.write_bytes(data)
    except OSError as error:
        raise NoSpace(str(error)) from error
