"""The garbage collector: what it looks at once the server has started."""

from __future__ import annotations

import gc
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from vidproc.app.garbage import keep_for_good


class Held:
    """Something that modules hold for good."""


class KeepForGoodTests(SynchronousTestCase):
    def test_what_is_there_is_looked_at_no_more(self) -> None:
        """What comes afterwards is, so that nothing leaks."""
        self.addCleanup(gc.unfreeze)
        held = Held()
        keep_for_good()
        later: list[Any] = [Held()]
        watched = gc.get_objects()
        self.assertFalse(any(each is held for each in watched))
        self.assertTrue(any(each is later for each in watched))
