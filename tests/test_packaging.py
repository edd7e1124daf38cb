"""What an installation must have: the plugin, all packages and data files, and light imports."""

import importlib.metadata
import subprocess
import sys
from configparser import ConfigParser
from fnmatch import fnmatch
from pathlib import Path

from twisted.application.service import IServiceMaker
from twisted.plugin import getPlugins
from twisted.trial.unittest import SkipTest, SynchronousTestCase

import vidproc

ROOT = Path(__file__).resolve().parents[1]

HEAVY = ["av", "ffmpeg", "imageio_ffmpeg", "msgspec", "psutil", "rich", "sqlite3"]


def read_setup() -> ConfigParser:
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    return setup


def listed_packages() -> list[str]:
    return read_setup()["options"]["packages"].split()


def modules_after(statement: str) -> set[str]:
    """Return the names of all modules that a new Python has loaded after a statement."""
    program = f"{statement}\nimport sys\nprint(*sys.modules, sep='\\n')"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


class PluginTests(SynchronousTestCase):
    def test_twistd_lists_it_once(self) -> None:
        makers = [maker for maker in getPlugins(IServiceMaker) if maker.tapname == "vidproc"]
        self.assertEqual([getattr(maker, "module", None) for maker in makers], ["vidproc.tap"])

    def test_the_folder_stays_open_to_other_plugins(self) -> None:
        """An __init__.py there would hide Twisted's own package."""
        self.assertEqual(list((ROOT / "twisted").rglob("__init__.py")), [])

    def test_twistd_imports_nothing_heavy_to_list_its_plugins(self) -> None:
        heavy = {*HEAVY, "twisted.internet.reactor"}
        for module in ("twisted.plugins.vidproc_plugin", "vidproc.tap"):
            self.assertEqual(modules_after(f"import {module}") & heavy, set(), module)


class ClientTests(SynchronousTestCase):
    def test_help_imports_nothing_heavy(self) -> None:
        found = modules_after("import vidproc.client.cli")
        self.assertEqual(found & {*HEAVY, "twisted"}, set())

    def test_the_console_script_exists(self) -> None:
        from vidproc.client import cli

        scripts = read_setup()["options.entry_points"]["console_scripts"].split("\n")
        self.assertIn("vidproc = vidproc.client.cli:main", scripts)
        self.assertTrue(callable(cli.main))


class PackageTests(SynchronousTestCase):
    def test_every_package_is_listed(self) -> None:
        folders = {source.parent for source in (ROOT / "vidproc").rglob("*.py")}
        packages = {".".join(folder.relative_to(ROOT).parts) for folder in folders}
        self.assertEqual(set(listed_packages()), packages | {"twisted.plugins"})

    def test_every_package_is_a_regular_one(self) -> None:
        for package in listed_packages():
            if package != "twisted.plugins":
                init = ROOT.joinpath(*package.split("."), "__init__.py")
                self.assertTrue(init.is_file(), init)

    def test_every_data_file_is_listed(self) -> None:
        data = read_setup()["options.package_data"]
        patterns = [
            f"{package.replace('.', '/')}/{pattern}"
            for package, lines in data.items()
            for pattern in lines.split()
        ]
        for path in (ROOT / "vidproc").rglob("*"):
            name = path.relative_to(ROOT).as_posix()
            if path.is_file() and path.suffix not in (".py", ".pyc"):
                self.assertTrue(any(fnmatch(name, pattern) for pattern in patterns), name)

    def test_one_version(self) -> None:
        self.assertRegex(vidproc.__version__, r"\A\d+\.\d+\.\d+\Z")
        try:
            installed = importlib.metadata.version("vidproc")
        except importlib.metadata.PackageNotFoundError:
            raise SkipTest("vidproc is not installed here") from None
        self.assertEqual(installed, vidproc.__version__)
        changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
        self.assertIn(vidproc.__version__, changes)


class BundledFFmpegTests(SynchronousTestCase):
    def test_it_comes_with_the_install(self) -> None:
        import imageio_ffmpeg

        path = Path(imageio_ffmpeg.get_ffmpeg_exe())
        self.assertTrue(path.is_file(), path)
