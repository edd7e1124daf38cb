"""One run of the command: does what the options ask, says how it went, returns an exit status."""

from __future__ import annotations

import logging
import logging.handlers
import os
import shlex
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, TextIO, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThreadPool
from twisted.logger import ILogObserver, LogEvent, LogLevel, formatEvent, globalLogBeginner
from twisted.python.failure import Failure
from zope.interface import provider

from vidproc import __version__
from vidproc.client.display import (
    Display,
    describe_status,
    details_of,
    fraction_of,
    make_display,
    number,
    printable,
    write_line,
)
from vidproc.client.files import ChecksumMismatch, PartFile, Source
from vidproc.client.options import DEFAULT_HOST, DEFAULT_PORT, Options, UsageError
from vidproc.client.protocol import (
    Client,
    ConnectFailed,
    InputChanged,
    LostForGood,
    Refused,
    ResultNotWritten,
    RetryPolicy,
    tls_options,
)
from vidproc.client.resume import REMEMBER_FROM, ResumeFile
from vidproc.units import format_duration, format_size

DONE, FAILED, USAGE, UNREACHABLE, WAITED, REFUSED = range(6)
"""The exit statuses."""

T = TypeVar("T")


class _WaitOver(Exception):
    """``--max-wait-time`` has passed."""


