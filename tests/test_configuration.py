"""Settings from a file and from variables: their order, where they come from, what is refused."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from vidproc.app.service import TOLD
from vidproc.app.worker_command import main as worker
from vidproc.app.worker_command import parser as worker_parser
from vidproc.client.command_line import parse_command_line
from vidproc.client.options import Options as ClientOptions
from vidproc.client.options import UsageError
from vidproc.client.parser import build_parser
from vidproc.client.texts import held_block, info_block
from vidproc.configuration import (
    COMMAND_LINE,
    DEFAULT,
    ConfigurationError,
    Setting,
    gather,
    without_secrets,
)
from vidproc.program_options import add_configuration, parse, settings_of
from vidproc.tap import Options, makeService


class ConfigurationCase(SynchronousTestCase):
    """A test with files, and an environment of its own."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.folder.mkdir()
        kept = {k: v for k, v in os.environ.items() if not k.startswith("VIDPROC_")}
        self.patch(os, "environ", kept)

    def file(self, text: str) -> str:
        path = self.folder / "settings.toml"
        path.write_text(text)
        return str(path.absolute())

    def server(self, *arguments: str) -> Options:
        options = Options()
        options.parseOptions([f"--data-dir={self.folder / 'data'}", *arguments])
        return options

    def server_says(self, *arguments: str) -> tuple[int, str, str]:
        """Return what `twistd vidproc` ends with, at once: status, output, errors."""
        out, errors = io.StringIO(), io.StringIO()
        self.patch(sys, "stdout", out)
        self.patch(sys, "stderr", errors)
        with self.assertRaises(SystemExit) as stopped:
            self.server(*arguments)
        return int(stopped.exception.code or 0), out.getvalue(), errors.getvalue()

    def client(self, *arguments: str) -> ClientOptions:
        return parse_command_line(arguments)

    def usage(self, *arguments: str) -> str:
        error: UsageError = self.assertRaises(UsageError, self.client, *arguments)
        return "\n".join(error.lines)


class OrderTests(ConfigurationCase):
    """Option, variable, file, default."""

    def test_the_server_takes_the_nearest(self) -> None:
        path = self.file('retention = "2h"\ngrace = "9s"\nqueue-size = 7\n')
        os.environ["VIDPROC_GRACE"] = "8s"
        os.environ["VIDPROC_QUEUE_SIZE"] = "8"
        options = self.server("--config", path, "--queue-size=9")
        found = {one.name: (one.texts, one.source) for one in options.held}
        self.assertEqual(found["queue-size"], (("9",), COMMAND_LINE))
        self.assertEqual(found["grace"], (("8s",), "VIDPROC_GRACE"))
        self.assertEqual(found["retention"], (("2h",), path))
        self.assertEqual(found["idle-timeout"], (("60s",), DEFAULT))
        config = makeService(options).config  # type: ignore[attr-defined]
        self.assertEqual((config.grace, config.settings.queue_size), (8.0, 9))
        self.assertEqual(config.settings.retention, 7200.0)

    def test_a_default_that_is_written_on_the_command_line_is_still_an_option(self) -> None:
        path = self.file('retention = "2h"\n')
        self.assertEqual(self.server("--config", path, "--retention", "24h")["retention"], 86400)

    def test_the_client_takes_the_nearest(self) -> None:
        path = self.file('host = "a"\nport = 1\nlog-dir = "x"\ntls = true\n')
        os.environ.update(VIDPROC_HOST="b", VIDPROC_PORT="2")
        options = self.client("--server-info", "--port=3", "--config", path)
        self.assertEqual((options.host, options.port, options.tls), ("b", 3, True))
        held = {one.name: one.source for one in options.held}
        self.assertEqual(
            (held["host"], held["port"], held["log-dir"], held["check-interval"]),
            ("VIDPROC_HOST", COMMAND_LINE, path, DEFAULT),
        )

    def test_the_file_may_be_named_by_a_variable_and_has_a_table_for_each_program(self) -> None:
        os.environ["VIDPROC_CONFIG"] = self.file(
            '[server]\nport = ["9998", "tcp:1"]\nhttp = 9980\nowner-only = true\n'
            '[client]\nhost = "films.example"\nport = 9998\n'
        )
        options = self.server()
        self.assertEqual(len(options["endpoints"]["mmp"]), 2)
        self.assertTrue(options["endpoints"]["http"][0].startswith("tcp:9980:"))
        self.assertTrue(options["owner-only"])
        self.assertEqual(self.client("--server-info").host, "films.example")

    def test_repeatable_options_replace_and_flags_can_be_turned_off(self) -> None:
        path = self.file('port = ["1", "2"]\nowner-only = true\n')
        os.environ.update(VIDPROC_PORT="3 4", VIDPROC_OWNER_ONLY="no")
        options = self.server("--config", path)
        ports = [text.split(":")[1] for text in options["endpoints"]["mmp"]]
        self.assertEqual((ports, bool(options["owner-only"])), (["3", "4"], False))
        ports = [text.split(":")[1] for text in self.server("--port=5")["endpoints"]["mmp"]]
        self.assertEqual(ports, ["5"])

    def test_an_empty_list_turns_a_frontend_off_but_not_the_last_one(self) -> None:
        path = self.file("port = []\n")
        options = self.server("--config", path, "--http=0")
        self.assertEqual((options["endpoints"]["mmp"], len(options["endpoints"]["http"])), ([], 1))
        status, _, errors = self.server_says("--config", path)
        self.assertEqual(status, 1)
        self.assertIn("nothing to listen on", errors)

    def test_each_option_of_the_server_can_be_set(self) -> None:
        """By a variable, so by a file: both go the same way."""
        names = {one.name for one in self.server().held}
        shown = {row[0] for row in [*Options.optParameters, *Options.optFlags]}
        self.assertLessEqual(shown - {"config", "show-config"}, names)
        self.assertLessEqual({"port", "http", "http-origin", "trusted-proxy"}, names)


