"""The command ``vidproc-worker``: its options, and building the worker from them."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import fcntl
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, NoReturn, TypeVar, cast

from vidproc.about import ShowVersion
from vidproc.cluster.security import ClusterOptions, checked
from vidproc.configuration import ConfigurationError
from vidproc.program_options import add_configuration, parse
from vidproc.topics import Topic, TopicLogger
from vidproc.units import duration_from, size_from

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred
    from twisted.logger import ILogObserver, LogEvent
    from twisted.python.logfile import LogFile

    from vidproc.cluster.worker import WorkerService
    from vidproc.reactor import IFullReactor

R = TypeVar("R")

_TEMPORARY = "vidproc-worker-"
_ADDRESS_SPACE = 16 << 30


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        sys.stderr.write(f"{self.prog}: {message}\n")
        sys.exit(1)


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    found = _Parser(
        prog="vidproc-worker",
        description="Run FFmpeg for vidproc servers, on this machine.",
        epilog="docs/cluster.md says how to set up a cluster, and who must be able to reach whom.",
    )
    add = found.add_argument
    add("scheduler", help="address of the Dask scheduler, such as tcp://scheduler:8786")
    add("--cores", type=int, metavar="N", help="cores that commands may use (all)")
    add(
        "--memory",
        type=_size,
        metavar="BYTES",
        help="memory that commands may use together (3/4 of the machine's)",
    )
    add("--scratch", metavar="DIR", help="folder for inputs and outputs (a temporary folder)")
    add(
        "--scratch-limit",
        type=_size,
        metavar="BYTES",
        default="50G",
        help="the most bytes in it (50G)",
    )
    add(
        "--object-store",
        metavar="URL",
        help="the same as the server's: file:///..., s3://..., gs://... or az://...",
    )
    add(
        "--sandbox",
        choices=["auto", "strict", "off"],
        default="auto",
        help="as the server's (auto)",
    )
    add("--ffmpeg", metavar="PATH", help="path of another FFmpeg to use")
    add("--cluster-ca", metavar="FILE", help="certificate authority of the cluster")
    add("--cluster-cert", metavar="FILE", help="this machine's certificate")
    add("--cluster-key", metavar="FILE", help="its key")
    add(
        "--cluster-insecure",
        action="store_true",
        help="use a cluster beyond this machine without TLS",
    )
    add(
        "--grace",
        type=_duration,
        metavar="TIME",
        default="30s",
        help="how long commands may continue during a shutdown (30s)",
    )
    add(
        "--log-dir",
        metavar="DIR",
        default="logs",
        help="folder for worker.log (logs); - for standard output",
    )
    add("--log-format", choices=["text", "json"], default="text", help="format of the log (text)")
    add_configuration(found)
    add("--version", action=ShowVersion, nargs=0, help="show the versions and exit")
    return found


def _size(text: str) -> int:
    return _converted(lambda text: size_from(text, "1M"), text)


def _duration(text: str) -> float:
    return _converted(lambda text: duration_from(text, "0s"), text)


def _converted(convert: Callable[[str], R], text: str) -> R:
    try:
        return convert(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    try:
        options, _ = parse(parser(), argv, "worker")
        cluster = checked(
            options.scheduler,
            options.object_store,
            ca=options.cluster_ca,
            cert=options.cluster_cert,
            key=options.cluster_key,
            insecure=options.cluster_insecure,
        )
        return _run(options, cluster)
    except _CannotStart as error:
        sys.stderr.write(f"vidproc-worker: {error}\n")
        return 1
    except (ConfigurationError, ValueError) as error:
        sys.stderr.write(f"vidproc-worker: {error}\n")
        return 1


class _CannotStart(Exception):
    """The worker can't start; the text says why."""


def _run(options: argparse.Namespace, cluster: ClusterOptions) -> int:
    from twisted.internet import asyncioreactor

    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    asyncioreactor.install(loop)
    from twisted.internet import reactor as installed

    from vidproc.ffmpeg.binary import FFmpegUnusable
    from vidproc.ffmpeg.sandbox import SandboxIncomplete

    reactor = cast("IFullReactor", installed)
    with contextlib.ExitStack() as stack:
        try:
            service = _build(options, cluster, reactor, stack)
        except (FFmpegUnusable, SandboxIncomplete, OSError) as error:
            raise _CannotStart(str(error)) from error

        def end() -> Deferred[None]:
            from twisted.internet.defer import Deferred

            return Deferred.fromFuture(asyncio.ensure_future(service.end(options.grace)))

        reactor.callLater(0, service.start)  # the event loop runs by then
        reactor.addSystemEventTrigger("before", "shutdown", end)
        reactor.run()
    return 0


