"""The fork server: what its children can and cannot do, and that nothing is lost when it fails."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import psutil

from support.server_process import has_ended
from tests.forking_case import LIMIT, ForkingCase, reactor, until
from vidproc.ffmpeg.binary import find_ffmpeg
from vidproc.ffmpeg.command import CommandFailed, CommandStopped, Completed, FailureKind, Workspace
from vidproc.ffmpeg.probe import probe_command
from vidproc.ffmpeg.sandbox import Sandbox
from vidproc.runners import forking
from vidproc.runners.ffmpeg_process import MediaProcess
from vidproc.runners.forking import ForkServer, probe_fork_server
from vidproc.runners.local import LocalRunner

CLIP = Path(__file__).parent / "media" / "friday-480p-aac.mp4"


class ForkedChildTests(ForkingCase):
    async def test_it_is_held_by_the_same_layers_as_an_executed_one(self) -> None:
        """Limits, rights, filters, namespaces, priority, session: all that the kernel tells."""
        script = self.script(
            """
            import time
            def main():
                print("here", flush=True)
                time.sleep(600)
            """
        )

        def confinement(pid: int) -> dict[str, object]:
            own = Path(f"/proc/{pid}")
            status = (own / "status").read_text().splitlines()
            fields = dict(line.split(":\t", 1) for line in status if ":\t" in line)
            kept = ("Cap", "NoNewPrivs", "Seccomp", "Uid", "Gid", "Groups", "Threads")
            spaces = {}
            for name in os.listdir(own / "ns"):
                spaces[name] = os.readlink(own / "ns" / name) == os.readlink(
                    f"/proc/self/ns/{name}"
                )
            return {
                "status": {k: v for k, v in fields.items() if k.startswith(kept)},
                "limits": (own / "limits").read_text(),
                "spaces": spaces,
                "nice": psutil.Process(pid).nice(),
                "oom": (own / "oom_score_adj").read_text(),
                "leads": os.getsid(pid) == os.getpgid(pid) == pid,
                "environment": len((own / "environ").read_bytes()),
                "descriptors": sorted(os.listdir(own / "fd")),
            }

        executed = subprocess.Popen(
            self.sandbox.wrap_script([script]), stdout=-1, stderr=-1, env={}
        )
        with executed:
            assert executed.stdout is not None
            executed.stdout.readline()
            expected = confinement(executed.pid)
            executed.kill()
        child, forked = self.fork(self.serve(script), script)
        await until(lambda: child.said[1])
        found = confinement(child.pid)
        forked.signal(signal.SIGKILL)
        await child.ended
        self.assertEqual(found, expected)
        self.assertEqual(found["descriptors"], ["0", "1", "2"])
        self.assertTrue(found["leads"])
        self.assertEqual(child.words, b".")

    async def test_it_can_start_no_program_and_no_process(self) -> None:
        """The filter refuses execve; nothing needs it."""
        script = self.script(
            """
            import os, sys
            def main():
                for attempt in (
                    lambda: os.execv(sys.argv[1], [sys.argv[1], "-V"]),
                    lambda: os.execve("/bin/sh", ["sh"], {}),
                    os.fork,
                ):
                    try: print("done", attempt())
                    except PermissionError as error: print(error.errno)
            """
        )
        said = await self.output_of(self.serve(script), script, sys.executable)
        self.assertEqual(said.split(), ["1"] * 3)

    async def test_it_has_nothing_of_the_server_and_of_earlier_jobs_in_memory(self) -> None:
        """Not the server's secrets, nor its environment, nor the names of files that came before.

        What is in its own job is found, so the search does look.
        """
        script = self.script(
            """
            import ctypes, sys
            ranges = [line.split() for line in open("/proc/self/maps")]
            def main():
                # Given as the bytes' complements, so that looking for a word puts it nowhere but
                # into `wanted`, each as often.
                wanted = [bytes(255 - b for b in bytes.fromhex(word)) for word in sys.argv[1:5]]
                found = [0] * len(wanted)
                for place, rights, *rest in ranges:
                    if rights[:2] != "rw" or (len(rest) > 3 and rest[3].startswith("[v")):
                        continue
                    start, end = (int(number, 16) for number in place.split("-"))
                    memory = ctypes.string_at(start, end - start)
                    for n, word in enumerate(wanted):
                        found[n] += memory.count(word)
                print(*found)
            """
        )

        def complement(word: str) -> str:
            return bytes(255 - b for b in word.encode()).hex()

        secret, earlier, nothing, own = (secrets.token_hex(24) for _ in range(4))
        os.environ["VIDPROC_TEST_SECRET"] = secret
        self.addCleanup(os.environ.pop, "VIDPROC_TEST_SECRET")
        server = self.serve(script)
        given = [complement(word) for word in (secret, earlier, nothing, own)]
        for _ in range(3):
            await self.output_of(server, script, *given, earlier)
        counts = [int(n) for n in (await self.output_of(server, script, *given, own)).split()]
        self.assertEqual(counts[:2], [counts[2]] * 2)
        self.assertGreater(counts[3], counts[2])

    async def test_each_file_gets_a_fresh_child(self) -> None:
        """What one changes, the next does not see."""
        script = self.script(
            """
            import os
            seen = []
            def main():
                seen.append(1)
                print(len(seen), os.getpid())
            """
        )
        server = self.serve(script)
        said = [(await self.output_of(server, script)).split() for _ in range(3)]
        self.assertEqual([count for count, _ in said], ["1"] * 3)
        self.assertEqual(len({pid for _, pid in said}), 3)

    async def test_what_it_used_counts_once(self) -> None:
        """While its fork server lives here, then in the kernel's total of our children."""
        script = self.script(
            """
            import time
            def main():
                while time.process_time() < 0.3: pass
            """
        )
        server = self.serve(script)
        await self.output_of(server, script)
        self.assertGreater(server.children_cpu, 0.25)
        await server.stop()
        self.assertEqual(server.children_cpu, 0)