class RefusalTests(ConfigurationCase):
    """What is wrong is said in a line that names the place and the remedy."""

    def test_an_unknown_key_is_refused_with_the_nearest_right_one(self) -> None:
        for text, near in (
            ("retension = '1h'", "retention"),
            ("data_dir = 'x'", "data-dir"),
            ("[server]\nmaxupload = '1G'", "max-upload"),
        ):
            path = self.file(text)
            status, _, errors = self.server_says("--config", path)
            self.assertEqual(status, 1)
            self.assertRegex(errors, rf"\Avidproc: {path}: '\w+' is not .*mean {near}\?\n\Z")
        self.assertIn(
            "mean check-interval?", self.usage("--list", "--config", self.file("check_interval=1"))
        )

    def test_a_misspelt_variable_is_refused_and_a_strange_one_is_not(self) -> None:
        os.environ.update(VIDPROC_MEDIA="/films", VIDPROC_SERVICE_HOST="10.0.0.1")
        os.environ["VIDPROC_PORT"] = "tcp://10.0.0.1:9999"  # Kubernetes, for a service's name
        self.assertIn("interface=127.0.0.1", self.server()["endpoints"]["mmp"][0])
        os.environ["VIDPROC_RETENTON"] = "1h"
        status, _, errors = self.server_says()
        self.assertEqual(status, 1)
        self.assertIn("Did you mean VIDPROC_RETENTION?", errors)

    def test_no_variable_of_one_program_is_a_misspelling_to_another(self) -> None:
        parser = build_parser()
        server = [Setting(one.name) for one in self.server().held]
        client = [Setting(name) for name in settings_of(parser)]
        worker = [Setting(name) for name in settings_of(worker_parser())]
        programs = (server, client, worker)
        for own in programs:
            for other in (one for others in programs for one in others):
                gather("client", own, {other.variable: "1"})

    def test_the_worker_refuses_them_too(self) -> None:
        errors = io.StringIO()
        self.patch(sys, "stderr", errors)
        path = self.file("[worker]\nobject_store = 'x'\n")
        self.assertEqual(worker(["tcp://127.0.0.1:1", "--config", path]), 1)
        self.assertIn("Did you mean object-store?", errors.getvalue())

    def test_a_value_that_is_wrong_names_its_place(self) -> None:
        path = self.file('retention = "3x"')
        self.assertIn(f"(set in {path})", self.server_says("--config", path)[2])
        os.environ["VIDPROC_GRACE"] = "soon"
        self.assertIn("(set in VIDPROC_GRACE)", self.server_says()[2])
        del os.environ["VIDPROC_GRACE"]
        self.assertNotIn("set in", self.server_says("--grace=soon")[2])
        os.environ["VIDPROC_PORT"] = "tcp:9999"
        self.assertIn("--port was set by VIDPROC_PORT.", self.usage("--server-info"))

    def test_files_that_are_none(self) -> None:
        for text, said in (
            ("retention", "is not TOML"),
            ("owner-only = 'yes'", "Write true or false"),
            ("retention = true", "retention cannot be True"),
            ("retention = ['1h', '2h']", "retention cannot be"),
        ):
            self.assertIn(said, self.server_says("--config", self.file(text))[2])
        self.assertIn("cannot be read", self.server_says("--config=/nowhere/x.toml")[2])
        os.environ["VIDPROC_OWNER_ONLY"] = "perhaps"
        self.assertIn("VIDPROC_OWNER_ONLY is 'perhaps'", self.server_says()[2])


