"""The command ``vidproc``: its options, its messages, its exit statuses, its files."""

from __future__ import annotations

import contextlib
import datetime
import io
import ipaddress
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from twisted.internet import reactor, ssl
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.error import ProcessTerminated
from twisted.internet.protocol import Factory, ProcessProtocol
from twisted.trial.unittest import SynchronousTestCase

from tests.test_client_protocol import TASK, ScriptedServer, ServerCase, refusal, status
from vidproc import __version__
from vidproc.client import cli
from vidproc.client.cli import parse_command_line
from vidproc.client.display import PlainDisplay
from vidproc.client.options import Options, UsageError
from vidproc.client.protocol import tls_options
from vidproc.client.session import (
    Session,
    cancel_sentence,
    info_block,
    open_log,
    safe_stem,
    status_block,
    summary,
)
from vidproc.operations.parameters import PARAMETERS

LIST = f"--list --token-file {shlex.quote(__file__)}"
COMMAND = [sys.executable, "-m", "vidproc.client"]


class CommandLineCase(SynchronousTestCase):
    """A test of the options, in a folder with a film."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.folder.mkdir(parents=True)
        self.film = self.folder / "film.mp4"
        self.film.write_bytes(b"not really a film")

    def parse(self, line: str, **places: Any) -> Options:
        """Return the options of a command line in which FILM stands for the film."""
        words = [str(self.film) if word == "FILM" else word for word in shlex.split(line)]
        return parse_command_line(words)

    def usage(self, line: str) -> tuple[str, ...]:
        """Return the lines of the usage error that a command line must be."""
        return self.assertRaises(UsageError, self.parse, line).lines


class ParameterTests(CommandLineCase):
    """The options of the operations."""

    def test_the_table_of_options_is_the_servers(self) -> None:
        """Each parameter of each type has its option, and none has more."""
        for operation, kind in PARAMETERS.items():
            mine = {name for name, types in cli.OPTION_TYPES.items() if operation in types}
            self.assertEqual(mine, set(kind.__struct_fields__), operation)
        self.assertEqual(cli.TYPES, tuple(PARAMETERS))

    def test_every_option_arrives_as_the_wire_wants_it(self) -> None:
        """Numbers are numbers, sizes bytes, bit rates bits a second, times seconds."""
        for line, expected in {
            "--type compress": {},
            "--type compress --quality 92.5 --codec hevc --preset small --target-size 8M": {
                "quality": 92.5,
                "codec": "hevc",
                "preset": "small",
                "target_size": 8 << 20,
            },
            "--type resolution --width 1280 --height 720 --fit crop": {
                "width": 1280,
                "height": 720,
                "fit": "crop",
            },
            "--type aspect_ratio --aspect-ratio 2.39:1": {"aspect_ratio": "2.39:1"},
            "--type extract_audio --bitrate 192k --track 2": {"bitrate": 192_000, "track": 2},
            "--type extract_audio --bitrate 64000 --track eng": {"bitrate": 64_000, "track": "eng"},
            "--type gif --start-time 00:01:30.5 --duration 5 --fps 12.5 --max-size 2M": {
                "start_time": 90.5,
                "duration": 5,
                "fps": 12.5,
                "max_size": 2 << 20,
            },
            "--type webm --start-time 0 --duration 5 --quality 30 --codec av1 --width 640": {
                "start_time": 0,
                "duration": 5,
                "quality": 30,
                "codec": "av1",
                "width": 640,
            },
        }.items():
            self.assertEqual(self.parse(f"FILM {line}").parameters, expected, line)

    def test_resolution_needs_both_sides(self) -> None:
        """Exactly these two lines."""
        for line in ("", "--width 1280", "--height 720"):
            self.assertEqual(
                self.usage(f"FILM --type resolution {line}"),
                (
                    "Resolution change requires both --width and --height",
                    "Example: --width 1280 --height 720",
                ),
            )

    def test_aspect_ratio_names_its_option(self) -> None:
        """Missing, malformed or out of range: the option and an example are there."""
        for line in ("", "--aspect-ratio 16x9", "--aspect-ratio 100:1", "--aspect-ratio 0:0"):
            first, second = self.usage(f"FILM --type aspect_ratio {line}")
            self.assertIn("--aspect-ratio", first)
            self.assertEqual(second, 'Example: --aspect-ratio "16:9"')

    def test_clips_need_start_and_duration(self) -> None:
        """GIF and WebM alike."""
        for kind in ("gif", "webm"):
            for line in ("", "--start-time 0", "--duration 5"):
                first, second = self.usage(f"FILM --type {kind} {line}")
                self.assertIn("requires both --start-time and --duration", first)
                self.assertEqual(second, "Example: --start-time 0 --duration 5")

    def test_values_out_of_range_name_the_option_and_the_range(self) -> None:
        """Said in terms of the command, before anything is sent."""
        clip = "--start-time 0 --duration 5"
        for line, texts in {
            "--type compress --quality 100": ("--quality must be", "from 70 to 99"),
            "--type compress --codec vp9": ("--codec must be one of", "h264"),
            "--type compress --target-size 0": ("--target-size must be",),
            "--type compress --target-size big": ("--target-size must be a size",),
            "--type compress --preset slow": ("--preset must be one of",),
            "--type resolution --width 8 --height 720": ("--width must be", "from 16 to 8192"),
            "--type resolution --width 12.5 --height 720": ("--width must be a whole number",),
            "--type resolution --width 640 --height 480 --fit x": ("--fit must be one of", "pad"),
            "--type extract_audio --bitrate 1k": ("--bitrate must be", "from 32000 to 320000"),
            "--type extract_audio --bitrate loud": ("--bitrate must be bits per second",),
            "--type extract_audio --track ?": ("--track must be", "language"),
            f"--type gif {clip} --fps 51": ("--fps must be", "from 1 to 50"),
            "--type gif --start-time 0 --duration 601": ("--duration must be", "600 seconds"),
            "--type gif --start-time 0 --duration 0": ("--duration must be more than 0",),
            "--type gif --start-time -1 --duration 5": ("--start-time must be seconds",),
            "--type webm --start-time x --duration 5": ("--start-time must be seconds",),
            f"--type webm {clip} --quality 3": ("--quality must be", "from 4 to 63"),
            f"--type webm {clip} --quality 30.5": ("--quality must be a whole number",),
        }.items():
            first, second = self.usage(f"FILM {line}")
            for text in texts:
                self.assertIn(text, first, line)
            self.assertTrue(second.startswith("Example: "), line)

    def test_an_option_of_another_type_says_where_it_belongs(self) -> None:
        """Ignoring it would surprise."""
        first, _ = self.usage("FILM --type compress --start-time 5")
        self.assertIn("--start-time does not belong to --type compress", first)
        self.assertIn("gif or webm", first)


class UsageTests(CommandLineCase):
    """Everything else on the command line."""

    def test_defaults(self) -> None:
        """As the help says."""
        options = self.parse("FILM --type compress")
        self.assertEqual((options.host, options.port), ("localhost", 9999))
        self.assertEqual((options.check_interval, options.max_wait_time), (60, 3600))
        self.assertEqual((options.output, options.log_dir), (None, Path("logs")))
        self.assertFalse(options.detach or options.tls)

    def test_an_input_that_can_not_be_sent_is_named(self) -> None:
        """Missing, empty or a folder."""
        (self.folder / "empty.mp4").touch()
        for name, text in {
            "absent.mp4": "does not exist",
            "empty.mp4": "is empty",
            ".": "is a folder",
        }.items():
            lines = self.usage(f"{shlex.quote(str(self.folder / name))} --type compress")
            self.assertIn(text, lines[0])

    def test_an_input_without_permission_is_named(self) -> None:
        """The system's reason is in the line."""

        def denied(path: Path, *how: Any, **more: Any) -> None:
            raise PermissionError(13, "Permission denied", str(path))

        self.patch(Path, "open", denied)
        first, _ = self.usage("FILM --type compress")
        self.assertIn("can't be read", first)
        self.assertIn("Permission denied", first)

    def test_the_output_folder_is_tried_before_anything_is_sent(self) -> None:
        """A result that can't be stored is no use."""
        gone = shlex.quote(str(self.folder / "gone" / "out.mp4"))
        self.assertIn("does not exist", self.usage(f"FILM --type compress --output {gone}")[0])
        self.assertIn("does not exist", self.usage(f"--download {TASK} --output {gone}")[0])

    def test_the_input_is_never_the_output(self) -> None:
        """By whatever name."""
        other = self.folder / "link.mp4"
        other.symlink_to(self.film.resolve())
        for name in (self.film, other):
            lines = self.usage(f"FILM --type compress --output {shlex.quote(str(name))}")
            self.assertIn("overwrite the input", lines[0])

    def test_a_device_is_no_output(self) -> None:
        """Renaming over it would replace it."""
        self.assertIn(
            "not a regular file", self.usage(f"FILM --type compress --output {os.devnull}")[0]
        )

    def test_one_thing_at_a_time(self) -> None:
        """An input and a task, or two tasks, do not go together."""
        self.assertIn("do not go together", self.usage("FILM --status x")[0])
        self.assertIn("do not go together", self.usage("--status x --cancel y")[0])
        self.assertIn("--type is missing", self.usage("FILM")[0])
        self.assertIn("input file is missing", self.usage("--type compress")[0])
        self.assertIn("--fps does not go with", self.usage("--status x --fps 3")[0])
        self.assertIn("--output does not go with", self.usage("--status x --output y")[0])
        self.assertIn("--force does not go with", self.usage("--watch x --force")[0])
        self.assertIn("--detach does not go with", self.usage("--watch x --detach")[0])
        self.assertIn("needs the id", self.usage("--watch ''")[0])
        self.assertIn("do not go together", self.usage("--list --server-info")[0])
        self.assertIn("--output does not go with --list", self.usage(f"{LIST} --output y")[0])

    def test_a_list_needs_a_token(self) -> None:
        """It is the token's own tasks that are listed."""
        first, second = self.usage("--list")
        self.assertIn("--list needs --token-file", first)
        self.assertIn("--list --token-file", second)
        self.assertEqual(self.parse(LIST).action, "list")

    def test_the_server_and_the_times_are_checked(self) -> None:
        """Wrong values say how to write right ones."""
        for line, text in {
            "--port 0": "--port must be from 1 to 65535",
            "--port 99999": "--port must be from 1 to 65535",
            "--port x": "--port must be from 1 to 65535",
            "--host 'a b'": "--host must be",
            "--check-interval 0": "--check-interval must be",
            "--check-interval x": "--check-interval must be",
            "--max-wait-time -1": "--max-wait-time must be",
            "--ca x.pem": "--ca needs --tls",
            "--tls --ca absent.pem": "can't be read",
            "--token-file absent": "can't be read",
        }.items():
            self.assertIn(text, self.usage(f"--server-info {line}")[0], line)

    def test_a_token_file_holds_a_token_or_a_name_and_a_token(self) -> None:
        """Its first line that is no comment counts; the token is in no repr."""
        path = self.folder / "token"
        for text in ("s3cret\n", "# a comment\n\nme s3cret\nyou other\n"):
            path.write_text(text)
            options = self.parse(f"--server-info --token-file {shlex.quote(str(path))}")
            self.assertEqual(options.token, "s3cret")
            self.assertNotIn("s3cret", repr(options))
        path.write_text("# nothing\n")
        lines = self.usage(f"--server-info --token-file {shlex.quote(str(path))}")
        self.assertIn("no token", lines[0])

    def test_a_token_leaves_the_machine_only_encrypted(self) -> None:
        """Unless one insists."""
        path = self.folder / "token"
        path.write_text("s3cret\n")
        line = f"--server-info --token-file {shlex.quote(str(path))}"
        for host in ("video.example", "192.0.2.1", "2001:db8::1", "localhost.example"):
            first, second = self.usage(f"{line} --host {host}")
            self.assertIn("unencrypted", first)
            self.assertIn("--insecure", second)
            for allowed in ("--tls", "--insecure"):
                options = self.parse(f"{line} --host {host} {allowed}")
                self.assertEqual(options.token, "s3cret")
        for host in ("localhost", "127.0.0.1", "127.1.2.3", "[::1]"):
            self.assertEqual(self.parse(f"{line} --host {host}").token, "s3cret")

    def test_a_ca_file_must_hold_a_certificate(self) -> None:
        """A wrong file is found before connecting."""
        lines = self.usage(f"--server-info --tls --ca {shlex.quote(str(self.film))}")
        self.assertIn("no PEM certificate", lines[0])

    def test_malformed_options_exit_with_2(self) -> None:
        """What argparse finds has the same exit status, and points to the help."""
        for line in ("FILM --type nonsense", "--nonsense", "", "--status"):
            error = io.StringIO()
            with contextlib.redirect_stderr(error):
                exited = self.assertRaises(SystemExit, self.parse, line)
            self.assertEqual(exited.code, 2)
            self.assertIn("vidproc --help", error.getvalue())

    def test_an_option_is_never_guessed(self) -> None:
        """Abbreviations would change their meaning with every new option."""
        with contextlib.redirect_stderr(io.StringIO()):
            self.assertRaises(SystemExit, self.parse, "FILM --type compress --qual 90")


