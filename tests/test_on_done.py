"""--on-done: a real command, run once for each task that ends, leaving nothing behind."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import psutil
from twisted.internet import reactor as global_reactor
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.task import deferLater
from twisted.logger import formatEvent
from twisted.trial.unittest import SynchronousTestCase, TestCase

from support.server_process import PlainClient, ServerProcess, has_ended, wait_for
from tests.rig import CLIP, InPlace, Rig, complete_step, message
from vidproc.app.on_done import AT_A_TIME, OnDone
from vidproc.tasks.model import State, Task
from vidproc.tasks.store import records
from vidproc.tasks.store.store import TaskStore
from vidproc.tasks.views import view_of_ended
from vidproc.topics import Topic, TopicLogger

reactor: Any = global_reactor


def task(number: int, **fields: Any) -> Task:
    """Return a task that is being processed."""
    return Task(
        task_id=f"{number:032x}",
        type="gif",
        parameters={"start_time": 0, "duration": 5},
        peer="192.0.2.1",
        created_at=1.0,
        **{"state": State.PROCESSING, **fields},
    )


def is_written(path: Path) -> bool:
    """Return whether a file exists and contains a line."""
    return path.exists() and path.read_text().endswith("\n")


class OnDoneTests(TestCase):
    """With a real command, store and reactor."""

    def setUp(self) -> None:
        self.root = Path(self.mktemp()).absolute()
        self.root.mkdir()
        self.store = self.open_store()

    def open_store(self) -> TaskStore:
        store = TaskStore(self.root / "tasks.sqlite")
        store.open()
        store.on_done.note_ends()
        self.addCleanup(store.close)
        return store

    def make(self, script: str, **options: Any) -> OnDone:
        """Return an `OnDone` whose command is a shell script, which runs in the test's folder."""
        command = ["/bin/sh", "-c", f"cd {self.root}\n{script}"]
        in_place: Any = InPlace()
        path_of = self.root.joinpath
        return OnDone(reactor, command, self.store.on_done, in_place, path_of, **options)

    def end(self, number: int, state: State = State.COMPLETED, **fields: Any) -> Task:
        """Let a task end in the store, as the queue would."""
        started = task(number)
        with self.store.database.transaction() as db:
            records.insert(db, started)
        return self.store.move(started.task_id, state, completed_at=2.0, **fields)

    async def until(self, condition: Callable[[], Any]) -> Any:
        deadline = time.monotonic() + 60
        while not (found := condition()):
            if time.monotonic() > deadline:
                raise AssertionError("it did not come to pass")
            await deferLater(reactor, 0.01)
        return found

    def test_the_command_reads_the_status_and_the_result_s_path(self) -> Deferred[None]:
        """As one JSON object; its environment has only PATH."""

        async def run() -> None:
            on_done = self.make("cat > told; env -u PWD -u OLDPWD -u SHLVL -u _ > environment")
            done = self.end(1, output_key="results/1.gif", output_type="gif", output_size=7)
            on_done.ended(view_of_ended(done))
            await self.until((self.root / "environment").exists)
            await on_done.stop()
            told = json.loads((self.root / "told").read_text())
            self.assertEqual(told["status"], "completed")
            self.assertEqual(told["task_id"], done.task_id)
            self.assertEqual(told["result_path"], str(self.root / "results/1.gif"))
            self.assertEqual(told["parameters"], {"start_time": 0, "duration": 5})
            self.assertIn("warnings", told)
            environment = (self.root / "environment").read_text().splitlines()
            self.assertEqual([line.partition("=")[0] for line in environment], ["PATH"])

        return ensureDeferred(run())

    def test_a_task_without_a_result_has_no_path(self) -> Deferred[None]:
        async def run() -> None:
            on_done = self.make("cat > new; mv new told")
            on_done.ended(view_of_ended(self.end(1, State.CANCELLED)))
            await self.until((self.root / "told").exists)
            await on_done.stop()
            told = json.loads((self.root / "told").read_text())
            self.assertEqual((told["status"], told["result_path"]), ("cancelled", None))

        return ensureDeferred(run())

    def test_at_most_two_at_a_time_and_all_are_run(self) -> Deferred[None]:
        async def run() -> None:
            script = "cat > /dev/null; mkdir now.$$; ls -d now.* | wc -l >> seen; sleep 0.1"
            on_done = self.make(f"{script}; rmdir now.$$; echo >> ended")
            for number in range(1, 7):
                on_done.ended(view_of_ended(self.end(number)))
            ended = self.root / "ended"
            await self.until(lambda: ended.exists() and len(ended.read_text()) == 6)
            await on_done.stop()
            seen = [int(line) for line in (self.root / "seen").read_text().split()]
            self.assertEqual(len(seen), 6)
            self.assertLessEqual(max(seen), AT_A_TIME)

        return ensureDeferred(run())

    def test_a_task_is_reported_once_even_over_restarts(self) -> Deferred[None]:
        """A task that was not reported before a stop is reported at the next start, once."""

        async def run() -> None:
            first = self.make("cat >> told")
            first.ended(view_of_ended(self.end(1)))
            await first.stop()
            self.end(2)  # the server ends before reporting it
            self.store.close()
            self.store = self.open_store()
            second = self.make("cat >> told")
            second.start()
            told = self.root / "told"
            await self.until(lambda: len(told.read_text().splitlines()) == 2)
            second.ended(view_of_ended(task(1, state=State.COMPLETED)))
            await second.stop()
            self.assertEqual(self.store.on_done.all(), [])
            ids = [json.loads(line)["task_id"][-1] for line in told.read_text().splitlines()]
            self.assertEqual(ids, ["1", "2"])

        return ensureDeferred(run())

    def test_a_command_that_takes_too_long_leaves_nothing(self) -> Deferred[None]:
        """Neither processes in other sessions nor those that ignore signals."""

        async def run() -> None:
            script = (
                "trap '' TERM\n"
                "setsid sh -c 'trap \"\" TERM; echo $$ > orphan; sleep 1000 & wait' &\n"
                "echo $$ > command; sleep 1000"
            )
            on_done = self.make(script, time_limit=4.0)
            on_done.ended(view_of_ended(self.end(1)))
            for name in ("command", "orphan"):
                path = self.root / name
                await self.until(partial(is_written, path))
            pids = [int((self.root / name).read_text()) for name in ("command", "orphan")]
            started = [psutil.Process(pid) for pid in pids]
            started += [child for process in started for child in process.children(recursive=True)]
            await on_done.stop()
            self.assertEqual([process for process in started if process.is_running()], [])

        return ensureDeferred(run())

    def test_a_command_that_fails_is_logged_and_the_next_one_runs(self) -> Deferred[None]:
        """So is one that no longer exists."""

        async def run() -> None:
            on_done = self.make("cat > /dev/null; echo wrong >&2; exit 3")
            events: list[Any] = []
            observer: Any = events.append
            self.patch(OnDone, "log", TopicLogger(Topic.TASKS, observer=observer))
            on_done.ended(view_of_ended(self.end(1)))
            on_done._command = ("/nowhere/at-all",)
            on_done.ended(view_of_ended(self.end(2)))
            await self.until(lambda: len(events) == 2)
            await on_done.stop()
            lines = [str(formatEvent(event)) for event in events]
            self.assertTrue(any("status 3: wrong" in line for line in lines), lines)
            self.assertTrue(any("status 127: /nowhere/at-all" in line for line in lines), lines)

        return ensureDeferred(run())