class ClientFileTests(ConfigurationCase):
    """A file of the client's may hold preferences for each operation."""

    def setUp(self) -> None:
        super().setUp()
        self.film = self.folder / "film.mp4"
        self.film.write_bytes(b"x")

    def test_what_is_for_another_action_or_type_waits(self) -> None:
        path = self.file('type = "compress"\nquality = 90\nfps = 5\nskip-existing = true\n')
        options = self.client(str(self.film), "--config", path)
        self.assertEqual((options.type, options.parameters), ("compress", {"quality": 90}))
        self.assertTrue(options.skip_existing)
        options = self.client("--status", "1", "--config", path)
        self.assertFalse(options.skip_existing)
        options = self.client(str(self.film), "--force", "--config", path)
        self.assertEqual((options.force, options.skip_existing), (True, False))

    def test_what_the_command_line_asks_in_vain_is_still_refused(self) -> None:
        path = self.file('type = "compress"\n')
        self.assertIn(
            "--fps does not belong", self.usage(str(self.film), "--fps=5", "--config", path)
        )

    def test_an_action_is_no_setting(self) -> None:
        self.assertIn("is not an option", self.usage("--list", "--config", self.file("cancel='1'")))


class ShownTests(ConfigurationCase):
    """`twistd vidproc --show-config` and `vidproc --server-info`."""

    def test_the_server_shows_all_and_no_secret(self) -> None:
        on_done = f"{sys.executable} --password hunter2"
        path = self.file(f"retention = '2h'\nhttp = [9980]\non-done = '{on_done}'\n")
        status, out, _ = self.server_says("--config", path, "--owner-only", "--show-config")
        self.assertEqual(status, 0)
        self.assertNotIn("hunter2", out)
        self.assertRegex(out, rf'retention = "2h" +# {path}\n')
        self.assertRegex(out, r"owner-only = true +# command line\n")
        self.assertRegex(out, r'storage-limit = "4T" +# default\n')
        again = tomllib.loads(out)
        self.assertEqual((again["retention"], again["http"]), ("2h", ["9980"]))

    def test_a_frontend_that_is_off_stays_off_in_what_is_shown(self) -> None:
        """The output is a file that means the same."""
        path = self.file("port = []\nhttp = 9980\n")
        for _ in range(2):
            status, out, _ = self.server_says("--config", path, "--show-config")
            self.assertEqual((status, tomllib.loads(out)["port"]), (0, []))
            path = self.file(out)

    def test_keys_and_passwords_are_left_out(self) -> None:
        self.assertEqual(without_secrets("s3://me:key@host/b"), "s3://***@host/b")
        self.assertEqual(without_secrets("x:password=abc:y"), "x:password=***:y")
        self.assertEqual(without_secrets("ssl:1:privateKey=k.pem"), "ssl:1:privateKey=k.pem")

    def test_twistd_itself_shows_it(self) -> None:
        twistd = Path(sys.executable).with_name("twistd")
        environ = {"PATH": os.environ["PATH"], "VIDPROC_RETENTION": "3h"}
        done = subprocess.run(
            [twistd, "vidproc", "--show-config"],
            cwd=self.folder,
            env=environ,
            capture_output=True,
            text=True,
            timeout=120,
        )
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertRegex(done.stdout, r'retention = "3h" +# VIDPROC_RETENTION\n')
        self.assertEqual(list(self.folder.iterdir()), [])

    def test_clients_see_limits_but_no_paths(self) -> None:
        from vidproc.frontends.reports import describe_server
        from vidproc.frontends.server_info import ServerInfo
        from vidproc.tasks.settings import Settings

        held = self.server("--retention=2h").held
        self.assertLessEqual(TOLD, {one.name for one in held})
        told = tuple(one for one in held if one.name in TOLD)
        info = ServerInfo(Settings(), "9.0", (), 0, 0, 1, told)
        settings: Any = describe_server(info).settings
        self.assertEqual(
            (settings["retention"].value, settings["retention"].source), ("2h", "option")
        )
        self.assertNotIn("data-dir", settings)
        fields = {"settings": {"retention": {"value": "2h", "source": "option"}}}
        self.assertEqual(dict(info_block("h", 1, fields))["Server --retention"], "2h (option)")
        own = dict(held_block(self.client("--server-info", "--host=h").held))
        self.assertEqual(own["Client --host"], "h (command line)")