def _build(
    options: argparse.Namespace,
    cluster: ClusterOptions,
    reactor: IFullReactor,
    stack: contextlib.ExitStack,
) -> WorkerService:
    from vidproc.app.log_format import FORMATS
    from vidproc.app.logs import bounded_file, line_observer
    from vidproc.app.measuring import usable_cores
    from vidproc.app.private_files import keep_private
    from vidproc.cluster.scratch import Scratch
    from vidproc.cluster.worker import WorkerService
    from vidproc.ffmpeg.binary import find_ffmpeg
    from vidproc.ffmpeg.sandbox import Sandbox, find_layers
    from vidproc.runners.admission import memory_budget
    from vidproc.runners.local import LocalRunner

    keep_private()
    ffmpeg = find_ffmpeg(options.ffmpeg)
    layers = find_layers(options.sandbox)
    cores = usable_cores() if options.cores is None else options.cores
    if cores < 1:
        raise _CannotStart("--cores: at least 1 is needed")
    memory = options.memory or memory_budget()
    output: IO[str] | LogFile
    if options.log_dir == "-":
        output = cast(IO[str], sys.__stdout__)
    else:
        log_dir = _folder("log-dir", Path(options.log_dir).absolute())
        output = bounded_file(log_dir / "worker.log")
        stack.callback(output.close)
        sys.stderr.write(f"vidproc-worker: it logs to {log_dir / 'worker.log'}\n")
    _log_to(line_observer(output, _worth_a_line, FORMATS[options.log_format]), stack)
    root = _scratch_folder(options.scratch, stack)
    scratch = Scratch(root, options.scratch_limit)
    scratch.open()
    _quiet_dask()
    sandbox = Sandbox(
        address_space=min(memory, _ADDRESS_SPACE), file_size=options.scratch_limit, layers=layers
    )
    runner = LocalRunner(reactor, ffmpeg, sandbox, lambda key: root / key, budget=memory)
    return WorkerService(
        reactor, cluster, ffmpeg, runner, scratch, tuple(sorted(layers)), cores, memory
    )


def _worth_a_line(event: LogEvent) -> LogEvent | None:
    from twisted.logger import LogLevel

    level = event.get("log_level")
    ours = isinstance(event.get("topic"), Topic) and level is not LogLevel.debug
    return event if ours or (level is not None and level >= LogLevel.warn) else None


def _log_to(observer: ILogObserver, stack: contextlib.ExitStack) -> None:
    from twisted.logger import globalLogBeginner, globalLogPublisher

    globalLogBeginner.beginLoggingTo([observer], redirectStandardIO=False, discardBuffer=True)
    stack.callback(globalLogPublisher.removeObserver, observer)


def _folder(option: str, path: Path) -> Path:
    """Return a folder that an option names; create it if need be. Raises `_CannotStart`."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _CannotStart(
            f"--{option}: the folder {path} cannot be created ({error.strerror}); name another"
        ) from None
    return path


def _scratch_folder(named: str | None, stack: contextlib.ExitStack) -> Path:
    """Return the scratch folder, locked. Folders that killed workers have left are removed.

    Raises `_CannotStart` if another worker uses it.
    """
    if named is None:
        for left in Path(tempfile.gettempdir()).glob(f"{_TEMPORARY}*"):
            _remove_if_left(left)
        root = Path(tempfile.mkdtemp(prefix=_TEMPORARY))
        stack.callback(shutil.rmtree, root, ignore_errors=True)
    else:
        root = _folder("scratch", Path(named).expanduser().absolute())
    lock = _lock(root)
    if lock is None:
        raise _CannotStart(f"another worker uses {root}; name another folder with --scratch")
    stack.callback(os.close, lock)
    return root.resolve()


def _lock(root: Path) -> int | None:
    lock = os.open(root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        return None
    return lock


def _remove_if_left(folder: Path) -> None:
    try:
        if folder.is_symlink() or folder.stat().st_uid != os.getuid():
            return
        lock = _lock(folder)
    except OSError:
        return
    if lock is not None:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _quiet_dask() -> None:
    """Bring Dask's warnings into our log, and nothing of it to the terminal."""

    class Forward(logging.Handler):
        log = TopicLogger(Topic.SERVICE)

        def emit(self, record: logging.LogRecord) -> None:
            try:
                self.log.warn("dask: {text}", text=record.getMessage())
            except Exception:
                self.handleError(record)

    import distributed  # noqa: F401 - it sets up its loggers when it is imported

    for name in [name for name in logging.root.manager.loggerDict if "distributed." in name]:
        logging.getLogger(name).handlers[:] = []
        logging.getLogger(name).propagate = True
    for name in ("distributed", "tornado", "asyncio"):
        logger = logging.getLogger(name)
        logger.handlers[:] = [Forward()]
        logger.setLevel(logging.WARNING)
        logger.propagate = False


if __name__ == "__main__":
    sys.exit(main())