class Session:
    """One run. `out` gets the result, `err` and `display` everything else.

    `client` and `display` can be given for tests; `reactor` runs it all.
    """

    def __init__(
        self,
        options: Options,
        reactor: Any,
        *,
        client: Client,
        display: Display,
        out: TextIO,
        err: TextIO,
        log: logging.Logger,
    ) -> None:
        self.options = options
        self._reactor = reactor
        self._client = client
        self._display = display
        self._out = out
        self._err = err
        self._log = log
        self._task_id = options.task_id
        self._accepted = bool(options.task_id)
        self._upload_kept = False
        self._finished = False
        self._running: Deferred[int] | None = None
        self._signal = 0

    def start(self) -> Deferred[int]:
        """Begin; the result is the exit status. It never fails."""
        self._running = Deferred.fromCoroutine(self._run())
        return self._running

    def interrupt(self, signal_number: int = signal.SIGINT) -> None:
        """End the run early, as Ctrl-C does."""
        self._signal = signal_number
        if self._running is not None:
            self._running.cancel()

    async def _run(self) -> int:
        options = self.options
        self._log.info(
            "vidproc %s: %s %s at %s port %d",
            __version__,
            options.action,
            options.task_id or (f"{options.type} of {options.input}" if options.input else ""),
            options.host,
            options.port,
        )
        status = FAILED
        try:
            status = await self._act()
        except BaseException as error:
            if isinstance(error, GeneratorExit):
                raise
            status = self._explain(error)
        finally:
            self._display.close()
            self._client.close()
        self._log.info("exit status %d", status)
        return status

    async def _act(self) -> int:
        options = self.options
        if options.action == "process":
            return await self._process()
        if options.action == "status":
            answer = await self._client.request("status", task_id=options.task_id, detail=True)
            self._print_block(status_block(options.task_id, answer.fields))
            return DONE
        if options.action == "watch":
            return await self._follow()
        if options.action == "download":
            path = await self._download(options.task_id, f"{safe_stem(options.task_id)}_processed")
            self._display.close()
            self._print(str(path))
            return DONE
        if options.action == "cancel":
            answer = await self._client.request("cancel", task_id=options.task_id)
            self._print(cancel_sentence(options.task_id, answer.fields))
            return DONE
        if options.action == "list":
            answer = await self._client.request("list")
            lines = list_lines(answer.fields)
            for line in lines:
                self._print(line)
            if not lines:
                self._say("There are no tasks of this token.")
            return DONE
        answer = await self._client.request("info", detail=True)
        self._print_block(info_block(options.host, options.port, answer.fields))
        return DONE

    # --- processing a file

    async def _process(self) -> int:
        options = self.options
        assert options.input is not None
        try:
            source = Source(options.input)
        except OSError as error:
            raise InputChanged(f"The input file can't be read: {error.strerror}") from None
        try:
            self._task_id = await self._upload(source)
        finally:
            source.close()
        self._accepted = True
        task_id = self._task_id
        self._log.info("accepted as task %s", task_id)
        if options.detach:
            self._display.close()
            self._say(
                "The server has accepted the task and works on it.",
                f"Watch it:         {self.command('--watch', task_id)}",
                f"Fetch the result: {self.command('--download', task_id)}",
            )
            self._print(printable(task_id))
            return DONE
        self._display.line(f"Accepted as task {printable(task_id)}")
        last = await self._watch(task_id)
        if last.get("status") != "completed":
            return self._unfinished(last)
        self._finished = True
        details = await self._details(task_id, last)
        for warning in warnings_of(details):
            self._display.line(f"Warning: {warning}")
        path = await self._download(task_id, f"{options.input.stem}_processed")
        self._display.close()
        self._say(summary(details, source.size, path.stat().st_size))
        self._print(str(path))
        return DONE

    async def _upload(self, source: Source) -> str:
        """Send the file, or what an earlier run of the same command did not; return the task."""
        options = self.options
        # No token: it may change between two runs, and has no place in a file of ours.
        request = {"type": options.type, "parameters": options.parameters}
        server = {"host": options.host, "port": options.port}
        resume = ResumeFile({**source.identity, **request, **server}, self._log)
        if source.size >= REMEMBER_FROM:
            resume.open()
        try:
            task_id = await self._client.upload(
                options.type,
                options.parameters,
                source.file,
                source.size,
                media_type=source.media_type,
                filename=source.label,
                on_progress=lambda sent: self._display.upload(sent, source.size),
                unchanged=source.unchanged,
                earlier_id=resume.upload_id,
                on_upload_id=resume.remember,
            )
            resume.forget()
            return task_id
        except (InputChanged, Refused) as error:
            if isinstance(error, InputChanged) or error.for_good:
                resume.forget()
            raise
        finally:
            self._upload_kept = resume.kept
            resume.close()

    async def _follow(self) -> int:
        task_id = self.options.task_id
        last = await self._watch(task_id)
        if last.get("status") != "completed":
            return self._unfinished(last)
        details = await self._details(task_id, last)
        self._display.close()
        for warning in warnings_of(details):
            self._say(f"Warning: {warning}")
        self._say(f"Fetch the result: {self.command('--download', task_id)}")
        self._print(f"{printable(task_id)}: completed")
        return DONE

    async def _watch(self, task_id: str) -> dict[str, Any]:
        """Follow a task; raises `_WaitOver` when the time for it has passed."""
        last_seen = ""

        def seen(fields: dict[str, Any]) -> None:
            nonlocal last_seen
            what = f"{fields.get('status')} {fields.get('stage') or ''}"
            if what != last_seen:
                self._log.info("task %s: %s", task_id, describe_status(fields))
                last_seen = what
            self._display.status(fields)

        # Once a second is what bars need, and what a poll of an old server costs at most.
        interval = min(1.0, max(0.1, self.options.check_interval))
        watching = Deferred.fromCoroutine(self._client.watch(task_id, interval, seen))
        return await watching.addTimeout(self.options.max_wait_time, self._reactor, _wait_over)

    def _unfinished(self, last: dict[str, Any]) -> int:
        """Say why there is no result."""
        self._display.close()
        self._finished = True
        status = str(last.get("status"))
        if status == "failed":
            self._say(
                f"The processing failed: {printable(last.get('error') or 'no reason was given')}"
            )
            if last.get("solution"):
                self._say(printable(last["solution"]))
        elif status == "cancelled":
            self._say("The task was cancelled; there is no result.")
        else:
            self._say(
                "The task has expired; its result is no longer kept.",
                "Process the file again to get a new one.",
            )
        return FAILED

    async def _details(self, task_id: str, last: dict[str, Any]) -> dict[str, Any]:
        """Return the long form of a status; the short one where the server has no other."""
        try:
            answer = await self._client.request("status", task_id=task_id, detail=True)
        except Refused as refusal:
            self._log.warning("no details of the task: %s", refusal)
            return last
        return answer.fields

    # --- the result

    async def _download(self, task_id: str, stem: str) -> Path:
        """Fetch a result, check it, give it its name and return that."""
        output = self._output()
        folder = self._folder()
        for fresh in (False, True):
            part = PartFile(folder, task_id)
            resumed = False
            try:
                await self._in_thread(part.open)
                resumed = part.offset > 0
                try:
                    await self._client.download(task_id, _Shown(part, self._display))
                except Refused as refusal:
                    if refusal.code not in (409, 416) or not resumed:
                        raise
                    raise ChecksumMismatch("what was there does not fit") from None
                target = output or folder / f"{stem}.{part.media_type}"
                replace = output is not None or self.options.force
                target = await self._in_thread(partial(part.finish, target, replace=replace))
            except ChecksumMismatch as problem:
                self._log.warning("download of %s: %s", task_id, problem)
                part.close(discard=True)
                if resumed and not fresh:
                    # What an earlier run left may have been something else; once more from 0.
                    continue
                raise
            finally:
                part.close()
            self._log.info("task %s: %d bytes in %s", task_id, part.offset, target)
            return target
        raise AssertionError("unreachable")

    def _output(self) -> Path | None:
        output = self.options.output
        return None if output is None or output.is_dir() else output

    def _folder(self) -> Path:
        options = self.options
        if options.output is not None:
            return options.output if options.output.is_dir() else options.output.parent
        return options.input.parent if options.input is not None else Path()

    async def _in_thread(self, function: Callable[[], T]) -> T:
        pool = self._reactor.getThreadPool()
        result: T = await deferToThreadPool(self._reactor, pool, function)
        return result

    # --- saying it

    def _explain(self, error: BaseException) -> int:
        """Say what went wrong, what to do about it, and return the exit status."""
        self._display.close()
        if self._signal:
            self._log.warning("interrupted by signal %d", self._signal)
            again = ["Run the same command again to go on with the upload."]
            self._say(
                "Interrupted.", *(self._later(cancel=True) or (again if self._upload_kept else []))
            )
            return 128 + self._signal
        if isinstance(error, Refused):
            return self._explain_refusal(error)
        if isinstance(error, ConnectFailed):
            self._log.warning("%s", error)
            self._say(printable(error), *([printable(error.advice)] if error.advice else []))
            self._say(*self._later())
            return UNREACHABLE
        if isinstance(error, LostForGood):
            self._log.warning("%s", error)
            self._say(printable(error), *([error.advice] if error.advice else []))
            self._say(*(self._later() or self._again()))
            return UNREACHABLE
        if isinstance(error, _WaitOver):
            limit = format_duration(self.options.max_wait_time)
            self._log.warning("--max-wait-time passed")
            self._say(
                f"Task {printable(self._task_id)} is not done after {limit} (--max-wait-time); "
                "it goes on at the server.",
                *self._later(),
            )
            return WAITED
        if isinstance(error, InputChanged):
            self._log.warning("%s", error)
            self._say(printable(error), "Run the command again when the file is complete.")
            return USAGE
        if isinstance(error, ResultNotWritten):
            self._log.warning("%s", error)
            self._say(printable(error), "Make room, or name another place with --output.")
            self._say(*self._later())
            return FAILED
        if isinstance(error, ChecksumMismatch):
            self._log.warning("%s", error)
            self._say(f"The download is damaged and was thrown away: {error}.", *self._later())
            return FAILED
        self._log.error("unexpected: %s", "".join(traceback.format_exception(error)))
        where = self.options.log_dir / "client.log"
        kind = type(error).__name__
        self._say(f"Something unexpected went wrong ({kind}); details in {where}")
        self._say(*self._later())
        return FAILED

    def _explain_refusal(self, refusal: Refused) -> int:
        self._log.warning("refused: %d %s", refusal.code, refusal.description)
        code = f" ({refusal.code})" if refusal.code else ""
        self._say(f"The server refused{code}: {printable(refusal.description)}")
        if refusal.solution:
            self._say(printable(refusal.solution))
        other = refusal.fields.get("task_id")
        if isinstance(other, str) and other and other != self._task_id:
            self._say(f"Watch that task: {self.command('--watch', other)}")
        elif refusal.code == 409 and self.options.action == "download":
            self._say(f"Watch it: {self.command('--watch', self._task_id)}")
        return REFUSED

    def _later(self, *, cancel: bool = False) -> list[str]:
        """Return how to go on with the task later; nothing when there is none to go on with."""
        if not self._accepted or self.options.action not in ("process", "watch", "download"):
            return []
        task_id = self._task_id
        lines = []
        if self.options.action != "download" and not self._finished:
            lines.append(f"Watch it:         {self.command('--watch', task_id)}")
        lines.append(f"Fetch the result: {self.command('--download', task_id)}")
        if cancel and self.options.action != "download" and not self._finished:
            lines.append(f"Cancel it:        {self.command('--cancel', task_id)}")
        return lines

    def _again(self) -> list[str]:
        if self._upload_kept:
            return [
                "Run the same command again when the server can be reached: the upload goes on "
                "where it stopped."
            ]
        if self.options.action == "process":
            return ["Nothing was started. Run the command again when the server can be reached."]
        return ["Run the command again when the server can be reached."]

    def command(self, action: str, task_id: str) -> str:
        """Return the command line that does `action` about a task of this run's server."""
        options = self.options
        words = ["vidproc", action, printable(task_id)]
        if action == "--download":
            if options.output is not None:
                words += ["--output", str(options.output)]
            elif options.input is not None and self._folder() != Path():
                # Where this run would have put it, and where its first part may be already.
                words += ["--output", str(self._folder())]
        if options.host != DEFAULT_HOST:
            words += ["--host", options.host]
        if options.port != DEFAULT_PORT:
            words += ["--port", str(options.port)]
        if options.tls:
            words += ["--tls"]
        if options.insecure:
            words += ["--insecure"]
        if options.ca is not None:
            words += ["--ca", str(options.ca)]
        if options.token_file is not None:
            words += ["--token-file", str(options.token_file)]
        return subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words)

    def _say(self, *lines: str) -> None:
        for line in lines:
            write_line(self._err, line)

    def _print(self, line: str) -> None:
        write_line(self._out, line)

    def _print_block(self, pairs: list[tuple[str, str]]) -> None:
        width = max((len(name) for name, value in pairs), default=0) + 1
        for name, value in pairs:
            self._print(f"{name + ':':<{width}} {value}".rstrip())


