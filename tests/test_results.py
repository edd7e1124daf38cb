"""Results: how long they are kept, and when they count as fetched."""

from __future__ import annotations

import os
from typing import Any

from twisted.internet.defer import ensureDeferred

from tests.rig import ByHand, Rig
from tests.task_case import SchedulerTestCase
from vidproc.tasks import results
from vidproc.tasks.model import State, Task
from vidproc.tasks.output_space import reserve_output
from vidproc.tasks.results import Result
from vidproc.tasks.settings import Caller

CONTENT = b"GIF of the film"


class ResultsTestCase(SchedulerTestCase):
    def finished(self, rig: Rig, number: int = 1) -> str:
        task_id = self.submit(rig, f"192.0.2.{number}")
        self.finish_all(rig)
        return task_id

    def open(self, rig: Rig, task_id: str) -> Result:
        result: Result = self.run_coroutine(rig.tasks.result(task_id, Caller("192.0.2.1")))
        return result

    def prune(self, rig: Rig) -> list[str]:
        found: list[str] = self.run_coroutine(rig.tasks.results.prune())
        return found

    def make_space(self, rig: Rig, size: int) -> None:
        """Free `size` bytes."""
        space = rig.storage.space
        most = space.used - size
        self.run_coroutine(
            rig.tasks.results.make_space(lambda: space.used - most, lambda: None, unfetched=True)
        )

    def stored(self, rig: Rig, task_id: str) -> Task:
        task = rig.store.get(task_id)
        assert task is not None
        return task


class DownloadTests(ResultsTestCase):
    def test_a_download_does_not_keep_a_result_past_its_retention(self) -> None:
        """It is served to its end nevertheless, and its bytes count until then."""
        rig = self.rig(retention=100.0)
        task_id = self.finished(rig)
        result = self.open(rig, task_id)
        used = rig.storage.space.used
        rig.clock.advance(100)
        self.assertEqual(self.prune(rig), [task_id])
        self.assertEqual(os.listdir(rig.storage.root / "results"), [])
        self.assertEqual(os.pread(result.fd, 100, 0), CONTENT)
        self.assertEqual(rig.storage.space.used, used)
        result.close()
        self.assertEqual(rig.storage.space.used, used - len(CONTENT))

    def test_a_result_that_lost_bytes_is_not_announced_with_them(self) -> None:
        """The answer could only break off; a disk that failed may have cut the file."""
        rig = self.rig()
        task_id = self.finished(rig)
        (file,) = (rig.storage.root / "results").iterdir()
        file.write_bytes(CONTENT[:-1])
        answers = rig.connect().request({"action": "download", "task_id": task_id})
        self.assertEqual(answers[0][0]["error"]["code"], 410)
        self.assertIn("damaged", answers[0][0]["error"]["description"])

    def test_slow_downloads_do_not_keep_other_results(self) -> None:
        """However many downloads there are."""
        self.patch(results, "BATCH", 2)
        rig = self.rig(retention=100.0)
        tasks = [self.finished(rig, number) for number in range(5)]
        opened = [self.open(rig, task_id) for task_id in tasks[:3]]
        rig.clock.advance(100)
        self.assertEqual(sorted(self.prune(rig)), sorted(tasks))
        for result in opened:
            result.close()

    def test_a_result_that_is_being_downloaded_does_not_go_to_make_space(self) -> None:
        """That would free nothing. The next ones are evicted although it is the oldest."""
        self.patch(results, "BATCH", 1)
        rig = self.rig(min_retention=0.0)
        first, second = self.finished(rig, 1), self.finished(rig, 2)
        result = self.open(rig, first)
        self.make_space(rig, len(CONTENT))
        self.assertIs(self.stored(rig, first).state, State.COMPLETED)
        self.assertIs(self.stored(rig, second).state, State.EXPIRED)
        result.close()

    def test_two_who_need_space_free_no_more_than_both_need(self) -> None:
        """Each gets its space, although both ask before either has it."""
        rig = self.rig(min_retention=0.0)
        tasks = [self.finished(rig, number) for number in range(6)]
        space = rig.storage.space
        space.limit = space.used + len(CONTENT)
        disk = ByHand()
        rig.tasks.results._disk = disk
        got = [
            ensureDeferred(
                reserve_output(
                    space,
                    rig.tasks.results,
                    Task(
                        task_id=str(number),
                        type="gif",
                        parameters={},
                        peer=str(number),
                        created_at=0,
                    ),
                    2 * len(CONTENT),
                )
            )
            for number in range(2)
        ]
        disk.run_all()
        for each in got:
            self.assertEqual(self.successResultOf(each), 2 * len(CONTENT))
        kept = [self.stored(rig, task_id).state for task_id in tasks]
        self.assertEqual(kept, [State.EXPIRED] * 3 + [State.COMPLETED] * 3)
        self.assertEqual(space.used + space.reserved, space.limit)

    def test_upkeep_takes_only_so_many_results_at_a_time(self) -> None:
        """Other upkeep gets its turn; the rest follows later."""
        self.patch(results, "BATCH", 1)
        self.patch(results, "BATCHES", 2)
        rig = self.rig(retention=100.0)
        for number in range(3):
            self.finished(rig, number)
        rig.clock.advance(100)
        self.assertEqual([len(self.prune(rig)) for _ in range(3)], [2, 1, 0])


class FetchedTests(ResultsTestCase):
    def fetch(self, rig: Rig, task_id: str, start: int, end: int) -> bool:
        """Send a part; return whether the result then counts as fetched."""
        result = self.open(rig, task_id)
        result.close()
        rig.tasks.note_sent(result, start, end)
        return self.stored(rig, task_id).downloaded_at is not None

    def test_only_a_whole_transfer_counts_as_fetched(self) -> None:
        """The end alone does not count."""
        rig = self.rig()
        task_id = self.finished(rig)
        size = len(CONTENT)
        self.assertFalse(self.fetch(rig, task_id, size - 1, size))
        self.assertFalse(self.fetch(rig, task_id, 0, size - 1))
        self.assertTrue(self.fetch(rig, task_id, size - 1, size))

    def test_a_download_that_goes_on_after_breaks_counts(self) -> None:
        """Even if it resumes a little before the point where it broke off."""
        rig = self.rig()
        task_id = self.finished(rig)
        self.assertFalse(self.fetch(rig, task_id, 0, 5))
        self.assertFalse(self.fetch(rig, task_id, 7, len(CONTENT)))
        self.assertFalse(self.fetch(rig, task_id, 3, 8))
        self.assertTrue(self.fetch(rig, task_id, 8, len(CONTENT)))

    def test_over_the_wire_a_download_of_the_end_is_not_a_fetch(self) -> None:
        """Only a complete download is."""
        rig = self.rig()
        task_id = self.finished(rig)
        request: dict[str, Any] = {"action": "download", "task_id": task_id}
        rig.connect().request({**request, "offset": len(CONTENT)})
        self.assertIsNone(self.stored(rig, task_id).downloaded_at)
        answers = rig.connect().request(request)
        self.assertEqual(answers[0][2], CONTENT)
        self.assertIsNotNone(self.stored(rig, task_id).downloaded_at)
