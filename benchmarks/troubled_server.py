"""twistd in a process whose clock can be set, and whose watches fail by chance; for the soak.

``python troubled_server.py FILE twistd's arguments``. FILE holds the seconds by which ``time.time``
is ahead of the machine's clock, and may change while the server runs, as it does when somebody
sets the clock. The kernel's own dates (of files) do not follow. One call of a watch's listener in
`ONE_IN` raises, as one does that meets a fault in a frontend.
"""

from __future__ import annotations

import os
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path

ONE_IN = 20


class SetClock:
    """``time.time``, ahead of the machine's by what `file` says; looked up each tenth of a second.

    Whether the clock was ever set is the file's business, so a restarted server sees the same.
    """

    def __init__(self, file: Path, real: Callable[[], float] = time.time) -> None:
        self._file = file
        self._real = real
        self._ahead = 0.0
        self._next_look = 0.0

    def __call__(self) -> float:
        if time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + 0.1
            try:
                self._ahead = float(self._file.read_text())
            except (OSError, ValueError):
                pass  # no descriptor is left, or it is being written: as before
        return self._real() + self._ahead


def let_listeners_fail(chance: random.Random) -> None:
    """Have a watch's listener raise now and then, whatever it is told."""
    from vidproc.tasks.views import TaskView
    from vidproc.tasks.watches import Subscription, Watches

    tell = Watches._tell

    def tell_or_fail(self: Watches, subscription: Subscription, view: TaskView) -> None:
        if chance.randrange(ONE_IN) == 0:
            subscription.listener = fail
        tell(self, subscription, view)

    def fail(view: TaskView) -> None:
        raise RuntimeError(f"a listener of {view.task.task_id} fails on purpose")

    Watches._tell = tell_or_fail  # type: ignore[method-assign]


def main() -> None:
    """Become such a twistd."""
    del sys.path[0]  # this file's folder, which is no place for imports
    time.time = SetClock(Path(sys.argv[1]))  # before anything keeps a reference to it
    let_listeners_fail(random.Random(os.getpid()))
    sys.argv = ["twistd", *sys.argv[2:]]
    from twisted.scripts.twistd import run

    run()


if __name__ == "__main__":
    main()
