"""Whether upkeep holds the server up when it keeps very many tasks.

Fills a data folder with tasks whose results are kept, starts the real parts on it with their
threads, and runs what a server runs every second, every 10 s and every hour, each part alone, while
a status is asked for fifty times a second; many results expire at once, and some are evicted for an
upload. Then the whole service that does all of that runs for a while. Shows the longest
time for which the loop did not turn, with and without what other programs of the machine took of
it, the most CPU time that it used between two turns, and the status' latency. On a machine that is
busy with something else, the CPU time alone decides. Linux only. Run it from a checkout:
``python -m benchmarks.upkeep --tasks 100000 --dir FOLDER``.
"""

from __future__ import annotations

import argparse
import os
import sqlite3
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.task import LoopingCall, react

from vidproc.app.garbage import keep_for_good
from vidproc.app.measuring import Meter
from vidproc.app.performance import PerformanceService
from vidproc.ffmpeg.binary import find_ffmpeg
from vidproc.ffmpeg.sandbox import Sandbox
from vidproc.files.data_folder import DataFolder, result_key
from vidproc.files.threads import WorkerThreads
from vidproc.frontends.gate import Gate
from vidproc.runners.local import LocalRunner
from vidproc.tasks.facade import Tasks
from vidproc.tasks.foundation import Foundation
from vidproc.tasks.model import State, Task, new_task_id
from vidproc.tasks.settings import Caller, Settings
from vidproc.tasks.store.store import TaskStore

ALLOWED = 0.02
"""Seconds for which nothing periodic may hold the loop."""
TICK = 0.001
"""Seconds between two turns of the loop that are looked for."""
PERIOD = 0.02
"""Seconds between two status requests."""
RESULT_SIZE = 1000
ROUNDS = 12.0
"""Seconds for which the whole service runs; it writes its figures and prunes every 10."""
EXPIRING = 0.01
"""The part of the results that expires at once."""

_NEWEST = "SELECT task_id FROM tasks ORDER BY completed_at DESC LIMIT 100"


def waited() -> float:
    """Return the seconds for which this thread could have run, but others did."""
    with open("/proc/thread-self/schedstat") as file:
        return int(file.read().split()[1]) / 1e9


class Watch:
    """Notes how long the loop stands still, and how long a status takes, in seconds.

    `stall` is wall time between two turns; `held` is that without the time for which the kernel let
    other programs go first, and `cpu` the CPU time of the loop's own thread.
    """

    def __init__(self, reactor: Any, ask: Callable[[], Awaitable[Any]]) -> None:
        self._reactor = reactor
        self._ask = ask
        self.stall = 0.0
        self.held = 0.0
        self.cpu = 0.0
        self.status: list[float] = []
        self._last = time.perf_counter()
        self._last_cpu = time.thread_time()
        self._last_waited = waited()
        self._turning = LoopingCall(self._turn)
        self._asking = LoopingCall(self._request)

    def start(self) -> None:
        """Begin."""
        self._last, self._last_cpu = time.perf_counter(), time.thread_time()
        self._last_waited = waited()
        self._turning.start(TICK)
        self._asking.start(PERIOD)

    def stop(self) -> None:
        """End."""
        self._turning.stop()
        self._asking.stop()

    def _turn(self) -> None:
        now, cpu, others = time.perf_counter(), time.thread_time(), waited()
        stall = now - self._last - TICK
        self.stall = max(self.stall, stall)
        self.held = max(self.held, stall - (others - self._last_waited))
        self.cpu = max(self.cpu, cpu - self._last_cpu)
        self._last, self._last_cpu, self._last_waited = now, cpu, others

    async def _request(self) -> None:
        began = time.perf_counter()
        await self._ask()
        self.status.append(time.perf_counter() - began)


def fill(folder: DataFolder, store: TaskStore, path: Path, count: int, now: float) -> None:
    """Make `count` completed tasks with small results; the oldest few are about to expire."""
    task = Task(
        task_id=new_task_id(), type="gif", parameters={}, peer="192.0.2.1", created_at=now - 9e4
    )
    store.uploads.admit(task, 1, 1)
    store.move(
        task.task_id,
        State.QUEUED,
        input={"container": "mp4", "width": 1920, "height": 1080, "duration": 60.0},
    )
    store.attempts.claim_next("benchmark", now, now)
    store.move(task.task_id, State.COMPLETED, completed_at=now, output_key="", output_size=0)
    with sqlite3.connect(path) as db:
        names = [row[1] for row in db.execute("PRAGMA table_info(tasks)") if row[1] != "seq"]
        others = [n for n in names if n not in {"task_id", "completed_at", "output_key", "peer"}]
        copied = ", ".join(f"'{RESULT_SIZE}'" if n == "output_size" else n for n in others)
        insert = (
            f"INSERT INTO tasks (task_id, completed_at, output_key, peer, {', '.join(others)})"
            f" SELECT ?, ?, ?, ?, {copied} FROM tasks WHERE task_id = ?"
        )
        for number in range(count):
            task_id = new_task_id()
            key = result_key(task_id, "gif")
            folder.path(key).write_bytes(bytes(RESULT_SIZE))
            age = 90_000.0 if number < count * EXPIRING else 40_000.0 * (1 - number / count)
            row = (task_id, now - age, key, f"192.0.2.{number % 250}", task.task_id)
            db.execute(insert, row)
        db.execute("DELETE FROM tasks WHERE task_id = ?", (task.task_id,))
    db.close()