class ProgramTests(ConfigurationCase):
    """Any argparse program, such as the worker."""

    def parser(self) -> argparse.ArgumentParser:
        parser = argparse.ArgumentParser(prog="worker")
        parser.add_argument("scheduler")
        parser.add_argument("--cores", type=int, default=2)
        parser.add_argument("--object-store", required=True)
        parser.add_argument("--sandbox", choices=("auto", "off"), default="auto")
        parser.add_argument("--tag", action="append", default=None)
        parser.add_argument("--verbose", action="store_true")
        add_configuration(parser)
        return parser

    def parse(self, *argv: str, **environ: str) -> tuple[argparse.Namespace, dict[str, str]]:
        return parse(self.parser(), argv, "worker", environ=environ)

    def test_types_choices_and_requirements_hold_wherever_a_value_stands(self) -> None:
        path = self.file('[worker]\nobject-store = "file:///x"\ntag = ["a", "b"]\nverbose = true\n')
        given, sources = self.parse("s", "--config", path, VIDPROC_CORES="4")
        self.assertEqual((given.scheduler, given.cores, given.object_store), ("s", 4, "file:///x"))
        self.assertEqual((given.tag, given.verbose, given.sandbox), (["a", "b"], True, "auto"))
        self.assertEqual(sources["cores"], "VIDPROC_CORES")
        given, _ = self.parse("s", "--config", path, "--tag=c", "--tag=d", "--object-store=y")
        self.assertEqual((given.tag, given.object_store, given.cores), (["c", "d"], "y", 2))
        for variables in ({"VIDPROC_CORES": "many"}, {"VIDPROC_SANDBOX": "perhaps"}):
            with self.assertRaises(ConfigurationError) as refused:
                self.parse("s", "--config", path, **variables)
            self.assertIn(next(iter(variables)), str(refused.exception))

    def test_what_is_required_and_nowhere_is_said_as_ever(self) -> None:
        errors = io.StringIO()
        with contextlib.redirect_stderr(errors), self.assertRaises(SystemExit):
            self.parse("s")
        self.assertIn("required: --object-store", errors.getvalue())
