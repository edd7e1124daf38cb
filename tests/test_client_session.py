"""Complete runs of the command against a scripted server, in this process."""

from __future__ import annotations

import shlex
import signal
from pathlib import Path
from typing import Any

from tests.client_harness import (
    LIST,
    TASK,
    SessionCase,
    refusal,
    status,
)
from vidproc.client.command_line import parse_command_line
from vidproc.client.files import PartFile


class ProcessTests(SessionCase):
    """Processing a file from end to end."""

    gif = "FILM --type gif --start-time 0 --duration 5 --check-interval 0.01"

    async def test_the_result_is_beside_the_input(self) -> None:
        """It is named after the input and its kind; the last line of standard output is its
        path."""
        self.assertEqual(await self.run_command(self.gif), 0)
        target = self.folder / "film_processed.gif"
        self.assertEqual(target.read_bytes(), self.server.result)
        self.assertEqual(self.printed.splitlines()[-1], str(target))
        self.assertEqual(
            sorted(path.name for path in self.folder.iterdir()), ["film.mp4", target.name]
        )
        for text in ("queued: position 1", "processing: encoding 50 %", "Done: 97.7 KiB -> "):
            self.assertIn(text, self.errors)

    async def test_the_result_may_be_moved_away_as_soon_as_it_is_there(self) -> None:
        """By a script that watches the folder, for instance."""
        finish = PartFile.finish

        def finish_and_move(part: PartFile, *arguments: Any, **keywords: Any) -> Path:
            target = finish(part, *arguments, **keywords)
            target.rename(self.folder / "moved")
            return target

        self.patch(PartFile, "finish", finish_and_move)
        self.assertEqual(await self.run_command(self.gif), 0)
        self.assertEqual((self.folder / "moved").read_bytes(), self.server.result)
        self.assertIn("Done: 97.7 KiB -> ", self.errors)

    async def test_everything_goes_over_one_connection(self) -> None:
        """Upload, watch, details, download."""
        await self.run_command(self.gif)
        self.assertEqual(self.server.actions(), ["upload", "watch", "status", "download"])
        self.assertEqual(self.logged.getvalue().count("connected to"), 1)

    async def test_an_output_file_or_folder_is_used(self) -> None:
        """A folder gets the default name."""
        target = self.folder / "x.gif"
        self.assertEqual(await self.run_command(f"{self.gif} --output {target}"), 0)
        self.assertEqual(target.read_bytes(), self.server.result)
        other = self.folder / "other"
        other.mkdir()
        self.server.plan = [status("completed")]
        self.assertEqual(await self.run_command(f"{self.gif} --output {other}"), 0)
        self.assertTrue((other / "film_processed.gif").exists())

    async def test_a_default_name_that_is_taken_stays_what_it_is(self) -> None:
        """The result gets the next free name; with `--force` or `--output` it replaces the file."""
        mine = self.folder / "film_processed.gif"
        mine.write_bytes(b"mine")
        for name in ("film_processed_2.gif", "film_processed_3.gif"):
            self.server.plan = [status("completed")]
            self.assertEqual(await self.run_command(self.gif), 0)
            self.assertEqual((self.folder / name).read_bytes(), self.server.result)
            self.assertIn(name, self.printed)
        self.assertEqual(mine.read_bytes(), b"mine")
        self.server.plan = [status("completed")]
        self.assertEqual(await self.run_command(f"{self.gif} --force"), 0)
        self.assertEqual(mine.read_bytes(), self.server.result)
        mine.write_bytes(b"mine")
        self.server.plan = [status("completed")]
        self.assertEqual(await self.run_command(f"{self.gif} --output {mine}"), 0)
        self.assertEqual(mine.read_bytes(), self.server.result)

    async def test_a_hostile_server_names_no_program(self) -> None:
        """Results of unknown kinds are called `.bin`."""
        for number, kind in enumerate(("sh", "desktop", "EXE", "html", "svg", "py"), 1):
            self.server.kind = kind
            self.server.plan = [status("completed")]
            self.assertEqual(await self.run_command(self.gif), 0)
            suffix = "" if number == 1 else f"_{number}"
            self.assertTrue((self.folder / f"film_processed{suffix}.bin").exists(), kind)

    async def test_warnings_are_printed(self) -> None:
        """The server's sentences are shown, made printable."""
        self.server.details = {"warnings": ["The duration was \x1bcut."], "output": {}}
        self.assertEqual(await self.run_command(self.gif), 0)
        self.assertIn("Warning: The duration was \\x1bcut.", self.errors)

    async def test_a_simple_server_will_do(self) -> None:
        """One without watch, details or checksum, and with one request per connection."""
        self.server.unknown = {"watch"}
        self.server.closes_after_answer = True
        self.server.bare = True
        self.assertEqual(await self.run_command(self.gif), 0)
        self.assertEqual(
            (self.folder / "film_processed.gif").read_bytes(), self.server.result, self.errors
        )

    async def test_a_failed_task_exits_with_1(self) -> None:
        """Error and solution are shown, and there is no file."""
        self.server.plan = [
            status("queued"),
            status("failed", error="No video inside.", solution="Send a video."),
        ]
        self.assertEqual(await self.run_command(self.gif), 1)
        self.assertIn("The processing failed: No video inside.\nSend a video.\n", self.errors)
        self.assertEqual(self.printed, "")
        self.assertEqual(list(self.folder.iterdir()), [self.path])

    async def test_a_cancelled_or_expired_task_exits_with_1(self) -> None:
        """With a line that says which."""
        for state in ("cancelled", "expired"):
            self.server.plan = [status(state)]
            self.assertEqual(await self.run_command(self.gif), 1)
            self.assertIn(state, self.errors)

    async def test_a_refusal_exits_with_5(self) -> None:
        """Description and solution are shown, and logged."""
        for code in (401, 413, 415, 422, 429, 503, 507):
            self.server.refuse_head = refusal(code)
            self.assertEqual(await self.run_command(self.gif), 5)
            self.assertIn(f"({code}): Description of {code}.\nSolution of {code}.\n", self.errors)
        self.assertIn("Description of 507", self.logged.getvalue())

    async def test_a_refusal_that_names_another_task_says_how_to_watch_it(self) -> None:
        """If the address already has a task, the message says which."""
        self.server.refuse["upload"] = refusal(429, task_id="abc")
        self.assertEqual(await self.run_command(self.gif), 5)
        self.assertIn("vidproc --watch abc", self.errors)

    async def test_waiting_too_long_exits_with_4_and_says_how_to_go_on(self) -> None:
        """The printed command line fetches the result."""
        self.server.silent_watch = True
        self.assertEqual(await self.run_command(f"{self.gif} --max-wait-time 0.05"), 4)
        self.assertIn(TASK, self.errors)
        self.assertIn("--max-wait-time", self.errors)
        [line] = [line for line in self.errors.splitlines() if "--download" in line]
        words = shlex.split(line.partition(": ")[2])
        options = parse_command_line(words[1:])
        self.assertEqual(
            (options.action, options.task_id, options.port), ("download", TASK, self.port)
        )
        self.assertEqual(options.output, self.folder)

    async def test_detaching_prints_the_task_and_ends(self) -> None:
        """Exit status 0, the id on standard output, the commands on standard error."""
        self.assertEqual(await self.run_command(f"{self.gif} --detach"), 0)
        self.assertEqual(self.printed, f"{TASK}\n")
        self.assertEqual(self.server.actions(), ["upload"])
        self.assertIn(f"vidproc --download {TASK}", self.errors)

    async def test_a_cut_connection_is_survived_in_every_phase(self) -> None:
        """Upload, watch and download are resumed, each with a notice."""
        self.server.cut_upload_at = 50_000
        self.server.cut_watch = True
        self.server.cut_download_at = 3000
        self.assertEqual(await self.run_command(self.gif), 0)
        target = self.folder / "film_processed.gif"
        self.assertEqual(target.read_bytes(), self.server.result)
        self.assertEqual(self.errors.count("Trying again"), 3)

    async def test_a_connection_lost_for_good_exits_with_3(self) -> None:
        """After the task was accepted it says how to fetch the result later."""
        server = self.server

        def gone(peer: Any) -> None:
            server.cut_always = True
            peer.cut()

        self.server.do_watch = gone  # type: ignore[method-assign]
        self.assertEqual(await self.run_command(self.gif), 3)
        self.assertIn("lost for good", self.errors)
        self.assertIn(f"vidproc --download {TASK}", self.errors)

    async def test_a_damaged_download_gives_no_file(self) -> None:
        """A wrong checksum is reported, and no file has the result's name."""
        self.server.checksum = "0" * 64
        self.assertEqual(await self.run_command(self.gif), 1)
        self.assertIn("damaged", self.errors)
        self.assertEqual(list(self.folder.iterdir()), [self.path])

    async def test_a_leftover_that_does_not_fit_is_fetched_anew(self) -> None:
        """A partial file of something else only costs another download."""
        left = self.folder / f".vidproc-{TASK}.part"
        for content in (b"something else" * 10, b"x" * 100_000):
            left.write_bytes(content)
            self.server.plan = [status("completed")]
            self.assertEqual(await self.run_command(self.gif), 0, self.errors)
            target = self.folder / "film_processed.gif"
            self.assertEqual(target.read_bytes(), self.server.result)

    async def test_an_interrupt_says_how_to_go_on(self) -> None:
        """Ctrl-C while the task is processed: status 130 and three command lines."""
        self.server.silent_watch = True
        session = self.session(self.gif)
        running = session.start()
        real = self.server.whole

        def whole(peer: Any) -> None:
            real(peer)
            if peer.fields["action"] == "watch":
                session.interrupt(signal.SIGINT)

        self.server.whole = whole  # type: ignore[method-assign]
        self.assertEqual(await running, 130)
        for option in ("--watch", "--download", "--cancel"):
            self.assertIn(f"vidproc {option} {TASK}", self.errors)

    async def test_a_fault_of_ours_is_one_line(self) -> None:
        """The traceback is only in the log."""
        session = self.session(self.gif)
        self.patch(session, "_act", lambda: 1 / 0)
        self.assertEqual(await session.start(), 1)
        self.assertIn("client.log", self.errors)
        self.assertNotIn("Traceback", self.errors)
        self.assertIn("ZeroDivisionError", self.logged.getvalue())