async def measure(reactor: Any, folder: Path, count: int) -> int:
    """Print what each part of upkeep costs; return the exit status."""
    now = reactor.seconds()
    data = DataFolder(folder, 1 << 40)
    data.open()
    store = TaskStore(folder / "tasks.sqlite")
    store.open()
    began = time.monotonic()
    fill(data, store, folder / "tasks.sqlite", count, now)
    print(f"{count} tasks made in {time.monotonic() - began:.0f} s", flush=True)
    newest = [row[0] for row in sqlite3.connect(folder / "tasks.sqlite").execute(_NEWEST)]
    threads = {
        name: WorkerThreads(reactor, name, size)
        for name, size in {"disk": 10, "writers": 2, "store": 1, "lookup": 1}.items()
    }
    for each in threads.values():
        each.start()
    runner = LocalRunner(
        reactor, find_ffmpeg(), Sandbox(address_space=1 << 32, file_size=1 << 30), data.path
    )
    tasks = Tasks(
        Foundation(reactor, Settings(), data, threads["disk"], store, threads["store"]),
        writers=threads["writers"],
        lookup_thread=threads["lookup"],
        runner=runner,
        cores=2,
    )
    gate = Gate(reactor)
    service = PerformanceService(
        reactor, tasks, Meter(reactor, runner, gate.traffic, 2), gate, data, threads["disk"], 2
    )
    asked = 0

    async def status() -> None:
        nonlocal asked
        asked += 1
        await tasks.status(newest[asked % len(newest)], Caller("192.0.2.1"))

    async def nothing() -> None:
        pause: Deferred[None] = Deferred()
        reactor.callLater(2.0, pause.callback, None)
        await pause

    async def count_all() -> None:
        await threads["disk"].call(data.space.verify)

    async def count_growing() -> None:
        await threads["disk"].call(data.space.measure_growing)

    async def evict() -> None:
        wanted = data.space.used - 200 * RESULT_SIZE
        await tasks.results.make_space(
            lambda: data.space.used - wanted, lambda: None, unfetched=True
        )

    async def whole_service() -> None:
        service.startService()
        pause: Deferred[None] = Deferred()
        reactor.callLater(ROUNDS, pause.callback, None)
        await pause
        ending = service.stopService()
        if ending is not None:
            await ending

    parts: dict[str, Callable[[], Awaitable[Any]]] = {
        "nothing, for comparison": nothing,
        f"upkeep, {int(count * EXPIRING)} results expire": tasks.upkeep,
        "upkeep, nothing expires": tasks.upkeep,
        "counting what grows": count_growing,
        "counting everything": count_all,
        "evicting 200 results": evict,
        f"the whole service, {ROUNDS:.0f} s": whole_service,
    }
    quiet = os.getloadavg()[0] < 1.0
    if not quiet:
        print(f"the machine is busy (load {os.getloadavg()[0]:.1f}): only CPU time is judged")
    keep_for_good()  # as a server does at its start
    late = False
    print(f"{'':34} {'took':>8} {'stall':>9} {'held':>9} {'CPU':>9} {'status p50':>11} {'p99':>8}")
    for name, part in parts.items():
        watch = Watch(reactor, status)
        watch.start()
        began = time.perf_counter()
        await part()
        took = time.perf_counter() - began
        watch.stop()
        ordered = sorted(watch.status) or [0.0]
        p50, p99 = (ordered[min(len(ordered) - 1, int(len(ordered) * q))] for q in (0.5, 0.99))
        late |= max(watch.cpu, watch.held if quiet else 0.0) > ALLOWED
        print(
            f"{name:34} {took:6.2f} s {1000 * watch.stall:6.1f} ms {1000 * watch.held:6.1f} ms"
            f" {1000 * watch.cpu:6.1f} ms"
            f" {1000 * p50:8.1f} ms {1000 * p99:5.1f} ms",
            flush=True,
        )
    for each in threads.values():
        await each.stop_in_background()
    store.close()
    data.close()
    print("too long" if late else f"nothing held the loop for more than {1000 * ALLOWED:.0f} ms")
    return int(late)


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=100_000)
    parser.add_argument("--dir", help="a folder on the disk that matters")
    options = parser.parse_args()
    status = 0
    with tempfile.TemporaryDirectory(dir=options.dir) as folder:

        def run(reactor: Any) -> Deferred[None]:
            async def whole() -> None:
                nonlocal status
                status = await measure(reactor, Path(folder) / "data", options.tasks)

            return ensureDeferred(whole())

        try:
            react(run)
        except SystemExit as end:
            status = status or int(end.code or 0)
    sys.exit(status)


if __name__ == "__main__":
    main()
