"""The options of the command: which are accepted, and the messages about the others."""

from __future__ import annotations

import contextlib
import io
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.client_harness import (
    LIST,
    TASK,
)
from vidproc import __version__
from vidproc.client import cli
from vidproc.client.command_line import parse_command_line
from vidproc.client.films import prepare_folders
from vidproc.client.options import Options, UsageError
from vidproc.client.parameters import OPTION_TYPES, TYPES
from vidproc.operations.parameters import PARAMETERS
from vidproc.result_names import result_stem


class CommandLineCase(SynchronousTestCase):
    """A test of the options, in a folder with a film."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.folder.mkdir(parents=True)
        self.film = self.folder / "film.mp4"
        self.film.write_bytes(b"not really a film")
        self.token = self.folder / "token"
        self.token.write_text("s3cret\n")

    def parse(self, line: str) -> Options:
        """Return the options of a command line, with FILM and TOKEN replaced by these files."""
        places = {"FILM": self.film, "TOKEN": self.token}
        words = [str(places.get(word, word)) for word in shlex.split(line)]
        return parse_command_line(words)

    def usage(self, line: str) -> tuple[str, ...]:
        """Return the lines of the usage error that a command line must give."""
        error: UsageError = self.assertRaises(UsageError, self.parse, line)
        return error.lines


class ParameterTests(CommandLineCase):
    """The options of the operations."""

    def test_the_table_of_options_is_the_servers(self) -> None:
        """Each parameter of each type has an option, and there are no others."""
        for operation, kind in PARAMETERS.items():
            mine = {name for name, types in OPTION_TYPES.items() if operation in types}
            self.assertEqual(mine, set(kind.__struct_fields__), operation)
        self.assertEqual(TYPES, tuple(PARAMETERS))

    def test_every_option_arrives_as_the_wire_wants_it(self) -> None:
        """Numbers as numbers, sizes in bytes, bit rates in bits per second, times in seconds."""
        for line, expected in {
            "--type compress": {},
            "--type compress --codec auto --plays h264,AV1 --hdr sdr --audio-tracks default": {
                "codec": "auto",
                "plays": ["h264", "av1"],
                "hdr": "sdr",
                "audio_tracks": "default",
            },
            "--type compress --codec av1 --grain auto": {"codec": "av1", "grain": "auto"},
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
        """If it is missing, malformed or out of range, the message has the option and an
        example."""
        for line in ("", "--aspect-ratio 16x9", "--aspect-ratio 100:1", "--aspect-ratio 0:0"):
            first, second = self.usage(f"FILM --type aspect_ratio {line}")
            self.assertIn("--aspect-ratio", first)
            self.assertEqual(second, 'Example: --aspect-ratio "16:9"')

    def test_clips_need_start_and_duration(self) -> None:
        """For both GIF and WebM."""
        for kind in ("gif", "webm"):
            for line in ("", "--start-time 0", "--duration 5"):
                first, second = self.usage(f"FILM --type {kind} {line}")
                self.assertIn("requires both --start-time and --duration", first)
                self.assertEqual(second, "Example: --start-time 0 --duration 5")

    def test_values_out_of_range_name_the_option_and_the_range(self) -> None:
        """In terms of the command, before anything is sent."""
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

    def test_what_one_option_needs_of_another_is_said(self) -> None:
        for given, problem, example in (
            ("--codec auto", "--plays is missing: --codec auto needs", "--plays h264,hevc"),
            ("--hdr keep", "--hdr keep needs --codec hevc or av1", "--hdr sdr"),
        ):
            first, second = self.usage(f"FILM --type compress {given}")
            self.assertIn(problem, first)
            self.assertIn(example, second)

    def test_an_option_of_another_type_says_where_it_belongs(self) -> None:
        """Ignoring it would surprise the user."""
        first, _ = self.usage("FILM --type compress --start-time 5")
        self.assertIn("--start-time does not belong to --type compress", first)
        self.assertIn("gif or webm", first)


class UsageTests(CommandLineCase):
    """Everything else on the command line."""

    def test_defaults(self) -> None:
        """They are as the help says."""
        options = self.parse("FILM --type compress")
        self.assertEqual((options.host, options.port), ("localhost", 9999))
        self.assertEqual((options.check_interval, options.max_wait_time), (60, 3600))
        self.assertEqual((options.output, options.log_dir), (None, Path("logs")))
        self.assertFalse(options.detach or options.tls)

    def test_an_input_that_cannot_be_sent_is_named(self) -> None:
        """Missing or empty; a folder without videos."""
        (self.folder / "empty.mp4").touch()
        (self.folder / "folder").mkdir()
        for name, text in {
            "absent.mp4": "does not exist",
            "empty.mp4": "is empty",
            "folder": "no video in the folder",
        }.items():
            lines = self.usage(f"{shlex.quote(str(self.folder / name))} --type compress")
            self.assertIn(text, lines[0])

    def test_a_name_that_no_file_can_have_is_usage(self) -> None:
        """Not a fault of the program; the message has the system's reason."""
        name = "x" * 300 + ".mp4"
        for line in (f"{name} --type compress", f"FILM --type compress --output {name}"):
            self.assertIn("File name too long", self.usage(line)[0])
        self.assertIn("File name too long", self.usage(f"FILM {name} --type compress")[0])
        with self.assertRaises(UsageError) as caught:
            prepare_folders((), name)
        self.assertIn("File name too long", caught.exception.lines[0])

    def test_a_long_name_leaves_room_for_that_of_the_result(self) -> None:
        """It is shortened by whole characters, as few as necessary."""
        self.assertEqual(result_stem("film"), "film_processed")
        for letter in "x", "\N{CLAPPER BOARD}", "\udcff":
            stem = result_stem(letter * 250)
            self.assertTrue(stem.endswith(f"{letter}_processed"))
            self.assertIn(len(os.fsencode(stem)), range(226, 230))
            (self.folder / f"{stem}_2.matroska").touch()

    def test_a_file_that_begins_with_a_dash_is_no_option(self) -> None:
        """The message says how to name it."""
        error = io.StringIO()
        (self.folder / "-film.mp4").touch()
        self.addCleanup(os.chdir, Path.cwd())
        os.chdir(self.folder)
        with contextlib.redirect_stderr(error):
            self.assertRaises(SystemExit, self.parse, "-film.mp4 --type compress")
        self.assertIn("write ./-film.mp4", error.getvalue())

    def test_an_input_without_permission_is_named(self) -> None:
        """The message has the system's reason."""

        def denied(path: Path, *how: Any, **more: Any) -> None:
            raise PermissionError(13, "Permission denied", str(path))

        self.patch(Path, "open", denied)
        first, _ = self.usage("FILM --type compress")
        self.assertIn("cannot be read", first)
        self.assertIn("Permission denied", first)

    def test_the_output_folder_is_tried_before_anything_is_sent(self) -> None:
        """A result that can't be stored would be useless."""
        gone = shlex.quote(str(self.folder / "gone" / "out.mp4"))
        self.assertIn("does not exist", self.usage(f"FILM --type compress --output {gone}")[0])
        self.assertIn("does not exist", self.usage(f"--download {TASK} --output {gone}")[0])

    def test_the_input_is_never_the_output(self) -> None:
        """Whatever name it is given by."""
        other = self.folder / "link.mp4"
        other.symlink_to(self.film.resolve())
        for name in (self.film, other):
            lines = self.usage(f"FILM --type compress --output {shlex.quote(str(name))}")
            self.assertIn("overwrite the input", lines[0])

    def test_a_device_is_refused_as_output(self) -> None:
        """The rename would replace it."""
        self.assertIn(
            "not a regular file", self.usage(f"FILM --type compress --output {os.devnull}")[0]
        )

    def test_one_thing_at_a_time(self) -> None:
        """An input and a task, or two tasks, cannot be combined."""
        self.assertIn("cannot be combined", self.usage("FILM --status x")[0])
        self.assertIn("cannot be combined", self.usage("--status x --cancel y")[0])
        self.assertIn("--type is missing", self.usage("FILM")[0])
        self.assertIn("input file is missing", self.usage("--type compress")[0])
        self.assertIn("--fps cannot be combined with", self.usage("--status x --fps 3")[0])
        self.assertIn("--output cannot be combined with", self.usage("--status x --output y")[0])
        self.assertIn("--force cannot be combined with", self.usage("--watch x --force")[0])
        self.assertIn("--detach cannot be combined with", self.usage("--watch x --detach")[0])
        self.assertIn("needs a task ID", self.usage("--watch ''")[0])
        self.assertIn("cannot be combined", self.usage("--list --server-info")[0])
        self.assertIn(
            "--output cannot be combined with --list", self.usage(f"{LIST} --output y")[0]
        )

    def test_a_list_needs_a_token(self) -> None:
        """It lists the token's own tasks."""
        first, second = self.usage("--list")
        self.assertIn("--list needs --token-file", first)
        self.assertIn("--list --token-file", second)
        self.assertEqual(self.parse(LIST).action, "list")

    def test_the_server_and_the_times_are_checked(self) -> None:
        """The messages say how to write them correctly."""
        for line, text in {
            "--port 0": "--port must be from 1 to 65535",
            "--port 99999": "--port must be from 1 to 65535",
            "--port x": "--port must be from 1 to 65535",
            "--host 'a b'": "--host must be",
            "--check-interval 0": "--check-interval must be",
            "--check-interval x": "--check-interval must be",
            "--max-wait-time -1": "--max-wait-time must be",
            "--ca x.pem": "--ca needs --tls",
            "--tls --ca absent.pem": "cannot be read",
            "--token-file absent": "cannot be read",
        }.items():
            self.assertIn(text, self.usage(f"--server-info {line}")[0], line)

    def test_a_token_file_holds_a_token_or_a_name_and_a_token(self) -> None:
        """Its first line that is not a comment counts; no repr shows the token."""
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
        """Unless the user insists."""
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
        """Errors found by argparse have the same exit status and point to the help."""
        for line in ("FILM --type nonsense", "--nonsense", "", "--status"):
            error = io.StringIO()
            with contextlib.redirect_stderr(error):
                exited = self.assertRaises(SystemExit, self.parse, line)
            self.assertEqual(exited.code, 2)
            self.assertIn("vidproc --help", error.getvalue())

    def test_an_option_is_never_guessed(self) -> None:
        """Otherwise abbreviations could change their meaning with each new option."""
        with contextlib.redirect_stderr(io.StringIO()):
            self.assertRaises(SystemExit, self.parse, "FILM --type compress --qual 90")


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
        first, *others = done.stdout.splitlines()
        self.assertEqual(first, f"vidproc {__version__}")
        self.assertRegex(
            "\n".join(others), r"\APython 3.*, Twisted \d.*\nFFmpeg \S+ \(/.*\nSandbox "
        )
