"""Which worker gets which command, and which workers get none."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
from twisted.trial.unittest import SynchronousTestCase

from vidproc import __version__
from vidproc.cluster import messages
from vidproc.cluster.messages import PROTOCOL, WorkerFacts, WorkerState
from vidproc.cluster.placing import Placing, Wanted
from vidproc.cluster.workers import SILENT, Grant, Worker, Workers
from vidproc.ffmpeg.binary import FFmpeg
from vidproc.ffmpeg.command import Command

FFMPEG = FFmpeg("/ffmpeg", "9.0", frozenset({"libx264"}), frozenset({"scale"}))
LAYERS = ("landlock", "memory", "seccomp")


def facts(name: str, cores: int = 4, **changed: Any) -> WorkerFacts:
    found = WorkerFacts(
        id=name,
        host="127.0.0.1",
        pid=1,
        version=__version__,
        protocol=PROTOCOL,
        ffmpeg=FFMPEG.version,
        features=messages.features_of(FFMPEG),
        layers=LAYERS,
        cores=cores,
        memory=4 << 30,
    )
    return msgspec.structs.replace(found, **changed)


def said(
    found: WorkerFacts, *, seen: float = 0.0, taking: bool = True, scratch: int = 1 << 40
) -> Any:
    """Return what a scheduler says of a worker."""
    return {
        "vidproc": messages.encode(found),
        "metrics": {"vidproc": messages.encode(WorkerState(taking, scratch))},
        "last_seen": seen,
    }


class PlacingCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.time = 0.0
        self.lost: list[tuple[str, str]] = []
        self.workers = self.with_sandbox("auto")
        self.placing = Placing(self.workers)
        self.granted: dict[str, Grant | None] = {}

    def with_sandbox(self, mode: str) -> Workers:
        def lost(worker: Worker, why: str) -> None:
            self.lost.append((worker.facts.id, why))

        return Workers(FFMPEG, mode, lambda: self.time, lost)

    def see(self, *found: Any, **more: Any) -> list[str]:
        return self.workers.update({each.id: said(each, **more) for each in found})

    def ask(self, name: str, cpus: float = 1.0, **more: Any) -> Wanted:
        memory = more.pop("memory", 1 << 20)
        command = Command("ffmpeg", (), "encoding", cpus=cpus, memory=memory)

        def granted(grant: Grant | None) -> None:
            self.granted[name] = grant

        wanted = Wanted(command, name, granted, **more)
        self.placing.ask(wanted)
        return wanted

    def given(self, name: str) -> tuple[str, int]:
        grant = self.granted[name]
        assert grant is not None
        return grant.worker.facts.id, grant.cores

    def finish(self, name: str) -> None:
        grant = self.granted.pop(name)
        assert grant is not None
        self.placing.give_back(grant)


class PlacingTests(PlacingCase):
    def test_the_worker_with_the_most_free_cores_is_first(self) -> None:
        """And gives as many as the command can use."""
        self.see(facts("a", 4), facts("b", 8))
        self.ask("1", 64.0)
        self.ask("2", 2.0)
        self.assertEqual(self.given("1"), ("b", 8))
        self.assertEqual(self.given("2"), ("a", 2))
        self.assertEqual(self.workers.free_cores, 2)

    def test_commands_wait_their_turn(self) -> None:
        """First come, first served, and each core is given once."""
        self.see(facts("a", 2))
        for number in range(4):
            self.ask(str(number))
        self.assertEqual(sorted(self.granted), ["0", "1"])
        self.finish("0")
        self.assertEqual(sorted(self.granted), ["1", "2"])
        self.assertEqual(self.placing.waiting, 1)

    def test_a_command_for_many_cores_waits_for_a_quarter(self) -> None:
        """It would take for ever on one of sixteen."""
        self.see(facts("a", 16))
        self.ask("many", 13.0)
        self.ask("all", 64.0)
        self.assertNotIn("all", self.granted)
        self.ask("one", 1.0)
        self.assertEqual(self.given("one"), ("a", 1))
        self.finish("many")
        self.assertEqual(self.given("all"), ("a", 15))

    def test_memory_is_given_once_too(self) -> None:
        """A command that needs more than a worker has runs alone there."""
        self.see(facts("a", 4))
        self.ask("1", memory=3 << 30)
        self.ask("2", memory=2 << 30)
        self.assertNotIn("2", self.granted)
        self.finish("1")
        self.assertEqual(self.given("2")[0], "a")
        self.finish("2")
        self.ask("3", memory=9 << 30)
        self.assertEqual(self.given("3")[0], "a")

    def test_without_a_worker_the_answer_is_none(self) -> None:
        """Also when none has enough scratch, or all are stopping."""
        self.ask("1")
        self.see(facts("a"), scratch=10)
        self.ask("2", scratch=20)
        self.see(facts("a"), taking=False)
        self.ask("3")
        self.assertEqual(self.granted, {"1": None, "2": None, "3": None})

    def test_a_waiting_command_is_told_when_the_last_worker_goes(self) -> None:
        """Or it would wait for ever."""
        self.see(facts("a", 1))
        self.ask("1")
        self.ask("2")
        self.see()
        self.placing.place()
        self.assertIsNone(self.granted["2"])

    def test_thousands_may_wait_for_a_thousand_workers(self) -> None:
        """No worker is asked about for each command that waits, begins or ends."""
        asked = 0
        free_cores = Worker.free_cores

        def counted(worker: Worker) -> int:
            nonlocal asked
            asked += 1
            found: int = free_cores.__get__(worker)
            return found

        self.see(*(facts(f"w{number}", 2) for number in range(1000)))
        self.patch(Worker, "free_cores", property(counted))
        for number in range(1000):
            self.ask(str(number), 2.0)
        self.assertEqual(len({self.given(name)[0] for name in self.granted}), 1000)
        asked = 0
        for number in range(1000, 3000):
            self.ask(str(number), 2.0)
        self.assertEqual(self.placing.waiting, 2000)
        self.finish("0")
        self.assertEqual(self.given("1000"), ("w0", 2))
        self.assertLess(asked, 5000)

    def test_what_fits_nowhere_keeps_no_one_else_waiting(self) -> None:
        """Neither one that needs less of anything."""
        self.see(facts("a", 8), facts("b", 8))
        self.ask("1", 7.0, memory=3 << 30)
        self.ask("2", 7.0, memory=3 << 30)
        self.ask("large", 1.0, memory=2 << 30)
        self.ask("many", 8.0)
        self.ask("larger", 2.0, memory=3 << 30)
        self.ask("small", 1.0)
        self.assertEqual(sorted(self.granted), ["1", "2", "small"])

    def test_a_command_that_begins_may_ask_for_more(self) -> None:
        """While it is being given its worker; and another may be withdrawn then."""
        self.see(facts("a", 2))
        last = Wanted(Command("ffmpeg", (), "encoding", cpus=1.0), "last", lambda _: None)

        def granted(grant: Grant | None) -> None:
            self.granted["first"] = grant
            self.placing.withdraw(last)
            self.ask("more")

        self.ask("filler", 2.0)
        self.placing.ask(Wanted(Command("ffmpeg", (), "encoding", cpus=1.0), "first", granted))
        self.placing.ask(last)
        self.finish("filler")
        self.assertEqual(sorted(self.granted), ["first", "more"])
        self.assertEqual(self.placing.waiting, 0)

    def test_what_is_withdrawn_gets_nothing(self) -> None:
        """The next one does."""
        self.see(facts("a", 1))
        self.ask("1")
        second = self.ask("2")
        self.ask("3")
        self.placing.withdraw(second)
        self.finish("1")
        self.assertEqual(sorted(self.granted), ["3"])


class SuspectTests(PlacingCase):
    def test_another_worker_is_chosen_after_a_loss(self) -> None:
        """Even one that is busier; and it goes first."""
        self.see(facts("a", 4), facts("b", 1))
        self.ask("busy", 1.0, lost_on=["a"])
        self.assertEqual(self.given("busy")[0], "b")
        self.ask("waits", 1.0, lost_on=["a"])
        self.assertNotIn("waits", self.granted)
        self.finish("busy")
        self.assertEqual(self.given("waits")[0], "b")

    def test_after_two_losses_it_runs_alone(self) -> None:
        """Nothing else is blamed if the third worker goes down; and it is not starved."""
        self.see(facts("a", 2))
        self.ask("1")
        self.ask("suspect", lost_on=["x", "y"])
        self.ask("2")
        self.assertEqual(sorted(self.granted), ["1"])
        self.finish("1")
        self.assertEqual(sorted(self.granted), ["suspect"])
        self.finish("suspect")
        self.assertEqual(sorted(self.granted), ["2"])

    def test_others_go_on_beside_a_suspect(self) -> None:
        """On other workers."""
        self.see(facts("a", 1), facts("b", 1))
        self.ask("suspect", lost_on=["x", "y"])
        self.ask("1")
        self.ask("2")
        self.assertEqual(sorted(self.granted), ["1", "suspect"])
        self.finish("1")
        self.assertEqual(sorted(self.granted), ["2", "suspect"])


class WorkerTests(PlacingCase):
    def objection(self, found: WorkerFacts, mode: str = "auto") -> str:
        self.workers = self.with_sandbox(mode)
        self.see(found)
        (worker,) = self.workers
        return worker.objection(self.time)

    def test_what_differs_is_refused_with_a_reason(self) -> None:
        """A worker must give the same result as this machine, as safely."""
        self.assertEqual(self.objection(facts("a")), "")
        self.assertIn("vidproc 0.0.9", self.objection(facts("a", version="0.0.9")))
        self.assertIn("vidproc", self.objection(facts("a", protocol=PROTOCOL + 1)))
        self.assertIn("FFmpeg 8.0", self.objection(facts("a", ffmpeg="8.0")))
        self.assertIn("encoders", self.objection(facts("a", features="other")))
        self.assertIn("without a sandbox", self.objection(facts("a", layers=())))
        self.assertEqual(self.objection(facts("a", layers=()), "off"), "")
        self.assertEqual(self.objection(facts("a"), "strict"), "")
        lacking = self.objection(facts("a", layers=("memory",)), "strict")
        self.assertIn("files, network", lacking)

    def test_an_older_build_of_the_server_counts_too(self) -> None:
        """Whichever of the two differs."""
        other = replace(FFMPEG, encoders=frozenset({"libx264", "libx265"}))
        self.assertNotEqual(messages.features_of(other), messages.features_of(FFMPEG))

    def test_a_silent_worker_loses_its_commands(self) -> None:
        """It gets no others until it is heard of again."""
        self.see(facts("a", 1), seen=1.0)
        self.ask("1")
        self.time = SILENT + 1
        self.see(facts("a", 1), seen=1.0)
        self.assertEqual([name for name, _ in self.lost], ["a"])
        self.assertEqual(self.workers.usable(), [])
        self.see(facts("a", 1), seen=2.0)
        self.assertEqual(len(self.workers.usable()), 1)

    def test_a_gone_worker_is_told_once(self) -> None:
        """With a reason if it is its own; a lost scheduler is not."""
        self.see(facts("a"), facts("b"))
        self.see(facts("a"))
        self.workers.update(None)
        self.assertEqual([name for name, _ in self.lost], ["b", "a"])
        self.assertEqual([bool(why) for _, why in self.lost], [True, False])

    def test_foreign_workers_are_ignored(self) -> None:
        """Dask may have others."""
        self.workers.update({"x": {"metrics": {}}, "y": {"metrics": {"vidproc": b"?"}}})
        self.assertEqual(list(self.workers), [])

    def test_a_paused_worker_comes_back(self) -> None:
        """After a while."""
        self.see(facts("a"))
        (worker,) = self.workers
        assert isinstance(worker, Worker)
        self.workers.pause(worker, "its disk is full")
        self.assertEqual(worker.objection(self.time), "its disk is full")
        self.time += 31
        self.workers.heard(worker)
        self.assertEqual(worker.objection(self.time), "")
