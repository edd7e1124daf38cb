"""Queued tasks that wait for space, because it was not free when an attempt started."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from vidproc.files.space import Space, no_space
from vidproc.tasks.closing import Closing
from vidproc.tasks.entries import Entries, Entry
from vidproc.tasks.model import InvalidTransition
from vidproc.tasks.results import Results


class SpaceWaiting:
    """Lets those of `entries` continue that wait for space; then `on_space` is called."""

    def __init__(
        self,
        entries: Entries,
        space: Space,
        results: Results,
        closing: Closing,
        on_space: Callable[[], None],
    ) -> None:
        self._entries = entries
        self._space = space
        self._results = results
        self._closing = closing
        self._on_space = on_space

    async def look(self) -> None:
        """Let the first task continue for which there is space, evicting results if that helps.

        If nothing is running and there can never be space for the first one, end it.
        """
        waiting = [entry for entry in self._entries.values() if entry.waits_for]
        if not waiting:
            return
        # Once for all of them: with very many results, the store takes a while to find out.
        evictable = await self._results.evictable(unfetched=True)
        for entry in waiting:
            if self._entries.get(entry.task.task_id) is not entry:
                continue  # it was cancelled meanwhile
            if self._lacking(entry) > evictable:
                continue
            lacking = partial(self._lacking, entry)
            if await self._results.make_space(lacking, lacking, unfetched=True) <= 0:
                entry.waits_for, entry.wait_reason = 0, None
                self._on_space()
                return  # it must reserve first; the others have their turn next time
        if not self._entries.attempts():
            # Inputs that wait may hold the space that all of them wait for.
            inputs = sum(entry.task.input_size for entry in self._entries.values())
            first = waiting[0]
            if inputs + first.waits_for > self._space.capacity():
                try:
                    await self._closing.refuse(first.task, no_space(first.waits_for))
                except InvalidTransition:
                    pass  # it was cancelled meanwhile

    def _lacking(self, entry: Entry) -> int:
        """Return how many bytes must become free for a task."""
        return entry.waits_for - self._space.free()
