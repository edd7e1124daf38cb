"""Adjusts how many jobs run at a time to the machine and the queue."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import psutil

from vidproc.app.cpu_reserve import BUSY
from vidproc.app.measuring import Figures, Meter
from vidproc.tasks.queue import Queue
from vidproc.topics import Topic, TopicLogger

_MEMORY_PER_JOB = 512 << 20
_MEMORY_RESERVE = 0.1


@dataclass(frozen=True, slots=True)
class CoresElsewhere:
    """Cores of workers on other machines, and those of them that no command has."""

    cores: int = 0
    spare: int = 0


class Rebalancer:
    """Changes the queue's concurrency; each decision is a line in the log, with its reason."""

    log = TopicLogger(Topic.PERFORMANCE)

    def __init__(
        self,
        meter: Meter,
        queue: Queue,
        cores: int,
        elsewhere: Callable[[], CoresElsewhere] = CoresElsewhere,
    ) -> None:
        self._meter = meter
        self._queue = queue
        self._cores = cores
        self._elsewhere = elsewhere
        self._base = queue.concurrency

    def rebalance(self, figures: Figures) -> None:
        """Run more jobs at a time if tasks wait and the machine can take more; otherwise fewer."""
        queue = self._queue
        current = queue.concurrency
        elsewhere = self._elsewhere()
        # A task of one command per worker would leave no worker idle.
        most = max(3, self._cores, elsewhere.cores)
        per_job = max(_MEMORY_PER_JOB, self._meter.peak_memory)
        tight = figures.available_memory < figures.total_memory * _MEMORY_RESERVE
        waiting = queue.queued
        if tight and current > 1:
            self._decide(current - 1, "less than a tenth of the memory is available")
        elif current > most:
            self._decide(most, "workers have left the cluster")
        elif waiting and elsewhere.spare and queue.running >= current and current < most:
            self._decide(
                min(most, current + min(waiting, elsewhere.spare)),
                f"{waiting} tasks wait and {elsewhere.spare} cores of workers are free",
            )
        elif waiting and queue.running >= current and current < most:
            if figures.available_memory < 2 * per_job:
                self.log.info("concurrency stays {n}: too little memory for one more", n=current)
            elif figures.ffmpeg_cpu < BUSY:
                self._decide(
                    current + 1,
                    f"{waiting} tasks wait and FFmpeg uses {figures.ffmpeg_cpu:.0%} of the CPU",
                )
        elif not waiting and current != self._base:
            self._decide(self._base, "no task waits")

    async def let_short_tasks_by(self) -> None:
        """Start a short task that waits behind long ones, however busy the CPU is."""
        task = self._queue.held_up()
        if task is None or self._queue.settings.max_concurrent is not None:
            return
        if psutil.virtual_memory().available < 2 * _MEMORY_PER_JOB:
            return
        self.log.info(
            "task {task_id} ({type}) starts beside {running} others: it is short and they are not",
            task_id=task.task_id,
            type=task.type,
            running=self._queue.running,
        )
        self._queue.let_by(task)

    def _decide(self, concurrency: int, reason: str) -> None:
        self.log.info(
            "concurrency {old} -> {new}: {reason}",
            old=self._queue.concurrency,
            new=concurrency,
            reason=reason,
        )
        self._queue.set_concurrency(concurrency)