def _wait_over(result: dict[str, Any] | Failure, seconds: float) -> dict[str, Any]:
    """Say what a cancelled watch means; one that ended just then has a result all the same."""
    if isinstance(result, Failure):
        raise _WaitOver
    return result


class _Shown:
    """A sink that also moves the bar."""

    def __init__(self, part: PartFile, display: Display) -> None:
        self._part = part
        self._display = display

    @property
    def offset(self) -> int:
        return self._part.offset

    def begin(self, answer: Any) -> None:
        self._part.begin(answer)
        self._show()

    def write(self, data: bytes | memoryview) -> None:
        self._part.write(data)
        self._show()

    def _show(self) -> None:
        self._display.download(self._part.offset, self._part.size or 0)


# --- answers in words ------------------------------------------------------------------------


def safe_stem(task_id: str) -> str:
    """Return a task id as a part of a file name: without what would leave the folder."""
    return "".join(c if c.isalnum() or c in "-_" else "_" for c in task_id)[:100]


def warnings_of(fields: dict[str, Any]) -> list[str]:
    """Return a status' warnings as printable sentences."""
    warnings = fields.get("warnings")
    return [printable(warning) for warning in warnings] if isinstance(warnings, list) else []


def _picture(media: dict[str, Any]) -> list[str]:
    parts = []
    width, height = number(media.get("width")), number(media.get("height"))
    if width and height:
        parts.append(f"{width:.0f}x{height:.0f}")
    duration = number(media.get("duration"))
    if duration:
        parts.append(format_duration(duration))
    return parts


