"""Space for an upload: reserved at its admission, or step by step while its bytes arrive."""

from __future__ import annotations

from functools import partial

from vidproc.files.space import Space, no_space
from vidproc.tasks.model import Task
from vidproc.tasks.orders import Order
from vidproc.tasks.results import Results

AHEAD = 4 << 20
"""Bytes by which the reserved space should be ahead of the bytes received."""
STEP = 32 << 20
"""Bytes that are reserved at a time while bytes arrive."""


class UploadSpace:
    """The space of one upload. Sizes in bytes.

    Announcing a large upload must not evict results that nobody has fetched. Space that needs this
    is reserved step by step, while the bytes arrive (`take_step`).
    """

    def __init__(self, space: Space, results: Results, task: Task, order: Order) -> None:
        self.allowed = 0
        """Bytes of the file that may arrive before more space must be reserved."""
        self._space = space
        self._results = results
        self._task = task
        self._order = order

    async def claim(self, size: int, offset: int) -> None:
        """Reserve space for the `size` bytes from `offset` on, and for the output.

        Reserves less if unfetched results would have to be evicted for the rest. Raises
        `ServiceError` 507 if there can never be enough.
        """
        task = self._task
        if not task.input_size:
            size = STEP  # the length follows: reserve the first step
        wanted = size + self._order.estimate_size(task.input_size)
        lacking = partial(self._space.lacking, task.task_id, wanted, task.peer)

        def reserve_all() -> bool:
            if lacking():
                return False
            self._space.reserve(task.task_id, wanted, task.peer)
            return True

        if await self._results.make_space(lacking, reserve_all, unfetched=False):
            self.allowed = offset + size
            return
        if lacking() > await self._results.evictable(unfetched=True):
            raise no_space(wanted)
        affordable = self._space.affordable(task.task_id, task.peer)
        self._space.reserve(task.task_id, affordable, task.peer)
        self.allowed = offset + min(size, affordable)

    def runs_low(self, received: int, size: int) -> bool:
        """Return whether `received` bytes of `size` come near the allowed ones."""
        return self.allowed < size and received + AHEAD > self.allowed

    async def take_step(self, size: int) -> None:
        """Make space for the next bytes of a file of `size`; raises `ServiceError` 507."""
        task = self._task
        step = min(size - self.allowed, STEP)

        def claim() -> tuple[str, int, str]:
            return task.task_id, self._space.reserved_for(task.task_id) + step, task.peer

        def reserve() -> None:
            self._space.reserve(*claim())
            self.allowed += step

        await self._results.make_space(
            lambda: self._space.lacking(*claim()), reserve, unfetched=True
        )

    def release(self) -> None:
        """Release the reservation."""
        self._space.release(self._task.task_id)