class ForkServerFailureTests(ForkingCase):
    SLEEPER = """
        import time
        def main():
            print("here", flush=True)
            time.sleep(600)
        """

    def media_process(self, script: str, server: ForkServer) -> MediaProcess:
        """Start the script as the probe would be."""
        running = MediaProcess(reactor, time.monotonic, probe_command(), 1, lambda _: None, 300.0)
        sandbox = Sandbox(address_space=4 << 30, file_size=1 << 30, layers=self.layers, ready=4)
        running.spawn(sandbox.wrap_script([script]), server)
        return running

    async def test_a_child_dies_with_it_and_it_is_started_again(self) -> None:
        """As after a kill -9 or a lack of memory."""
        script = self.script(self.SLEEPER)
        server = self.serve(script)
        child, _ = self.fork(server, script)
        await until(lambda: child.said[1])
        first = server.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        self.assertIsInstance(await child.ended, RuntimeError)
        await until(lambda: has_ended(child.pid))
        await until(lambda: server.pid not in (None, first))
        again, forked = self.fork(server, script)
        await until(lambda: again.said[1])
        forked.signal(signal.SIGTERM)
        await again.ended

    async def test_a_command_is_executed_when_it_dies(self) -> None:
        """The same command, to the same end."""
        script = self.script(
            """
            def main():
                print("answer")
            """
        )
        server = self.serve(script)
        assert server.pid is not None
        os.kill(server.pid, signal.SIGSTOP)
        running = self.media_process(script, server)
        os.kill(server.pid, signal.SIGKILL)
        done = await running.result
        self.assertEqual((done.stdout, done.stderr_tail), (b"answer\n", ""))

    async def test_a_command_is_executed_when_it_hangs(self) -> None:
        """It is killed then, and another takes its place."""
        self.patch(forking, "PATIENCE", 0.2)
        script = self.script("def main(): print('answer')")
        server = self.serve(script)
        hanging = server.pid
        assert hanging is not None
        os.kill(hanging, signal.SIGSTOP)
        done: Completed = await self.media_process(script, server).result
        self.assertEqual(done.stdout, b"answer\n")
        await until(lambda: has_ended(hanging))
        await until(lambda: server.pid not in (None, hanging))

    async def test_the_end_of_a_child_is_not_waited_for_for_ever(self) -> None:
        """If it hangs before it reports that."""
        script = self.script(self.SLEEPER)
        server = self.serve(script)
        child, forked = self.fork(server, script)
        await until(lambda: child.said[1])
        self.patch(forking, "PATIENCE", 0.2)  # only now, because starting may take longer
        assert server.pid is not None
        os.kill(server.pid, signal.SIGSTOP)
        forked.signal(signal.SIGKILL)
        self.assertIsInstance(await child.ended, RuntimeError)

    async def test_without_it_commands_are_executed(self) -> None:
        """If it cannot be started at all."""
        server = ForkServer(reactor, lambda: ["/nonexistent/python"])
        server.start()
        self.addCleanup(server.stop)
        script = self.script("def main(): print('answer')")
        done = await self.media_process(script, server).result
        self.assertEqual(done.stdout, b"answer\n")

    async def test_a_crash_of_a_child_replaces_it(self) -> None:
        """So no file can try again at the same addresses; other children go on."""
        script = self.script(
            """
            import os, signal, sys, time
            def main():
                if len(sys.argv) > 1:
                    print("here", flush=True)
                    time.sleep(600)
                os.kill(os.getpid(), signal.SIGSEGV)
            """
        )
        server = self.serve(script)
        first = server.pid
        assert first is not None
        bystander, forked = self.fork(server, script, "stay")
        await until(lambda: bystander.said[1])
        crashing = self.media_process(script, server)
        error: Any = await self.assertFailure(crashing.result, CommandFailed)
        self.assertIs(error.kind, FailureKind.CRASHED)
        self.assertNotIn(server.pid, (None, first))
        self.assertFalse(has_ended(bystander.pid))
        forked.signal(signal.SIGTERM)
        await bystander.ended
        await until(lambda: has_ended(first))

    async def test_it_is_replaced_from_time_to_time(self) -> None:
        """No child is lost on the way."""
        self.patch(forking, "MOST_FORKS", 3)
        script = self.script("def main(): print('answer')")
        server = self.serve(script)
        pids = set()
        for _ in range(4):
            pids.add(server.pid)
            self.assertEqual(await self.output_of(server, script), "answer\n")
        self.assertEqual(len(pids), 2)

    async def test_a_stopped_command_is_gone(self) -> None:
        """Whether or not it has been forked when it is stopped."""
        script = self.script(self.SLEEPER)
        server = self.serve(script)
        early = self.media_process(script, server)
        early.stop()
        await self.assertFailure(early.result, CommandStopped)
        late = self.media_process(script, server)
        await until(lambda: late.pid)
        late.kill()
        await self.assertFailure(late.result, CommandStopped)
        assert late.pid is not None
        self.assertTrue(has_ended(late.pid))

    async def test_the_launchers_refusal_is_told(self) -> None:
        """The command has not run then."""
        script = self.script("def main(): print('ran')")
        server = self.serve(script)
        running = MediaProcess(reactor, time.monotonic, probe_command(), 1, lambda _: None, 300.0)
        argv = self.sandbox.wrap_script([script])
        argv.insert(argv.index("--"), "limit=RLIMIT_CPU:nonsense")
        running.spawn(argv, server)
        error: Any = await self.assertFailure(running.result, CommandFailed)
        self.assertIs(error.kind, FailureKind.OURS)
        self.assertIn("launcher:", error.stderr_tail)

    async def test_stop_leaves_none(self) -> None:
        """Neither it nor its children."""
        script = self.script(self.SLEEPER)
        server = self.serve(script)
        child, _ = self.fork(server, script)
        await until(lambda: child.said[1])
        pid = server.pid
        assert pid is not None
        await server.stop()
        self.assertTrue(has_ended(pid))
        await until(lambda: has_ended(child.pid))

    def test_a_killed_server_leaves_none(self) -> None:
        """kill -9 of the service ends the fork server, and that ends its children."""
        script = self.script(self.SLEEPER)
        program = textwrap.dedent(
            f"""
            from twisted.internet import reactor
            from tests.forking_case import Child
            from vidproc.ffmpeg.sandbox import Sandbox, find_layers, fork_server, job_of
            from vidproc.runners.forking import ForkServer
            server = ForkServer(reactor, lambda: fork_server({script!r}))
            server.start()
            sandbox = Sandbox(address_space=4 << 30, file_size=1 << 30, layers=find_layers("auto"))
            child = Child()
            child.childDataReceived = lambda fd, data: print(server.pid, child.pid, flush=True)
            server.fork(child, job_of(sandbox.wrap_script([{script!r}])))
            reactor.run()
            """
        )
        service = subprocess.Popen(
            [sys.executable, "-c", program],
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parent.parent,
        )
        assert service.stdout is not None
        pids = [int(word) for word in service.stdout.readline().split()]
        service.kill()
        service.wait()
        service.stdout.close()
        self.assertEqual(len(pids), 2)
        end = time.monotonic() + LIMIT
        while not all(has_ended(pid) for pid in pids) and time.monotonic() < end:
            time.sleep(0.01)
        self.assertEqual([has_ended(pid) for pid in pids], [True, True])


class ForkedProbeTests(ForkingCase):
    async def test_it_finds_what_an_executed_one_finds(self) -> None:
        """Of good and of bad files, as input and as result."""
        server = probe_fork_server(reactor, self.layers)
        assert server is not None
        server.start()
        self.addCleanup(server.stop)
        noise = self.root / "noise.mp4"
        noise.write_bytes(secrets.token_bytes(5000))
        for path in (CLIP, noise):
            for verify in (False, True):
                answers = []
                for one in (server, None):
                    runner = LocalRunner(
                        reactor,
                        find_ffmpeg(),
                        self.sandbox,
                        lambda key: Path("/", key),
                        fork_server=one,
                    )
                    workspace = Workspace(str(path)[1:], str(self.root)[1:])
                    command = probe_command(verify=verify)
                    done = await runner.start(command, workspace, 1, lambda _: None).result
                    answers.append(json.loads(done.stdout))
                self.assertEqual(answers[0], answers[1])
        self.assertGreater(server.children_cpu, 0)