def _media(fields: dict[str, Any], key: str) -> dict[str, Any]:
    media = fields.get(key)
    return media if isinstance(media, dict) else {}


def summary(fields: dict[str, Any], size_in: int, size_out: int) -> str:
    """Return one line on what became of a file of `size_in` bytes."""
    output = _media(fields, "output")
    share = f" ({size_out * 100 / size_in:.0f} %)" if size_in else ""
    sizes = f"{format_size(size_in)} -> {format_size(size_out)}{share}"
    text = ", ".join([sizes, *_picture(output)])
    if output.get("already_optimal"):
        return f"Done: the file was already as small as it can be at this quality. {text}"
    return f"Done: {text}"


def status_block(task_id: str, fields: dict[str, Any]) -> list[tuple[str, str]]:
    """Return a status as names and values for people, in reading order."""
    pairs: list[tuple[str, str]] = [("Task", printable(fields.get("task_id") or task_id))]

    def add(name: str, value: object) -> None:
        if value is not None and value != "":
            pairs.append((name, printable(value)))

    add("Type", fields.get("type"))
    add("Status", fields.get("status"))
    status = fields.get("status")
    if status == "processing":
        add("Stage", fields.get("stage"))
        fraction = fraction_of(fields)
        if fraction is not None:
            add("Progress", f"{int(fraction * 100)} %")
        add("Speed and time", details_of(fields))
    elif status == "queued":
        add("Queue", details_of(fields))
    add("Created", fields.get("created_at"))
    add("Started", fields.get("started_at"))
    add("Completed", fields.get("completed_at"))
    for name in ("input", "output"):
        media = _media(fields, name)
        size = number(media.get("bytes"))
        parts = [] if size is None else [format_size(size)]
        parts += _picture(media)
        parts += [
            str(media[key])
            for key in ("container", "video_codec", "audio_codec")
            if isinstance(media.get(key), str)
        ]
        add(name.capitalize(), ", ".join(parts))
        if media.get("already_optimal"):
            add("Note", "the file was already as small as it can be at this quality")
    add("Error", fields.get("error"))
    add("Error code", fields.get("error_code"))
    add("Solution", fields.get("solution"))
    add("Message", fields.get("message"))
    warnings = warnings_of(fields)
    for warning in warnings:
        add("Warning", warning)
    count = number(fields.get("warning_count"))
    if count and not warnings:
        add("Warnings", f"{count:.0f}")
    return pairs


