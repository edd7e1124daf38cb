"""The garbage collector: which objects it visits once the server has started."""

from __future__ import annotations

import gc
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from vidproc.app.garbage import keep_for_good


class Held:
    """An object that a module keeps forever."""


class KeepForGoodTests(SynchronousTestCase):
    def test_what_is_there_is_looked_at_no_more(self) -> None:
        """Later objects are still visited, so that nothing leaks."""
        self.addCleanup(gc.unfreeze)
        held = Held()
        keep_for_good()
        later: list[Any] = [Held()]
        watched = gc.get_objects()
        self.assertFalse(any(each is held for each in watched))
        self.assertTrue(any(each is later for each in watched))