class TaskCommandTests(SessionCase):
    """``--status``, ``--watch``, ``--download``, ``--cancel`` and ``--server-info``."""

    async def test_status_prints_a_block(self) -> None:
        """Names and values; exit status 0, whatever the task's status."""
        self.server.details = {"status": "failed", "error": "E.", "warnings": ["W."]}
        self.assertEqual(await self.run_command(f"--status {TASK}"), 0)
        for line in (f"Task:    {TASK}", "Status:  failed", "Error:   E.", "Warning: W."):
            self.assertIn(line, self.printed)

    async def test_an_unknown_task_exits_with_5(self) -> None:
        """The server's message is shown."""
        for action in ("status", "watch", "download", "cancel"):
            self.server.refuse[action] = refusal(404)
            line = f"--{action} x" + (" --output FOLDER" if action == "download" else "")
            self.assertEqual(await self.run_command(line), 5)
        self.assertEqual(self.errors.count("Description of 404."), 4)

    async def test_watch_follows_to_the_end(self) -> None:
        """Exit status 0 if it completed, 1 if it failed."""
        self.assertEqual(await self.run_command(f"--watch {TASK} --check-interval 0.1"), 0)
        self.assertIn("processing: encoding", self.errors)
        self.assertIn(f"vidproc --download {TASK}", self.errors)
        self.server.plan = [status("failed", error="E.")]
        self.assertEqual(await self.run_command(f"--watch {TASK}"), 1)

    async def test_download_names_the_file_after_the_task(self) -> None:
        """In the given folder, or the current one."""
        self.assertEqual(await self.run_command(f"--download {TASK} --output FOLDER"), 0)
        target = self.folder / f"{TASK}_processed.gif"
        self.assertEqual(target.read_bytes(), self.server.result)
        self.assertEqual(self.printed, f"{target}\n")

    async def test_download_of_an_unfinished_task_says_how_to_watch_it(self) -> None:
        """409 is a refusal with a next step; nothing is left behind."""
        self.server.refuse["download"] = refusal(409)
        self.assertEqual(await self.run_command(f"--download {TASK} --output FOLDER"), 5)
        self.assertIn(f"vidproc --watch {TASK}", self.errors)
        self.assertEqual(list(self.folder.iterdir()), [self.path])

    async def test_cancel_says_what_it_did(self) -> None:
        """On standard output."""
        self.assertEqual(await self.run_command(f"--cancel {TASK}"), 0)
        self.assertEqual(self.printed, f"{TASK}: cancelled\n")

    async def test_list_prints_a_line_for_each_task(self) -> None:
        """The ID comes first, for scripts; the server's text can't control the terminal."""
        self.server.tasks = [
            {**status("processing", stage="encoding"), "created_at": "2026-01-02T03:04:05Z"},
            {**status("failed"), "task_id": "short", "type": "compress\x1b"},
            "nonsense",
        ]
        self.assertEqual(await self.run_command(LIST, token="s3cret"), 0)
        self.assertEqual(
            self.printed.splitlines(),
            [
                f"{TASK}  gif           2026-01-02T03:04:05Z  processing: encoding",
                f"{'short':<32}  compress\\x1b  {'':<20}  failed",
            ],
        )
        self.assertEqual(self.server.requests, [{"action": "list", "token": "s3cret"}])

    async def test_an_empty_list_says_so(self) -> None:
        """On standard error, because each line of standard output is a task."""
        cases: list[list[Any] | None] = [[], None]
        for tasks in cases:
            self.patch(self.server, "tasks", tasks)
            self.assertEqual(await self.run_command(LIST, token="s3cret"), 0)
        self.assertEqual(self.printed, "")
        self.assertEqual(self.errors.count("There are no tasks of this token."), 2)

    async def test_a_list_that_the_server_refuses_exits_with_5(self) -> None:
        """A server without tokens does that."""
        self.assertEqual(await self.run_command(LIST), 5)
        self.assertIn("Description of 401.", self.errors)

    async def test_server_info_prints_version_limits_and_operations(self) -> None:
        """Readable, one thing per line."""
        self.assertEqual(await self.run_command("--server-info"), 0)
        for text in ("9.9", "1.0 GiB", "24 h 00 min", "fps (1 to 50)"):
            self.assertIn(text, self.printed)