def list_lines(fields: dict[str, Any]) -> list[str]:
    """Return the answer to ``list`` as lines, one a task: id, type, creation time, status."""
    tasks = fields.get("tasks")
    rows = [
        (
            printable(task.get("task_id") or "?", 200),
            printable(task.get("type") or "?", 40),
            printable(task.get("created_at") or "", 40),
            describe_status(task),
        )
        for task in (tasks if isinstance(tasks, list) else [])
        if isinstance(task, dict)
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]


def cancel_sentence(task_id: str, fields: dict[str, Any]) -> str:
    """Return what a cancel did."""
    status = printable(fields.get("status") or "cancelled")
    if status == "cancelled":
        return f"{printable(task_id)}: cancelled"
    return f"{printable(task_id)}: it was {status} already; its files have been removed"


_LIMIT_WORDS: dict[str, Callable[[float], str]] = {
    "max_upload": format_size,
    "storage_limit": format_size,
    "retention": format_duration,
    "upload_retention": format_duration,
    "job_timeout": format_duration,
    "idle_timeout": format_duration,
}


def info_block(host: str, port: int, fields: dict[str, Any]) -> list[tuple[str, str]]:
    """Return what a server tells of itself as names and values for people."""
    pairs = [("Server", f"{host} port {port}")]
    if fields.get("version"):
        pairs.append(("Version", printable(fields["version"])))
    for key, value in _media(fields, "limits").items():
        amount = number(value)
        words = _LIMIT_WORDS.get(key)
        text = words(amount) if words is not None and amount is not None else printable(value)
        pairs.append((printable(key).replace("_", " ").capitalize(), text))
    operations = fields.get("operations")
    if isinstance(operations, dict):
        for name, parameters in operations.items():
            pairs.append((printable(name), _parameter_words(parameters)))
    elif isinstance(operations, list):
        pairs.append(("Operations", ", ".join(printable(name) for name in operations)))
    known = {"id", "status", "version", "limits", "operations", "actions", "task_id"}
    for key, value in fields.items():
        if key in known or value in (None, "", [], {}):
            continue
        name = printable(key).replace("_", " ").capitalize()
        if isinstance(value, dict):
            text = ", ".join(f"{printable(k)} {printable(v)}" for k, v in value.items())
        elif isinstance(value, list):
            text = ", ".join(printable(item) for item in value)
        else:
            text = printable(value)
        pairs.append((name, text))
    return pairs