class AnswerTextTests(SynchronousTestCase):
    """Answers as people read them."""

    def test_a_status_block_has_what_there_is(self) -> None:
        """Stage, progress, time left, error and solution; what is missing is left out."""
        block = dict(
            status_block(
                TASK,
                status("processing", stage="encoding", progress=0.5, speed=2.0, eta=12),
            )
        )
        self.assertEqual((block["Stage"], block["Progress"]), ("encoding", "50 %"))
        self.assertIn("about 12 s left", block["Speed and time"])
        block = dict(status_block(TASK, {"status": "failed", "error": "E.", "solution": "S."}))
        self.assertEqual((block["Task"], block["Error"], block["Solution"]), (TASK, "E.", "S."))
        self.assertNotIn("Created", block)

    def test_a_summary_tells_sizes_shape_and_length(self) -> None:
        """One line; one that was optimal already says so."""
        output = {"width": 640, "height": 480, "duration": 6.2}
        self.assertEqual(
            summary({"output": output}, 4 << 20, 1 << 20),
            "Done: 4.0 MiB -> 1.0 MiB (25 %), 640x480, 6.2 s",
        )
        text = summary({"output": {"already_optimal": True}}, 10, 10)
        self.assertIn("already as small", text)
        self.assertEqual(summary({"output": None}, 10, 5), "Done: 10 bytes -> 5 bytes (50 %)")

    def test_a_cancel_of_a_finished_task_says_what_it_did(self) -> None:
        """Its status stays, its files go."""
        self.assertEqual(cancel_sentence(TASK, {"status": "cancelled"}), f"{TASK}: cancelled")
        self.assertIn("completed already", cancel_sentence(TASK, {"status": "completed"}))

    def test_server_info_of_any_shape_is_shown(self) -> None:
        """Limits in units, operations with ranges; lists, dicts and plain values."""
        block = dict(
            info_block(
                "h",
                1,
                {
                    "version": "1",
                    "limits": {"max_upload": 1 << 30, "other": None},
                    "operations": {"gif": {"fps": {"minimum": 1, "maximum": 50}}, "x": ["a"]},
                    "load": {"queued": 3},
                    "sandbox": ["a", "b"],
                },
            )
        )
        self.assertEqual(block["Max upload"], "1.0 GiB")
        self.assertEqual((block["gif"], block["x"]), ("fps (1 to 50)", "a"))
        self.assertEqual((block["Load"], block["Sandbox"]), ("queued 3", "a, b"))
        self.assertEqual(dict(info_block("h", 1, {"operations": ["gif"]}))["Operations"], "gif")

    def test_a_task_id_in_a_file_name_stays_in_its_folder(self) -> None:
        """Slashes and dots become something harmless."""
        self.assertEqual(safe_stem("../a/b"), "___a_b")


