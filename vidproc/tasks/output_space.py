"""Space for the files of an attempt, reserved again once the source has been probed."""

from __future__ import annotations

from vidproc.files.space import Space, no_space
from vidproc.tasks.model import Task
from vidproc.tasks.results import Results


class SpaceLacks(Exception):
    """`size` bytes for the files of an attempt are not available now."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.size = size


async def reserve_output(space: Space, results: Results, task: Task, size: int) -> int:
    """Reserve `size` bytes for the files of an attempt at `task`; return `size`.

    Raises `ServiceError` 507 if they can never be available, `SpaceLacks` if they are not now.
    """
    if await results.make_space(
        lambda: size - space.free() - space.reserved_for(task.task_id),
        lambda: space.reserve_output(task.task_id, size, task.peer),
        unfetched=True,
    ):
        return size
    if size + task.input_size > space.capacity():
        raise no_space(size)
    raise SpaceLacks(size)