def _parameter_words(parameters: object) -> str:
    """Return an operation's parameters, with their ranges where the server tells them."""
    if not isinstance(parameters, dict):
        return ", ".join(printable(p) for p in parameters) if isinstance(parameters, list) else ""
    texts = []
    for name, schema in parameters.items():
        text = printable(name)
        forms = [schema, *(schema.get("anyOf") or [])] if isinstance(schema, dict) else []
        for form in forms:
            if not isinstance(form, dict):
                continue
            low, high = number(form.get("minimum")), number(form.get("maximum"))
            if isinstance(form.get("enum"), list):
                text += f" ({'|'.join(printable(item) for item in form['enum'])})"
                break
            if low is not None and high is not None and high < 1e9:
                text += f" ({low:g} to {high:g})"
                break
        texts.append(text)
    return ", ".join(texts)


# --- the log ---------------------------------------------------------------------------------


class _LineFormatter(logging.Formatter):
    """One line an event: UTC time, level, text; control characters escaped."""

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        text = record.getMessage()
        line = "".join(
            c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text
        )
        return f"{moment.replace('+00:00', 'Z')} {record.levelname.lower()} {line}"


class _QuietHandler(logging.handlers.RotatingFileHandler):
    """A log that can't be written is a pity, not a reason to disturb."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Ignore a full disk and the like."""


def open_log(folder: Path) -> tuple[logging.Logger, str | None]:
    """Return the logger of this run, and a warning when it can't write to `folder`/client.log.

    The file is rotated at 5 MiB; three old ones are kept.
    """
    log = logging.Logger("vidproc.client", logging.INFO)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handler = _QuietHandler(
            folder / "client.log",
            maxBytes=5 << 20,
            backupCount=3,
            encoding="utf-8",
            errors="backslashreplace",
        )
    except (OSError, ValueError) as error:
        log.addHandler(logging.NullHandler())
        reason = getattr(error, "strerror", None) or error
        return log, f"Warning: no log is kept, {folder} can't be written to ({reason})"
    handler.setFormatter(_LineFormatter())
    log.addHandler(handler)
    return log, None


def _route_twisted_log(log: logging.Logger) -> None:
    """Bring what Twisted has to complain about into the log, never to the terminal."""

    @provider(ILogObserver)
    def observe(event: LogEvent) -> None:
        if event.get("log_level") in (LogLevel.critical, LogLevel.error):
            failure = event.get("log_failure")
            text = failure.getTraceback() if failure is not None else ""
            log.error("%s %s", formatEvent(event), text)

    globalLogBeginner.beginLoggingTo([observe], redirectStandardIO=False, discardBuffer=True)


# --- running it ------------------------------------------------------------------------------


def run(options: Options) -> int:
    """Do what the options ask in Twisted's reactor and return the exit status.

    Raises `UsageError` when the certificates given can't be used. Once in a process only.
    """
    from twisted.internet import reactor as installed

    reactor: Any = installed
    tls = None
    if options.tls:
        try:
            ca = options.ca.read_bytes() if options.ca is not None else None
            tls = tls_options(options.host, ca)
        except (ConnectFailed, OSError) as error:
            raise UsageError(str(error), getattr(error, "advice", "")) from None
    log, warning = open_log(options.log_dir)
    if warning:
        write_line(sys.stderr, warning)
    _route_twisted_log(log)
    display = make_display(sys.stderr, options.check_interval, time.monotonic)
    client = Client(
        reactor,
        options.host,
        options.port,
        log=log,
        notice=lambda text: display.line(printable(text)),
        tls=tls,
        token=options.token,
        retry=RetryPolicy(),
    )
    session = Session(
        options,
        reactor,
        client=client,
        display=display,
        out=sys.stdout,
        err=sys.stderr,
        log=log,
    )
    return drive(reactor, session)


def drive(reactor: Any, session: Session) -> int:
    """Run the reactor until the session has ended, by itself or by a signal."""
    statuses: list[int] = []

    def ended(status: int) -> None:
        statuses.append(status)
        if reactor.running:
            reactor.stop()

    def interrupted(signal_number: int, frame: object) -> None:
        reactor.callFromThread(session.interrupt, signal_number)

    # What is ignored stays so: nohup means it.
    known = [getattr(signal, name, None) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")]
    wanted = [one for one in known if one and signal.getsignal(one) is not signal.SIG_IGN]

    def begin() -> None:
        # After Twisted's own handlers, which would stop the reactor under the session.
        for wanted_signal in wanted:
            signal.signal(wanted_signal, interrupted)
        session.start().addCallback(ended)

    reactor.callWhenRunning(begin)
    reactor.run()
    return statuses[0] if statuses else FAILED