class LogTests(SynchronousTestCase):
    """``client.log``."""

    def test_one_line_an_event_with_utc_time(self) -> None:
        """Whatever is in the text, it is one line without control characters."""
        folder = Path(self.mktemp())
        log, warning = open_log(folder)
        self.assertIsNone(warning)
        log.info("two\nlines \x1b[2J")
        for handler in log.handlers:
            handler.close()
        text = (folder / "client.log").read_text()
        self.assertRegex(text, r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z info two\\nlines ")
        self.assertEqual(text.count("\n"), 1)
        self.assertNotIn("\x1b", text)

    def test_an_unwritable_folder_is_a_warning(self) -> None:
        """The work goes on without a log."""
        blocked = Path(self.mktemp())
        blocked.write_text("a file, not a folder")
        log, warning = open_log(blocked)
        log.info("nobody reads this")
        self.assertIn("no log is kept", warning or "")


class SessionCase(ServerCase):
    """A whole run against the scripted server, in this process."""

    def setUp(self) -> None:
        super().setUp()
        self.path = self.film(100_000)
        self.out = io.StringIO()
        self.err = io.StringIO()

    def session(self, line: str, **client: Any) -> Session:
        words = [
            str(self.path) if word == "FILM" else str(self.folder) if word == "FOLDER" else word
            for word in shlex.split(line)
        ]
        options = parse_command_line(
            [*words, "--host", "127.0.0.1", "--port", str(client.get("port", self.port))]
        )
        display = PlainDisplay(self.err, options.check_interval, time.monotonic)
        self.notices = Notices(display)  # type: ignore[assignment]
        return Session(
            options,
            reactor,
            client=self.client(**client),
            display=display,
            out=self.out,
            err=self.err,
            log=self.log,
        )

    async def run_command(self, line: str, **client: Any) -> int:
        return await self.session(line, **client).start()

    @property
    def errors(self) -> str:
        return self.err.getvalue()

    @property
    def printed(self) -> str:
        return self.out.getvalue()


class Notices:
    """Hands notices to a display, as `run` does."""

    def __init__(self, display: PlainDisplay) -> None:
        self.append = display.line


class ProcessTests(SessionCase):
    """Processing a file from end to end."""

    gif = "FILM --type gif --start-time 0 --duration 5 --check-interval 0.01"

    async def test_the_result_is_beside_the_input(self) -> None:
        """Named after it and its kind; the path is the last line of standard output."""
        self.assertEqual(await self.run_command(self.gif), 0)
        target = self.folder / "film_processed.gif"
        self.assertEqual(target.read_bytes(), self.server.result)
        self.assertEqual(self.printed.splitlines()[-1], str(target))
        self.assertEqual(
            sorted(path.name for path in self.folder.iterdir()), ["film.mp4", target.name]
        )
        for text in ("queued: position 1", "processing: encoding 50 %", "Done: 97.7 KiB -> "):
            self.assertIn(text, self.errors)

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
        """The result takes the next free one; `--force` and `--output` replace."""
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
        """What is no kind of media is called `.bin`."""
        for number, kind in enumerate(("sh", "desktop", "EXE", "html", "svg", "py"), 1):
            self.server.kind = kind
            self.server.plan = [status("completed")]
            self.assertEqual(await self.run_command(self.gif), 0)
            suffix = "" if number == 1 else f"_{number}"
            self.assertTrue((self.folder / f"film_processed{suffix}.bin").exists(), kind)

    async def test_warnings_are_told(self) -> None:
        """Whatever the server had to change is said in its own words, made printable."""
        self.server.details = {"warnings": ["The duration was \x1bcut."], "output": {}}
        self.assertEqual(await self.run_command(self.gif), 0)
        self.assertIn("Warning: The duration was \\x1bcut.", self.errors)

    async def test_a_simple_server_will_do(self) -> None:
        """No watch, no details, no checksum, one request a connection."""
        self.server.unknown = {"watch"}
        self.server.closes_after_answer = True
        self.server.bare = True
        self.assertEqual(await self.run_command(self.gif), 0)
        self.assertEqual(
            (self.folder / "film_processed.gif").read_bytes(), self.server.result, self.errors
        )

    async def test_a_failed_task_exits_with_1(self) -> None:
        """Error and solution are said, and no file is there."""
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
        """Description and solution are said; the log has it too."""
        for code in (401, 413, 415, 422, 429, 503, 507):
            self.server.refuse_head = refusal(code)
            self.assertEqual(await self.run_command(self.gif), 5)
            self.assertIn(f"({code}): Description of {code}.\nSolution of {code}.\n", self.errors)
        self.assertIn("Description of 507", self.logged.getvalue())

    async def test_a_refusal_that_names_the_task_in_the_way_tells_how_to_watch_it(self) -> None:
        """One task an address: which one it is."""
        self.server.refuse["upload"] = refusal(429, task_id="abc")
        self.assertEqual(await self.run_command(self.gif), 5)
        self.assertIn("vidproc --watch abc", self.errors)

    async def test_waiting_too_long_exits_with_4_and_says_how_to_go_on(self) -> None:
        """The command line that fetches the result works as it stands."""
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
        """Upload, watch and download all go on; each cut is told."""
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
        """A checksum that differs is said; nothing has the result's name."""
        self.server.checksum = "0" * 64
        self.assertEqual(await self.run_command(self.gif), 1)
        self.assertIn("damaged", self.errors)
        self.assertEqual(list(self.folder.iterdir()), [self.path])

    async def test_a_leftover_that_does_not_fit_is_fetched_anew(self) -> None:
        """A part of something else costs a download, not the result."""
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
        """No traceback for people; the log has it."""
        session = self.session(self.gif)
        session._act = lambda: 1 / 0  # type: ignore[method-assign,assignment]
        self.assertEqual(await session.start(), 1)
        self.assertIn("client.log", self.errors)
        self.assertNotIn("Traceback", self.errors)
        self.assertIn("ZeroDivisionError", self.logged.getvalue())


class TaskCommandTests(SessionCase):
    """``--status``, ``--watch``, ``--download``, ``--cancel`` and ``--server-info``."""

    async def test_status_prints_a_block(self) -> None:
        """Names and values; exit status 0 whatever the task's status is."""
        self.server.details = {"status": "failed", "error": "E.", "warnings": ["W."]}
        self.assertEqual(await self.run_command(f"--status {TASK}"), 0)
        for line in (f"Task:    {TASK}", "Status:  failed", "Error:   E.", "Warning: W."):
            self.assertIn(line, self.printed)

    async def test_an_unknown_task_exits_with_5(self) -> None:
        """What the server says is said."""
        for action in ("status", "watch", "download", "cancel"):
            self.server.refuse[action] = refusal(404)
            line = f"--{action} x" + (" --output FOLDER" if action == "download" else "")
            self.assertEqual(await self.run_command(line), 5)
        self.assertEqual(self.errors.count("Description of 404."), 4)

    async def test_watch_follows_to_the_end(self) -> None:
        """Status 0 when it was completed, 1 when it failed."""
        self.assertEqual(await self.run_command(f"--watch {TASK} --check-interval 0.1"), 0)
        self.assertIn("processing: encoding", self.errors)
        self.assertIn(f"vidproc --download {TASK}", self.errors)
        self.server.plan = [status("failed", error="E.")]
        self.assertEqual(await self.run_command(f"--watch {TASK}"), 1)

    async def test_download_names_the_file_after_the_task(self) -> None:
        """In the folder that was given, or the current one."""
        self.assertEqual(await self.run_command(f"--download {TASK} --output FOLDER"), 0)
        target = self.folder / f"{TASK}_processed.gif"
        self.assertEqual(target.read_bytes(), self.server.result)
        self.assertEqual(self.printed, f"{target}\n")

    async def test_download_of_an_unfinished_task_says_how_to_watch_it(self) -> None:
        """409 is a refusal, with the next step; nothing is left behind."""
        self.server.refuse["download"] = refusal(409)
        self.assertEqual(await self.run_command(f"--download {TASK} --output FOLDER"), 5)
        self.assertIn(f"vidproc --watch {TASK}", self.errors)
        self.assertEqual(list(self.folder.iterdir()), [self.path])

    async def test_cancel_says_what_it_did(self) -> None:
        """On standard output."""
        self.assertEqual(await self.run_command(f"--cancel {TASK}"), 0)
        self.assertEqual(self.printed, f"{TASK}: cancelled\n")

    async def test_list_prints_a_line_for_each_task(self) -> None:
        """The id comes first, for scripts; what the server says can't steer the terminal."""
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
        """On standard error: no line is no task."""
        for tasks in ([], None):
            self.server.tasks = tasks  # type: ignore[assignment]
            self.assertEqual(await self.run_command(LIST, token="s3cret"), 0)
        self.assertEqual(self.printed, "")
        self.assertEqual(self.errors.count("There are no tasks of this token."), 2)

    async def test_a_list_that_the_server_refuses_exits_with_5(self) -> None:
        """As a server without tokens does."""
        self.assertEqual(await self.run_command(LIST), 5)
        self.assertIn("Description of 401.", self.errors)

    async def test_server_info_prints_version_limits_and_operations(self) -> None:
        """Readable, one thing a line."""
        self.assertEqual(await self.run_command("--server-info"), 0)
        for text in ("9.9", "1.0 GiB", "24 h 00 min", "fps (1 to 50)"):
            self.assertIn(text, self.printed)


def certificate(host: str) -> tuple[bytes, ssl.PrivateCertificate]:
    """Return a fresh self-signed certificate for `host` in PEM, and with its key."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, host)])
    now = datetime.datetime.now(datetime.UTC)
    try:
        names: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        names = x509.DNSName(host)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = made.public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return pem, ssl.PrivateCertificate.loadPEM(private + pem)


class TLSTests(SessionCase):
    """``--tls``: the certificate and the name are checked."""

    def listen_tls(self, host: str) -> tuple[int, bytes]:
        pem, private = certificate(host)
        listening = reactor.listenSSL(0, self.server, private.options(), interface="127.0.0.1")
        self.addCleanup(listening.stopListening)

        def hang_up() -> Deferred[None]:
            for peer in list(self.server.peers):
                peer.transport.abortConnection()
            return Deferred.fromCoroutine(self.settle())

        self.addCleanup(hang_up)
        return listening.getHost().port, pem

    async def test_a_trusted_server_is_talked_to(self) -> None:
        """A whole run over TLS, with the certificate given by --ca."""
        port, pem = self.listen_tls("127.0.0.1")
        status = await self.run_command(
            "FILM --type compress", port=port, tls=tls_options("127.0.0.1", pem)
        )
        self.assertEqual(status, 0, self.errors)
        self.assertTrue((self.folder / "film_processed.gif").exists())

    async def test_an_unknown_certificate_exits_with_3_and_sends_nothing(self) -> None:
        """Without --ca the system's authorities count; --ca is named."""
        port, _ = self.listen_tls("127.0.0.1")
        status = await self.run_command(
            "FILM --type compress", port=port, tls=tls_options("127.0.0.1", None)
        )
        self.assertEqual(status, 3)
        self.assertIn("--ca", self.errors)
        self.assertEqual(self.server.requests, [])

    async def test_a_certificate_for_another_name_exits_with_3_and_sends_nothing(self) -> None:
        """Trusted is not enough."""
        port, pem = self.listen_tls("elsewhere.example")
        status = await self.run_command(
            "FILM --type compress", port=port, tls=tls_options("127.0.0.1", pem)
        )
        self.assertEqual(status, 3)
        self.assertIn("--host", self.errors)
        self.assertEqual(self.server.requests, [])

    async def test_a_plain_port_is_named_as_such(self) -> None:
        """TLS to a server without it: drop --tls, or take the other port."""

        class Plain(ScriptedServer):
            def buildProtocol(self, address: Any) -> Any:
                peer = super().buildProtocol(address)
                peer.dataReceived = lambda data: peer.answer(refusal(400))
                return peer

        port = self.listen(Plain())
        status = await self.run_command("--server-info", port=port, tls=tls_options("x", None))
        self.assertEqual(status, 3)
        self.assertIn("does not speak TLS", self.errors)

    async def test_a_tls_port_without_tls_is_named_as_such(self) -> None:
        """What comes back is no MMP; --tls is suggested."""
        port, _ = self.listen_tls("127.0.0.1")
        status = await self.run_command("--server-info", port=port)
        self.assertEqual(status, 3)


class _Collector(ProcessProtocol):
    def __init__(self) -> None:
        self.done: Deferred[tuple[int, str, str]] = Deferred()
        self.out, self.err = io.BytesIO(), io.BytesIO()
        self.outReceived = self.out.write  # type: ignore[assignment]
        self.errReceived = self.err.write  # type: ignore[assignment]

    def processEnded(self, reason: Any) -> None:
        code = reason.value.exitCode if reason.check(ProcessTerminated) else 0
        self.done.callback((code, self.out.getvalue().decode(), self.err.getvalue().decode()))


class SubprocessTests(ServerCase):
    """The real command in a process of its own."""

    timeout = 60

    def command(self, *words: str) -> Deferred[tuple[int, str, str]]:
        collector = _Collector()
        # The package is found whether it is installed or not.
        root = str(Path(cli.__file__).parents[2])
        environment = {**os.environ, "PYTHONPATH": root}
        reactor.spawnProcess(
            collector, sys.executable, [*COMMAND, *words], environment, str(self.folder)
        )
        return collector.done

    async def test_a_whole_run(self) -> None:
        """Exit status 0, the path alone on standard output, a log in logs/."""
        self.film(100_000)
        code, out, err = await self.command(
            *shlex.split(f"film.mp4 --type gif --start-time 0 --duration 5 --port {self.port}"),
            "--host",
            "127.0.0.1",
        )
        self.assertEqual((code, out), (0, "film_processed.gif\n"), err)
        self.assertEqual((self.folder / out.strip()).read_bytes(), self.server.result)
        self.assertIn("accepted as task", (self.folder / "logs" / "client.log").read_text())

    async def test_wrong_usage_exits_with_2_and_leaves_nothing(self) -> None:
        """Before anything is sent or written: two lines and no more."""
        self.film(1000)
        results = await gatherResults(
            [
                self.command("film.mp4", "--type", "resolution", "--width", "1280"),
                self.command("absent.mp4", "--type", "compress"),
            ]
        )
        code, out, err = results[0]
        self.assertEqual((code, out), (2, ""))
        self.assertEqual(
            err.splitlines(),
            [
                "Resolution change requires both --width and --height",
                "Example: --width 1280 --height 720",
            ],
        )
        self.assertEqual(results[1][0], 2)
        self.assertFalse((self.folder / "logs").exists())

    async def test_a_refused_connection_exits_with_3(self) -> None:
        """Promptly, without a traceback, with how to start a server."""
        self.film(1000)
        listening = reactor.listenTCP(0, Factory(), interface="127.0.0.1")
        port = listening.getHost().port
        await listening.stopListening()
        code, _, err = await self.command(
            "film.mp4", "--type", "compress", "--host", "127.0.0.1", "--port", str(port)
        )
        self.assertEqual(code, 3)
        self.assertIn(f"127.0.0.1 port {port}", err)
        self.assertIn(f"twistd -n vidproc --port {port}", err)
        self.assertNotIn("Traceback", err)

    async def test_ctrl_c_exits_with_130(self) -> None:
        """The real signal, while the server takes its time."""
        self.film(1000)
        self.server.silent_watch = True
        collector = _Collector()
        real = self.server.whole

        def whole(peer: Any) -> None:
            real(peer)
            if peer.fields["action"] == "watch":
                process.signalProcess("INT")

        self.server.whole = whole  # type: ignore[method-assign]
        words = [*COMMAND, "film.mp4", "--type", "compress", "--port", str(self.port)]
        root = str(Path(cli.__file__).parents[2])
        process = reactor.spawnProcess(
            collector,
            sys.executable,
            [*words, "--host", "127.0.0.1"],
            {**os.environ, "PYTHONPATH": root},
            str(self.folder),
        )
        code, _, err = await collector.done
        self.assertEqual(code, 130, err)
        self.assertIn(f"vidproc --cancel {TASK}", err)
        self.assertNotIn("Traceback", err)


class LightnessTests(SynchronousTestCase):
    """The command answers at once when there is nothing to do."""

    def test_help_and_version_load_nothing_heavy(self) -> None:
        """Neither Twisted nor rich nor msgspec is imported for them."""
        code = (
            "import sys\n"
            "from vidproc.client.cli import main\n"
            "try:\n    main(['--version'])\nexcept SystemExit as end:\n    assert not end.code\n"
            "assert not {'twisted', 'rich', 'msgspec', 'asyncio'} & set(sys.modules)\n"
        )
        root = str(Path(cli.__file__).parents[2])
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONPATH": root},
            capture_output=True,
            text=True,
            timeout=60,
        )
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(done.stdout, f"vidproc {__version__}\n")