class EndedTests(SynchronousTestCase):
    """Which tasks are reported."""

    def setUp(self) -> None:
        self.rig = Rig(Path(self.mktemp()))
        self.addCleanup(self.rig.close)
        self.rig.store.on_done.note_ends()
        self.told: list[State] = []
        self.rig.tasks.queue.watches.on_ended.append(lambda view: self.told.append(view.task.state))

    def send(self) -> str:
        client = self.rig.connect()
        request = {
            "action": "upload",
            "type": "gif",
            "parameters": {"start_time": 0, "duration": 1},
        }
        client.send(message(request, Path(CLIP).read_bytes(), "mp4"))
        task_id: str = client.answer()["task_id"]
        return task_id

    def test_every_end_is_recorded_in_the_commit_and_then_reported(self) -> None:
        """For completed and cancelled tasks. Later changes such as expiry do not count."""
        task_id = self.send()
        while self.rig.runner.running:
            complete_step(self.rig.runner.running[0])
        self.assertEqual(self.told, [State.COMPLETED])
        self.assertEqual(self.rig.store.on_done.all(), [task_id])
        taken = self.rig.store.on_done.take(task_id)
        assert taken is not None
        self.assertIs(taken.state, State.COMPLETED)
        self.assertIsNone(self.rig.store.on_done.take(task_id))
        self.rig.store.results.expire([task_id])
        self.assertEqual(self.rig.store.on_done.all(), [])
        self.rig.connect().request({"action": "cancel", "task_id": self.send()})
        self.assertEqual(self.told, [State.COMPLETED, State.CANCELLED])
        self.assertEqual(len(self.rig.store.on_done.all()), 1)

    def test_without_the_option_nothing_is_noted(self) -> None:
        """Notes of an earlier run are deleted, instead of being reported much later."""
        self.send()
        while self.rig.runner.running:
            complete_step(self.rig.runner.running[0])
        self.assertEqual(len(self.rig.store.on_done.all()), 1)
        self.rig.store.close()
        self.rig.store.open()
        self.rig.store.on_done.forget()
        self.assertEqual(self.rig.store.on_done.all(), [])
        self.send()
        while self.rig.runner.running:
            complete_step(self.rig.runner.running[0])
        self.assertEqual(self.rig.store.on_done.all(), [])


class KilledServerTests(TestCase):
    def test_a_killed_server_leaves_no_command_and_runs_none_twice(self) -> None:
        root = Path(self.mktemp()).absolute()
        script = root / "hook.sh"
        root.mkdir()
        script.write_text(f"#!/bin/sh\necho $$ >> {root}/runs\nexec sleep 1000\n")
        script.chmod(0o700)
        server = ServerProcess(root, f"--on-done={script}")
        self.addCleanup(server.kill)  # a stop would wait for the command
        client = PlainClient(server.start().port)
        request = {
            "action": "upload",
            "type": "gif",
            "parameters": {"start_time": 0, "duration": 1},
        }
        answer = client.request(request, b"no film at all", "mp4")[0]
        self.assertEqual(client.wait(answer["task_id"])["status"], "failed")
        runs = root / "runs"
        wait_for(lambda: runs.exists() and runs.read_text().endswith("\n"))
        command = psutil.Process(int(runs.read_text()))
        server.kill()
        wait_for(lambda: has_ended(command))
        server.start()
        done = PlainClient(server.port).request(request, b"no film at all", "mp4")[0]
        self.assertEqual(PlainClient(server.port).wait(done["task_id"])["status"], "failed")
        wait_for(lambda: len(runs.read_text().splitlines()) >= 2)
        self.assertEqual(len(runs.read_text().splitlines()), 2)
