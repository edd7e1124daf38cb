"""The command line: options in, checked `Options` out; nothing is sent before all is checked.

Imports nothing heavy: Twisted, rich and msgspec come in only when there is work to do.
"""

from __future__ import annotations

import argparse
import ipaddress
import os
import re
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from vidproc import __version__
from vidproc.client.options import DEFAULT_HOST, DEFAULT_PORT, Options, UsageError
from vidproc.units import parse_duration, parse_size, parse_time

TYPES = ("compress", "resolution", "aspect_ratio", "extract_audio", "gif", "webm")


OPTION_TYPES: dict[str, tuple[str, ...]] = {
    "width": ("resolution", "gif", "webm"),
    "height": ("resolution",),
    "aspect_ratio": ("aspect_ratio",),
    "fit": ("resolution", "aspect_ratio"),
    "start_time": ("gif", "webm"),
    "duration": ("gif", "webm"),
    "quality": ("compress", "webm"),
    "codec": ("compress", "webm"),
    "target_size": ("compress",),
    "preset": ("compress",),
    "bitrate": ("extract_audio",),
    "track": ("extract_audio",),
    "fps": ("gif",),
    "max_size": ("gif",),
}
"""Parameter -> the types that have it; the option is its name with dashes."""

EXAMPLES: dict[str, str] = {
    "compress": "vidproc film.mp4 --type compress --quality 95",
    "resolution": "vidproc film.mp4 --type resolution --width 1280 --height 720",
    "aspect_ratio": 'vidproc film.mp4 --type aspect_ratio --aspect-ratio "16:9"',
    "extract_audio": "vidproc film.mp4 --type extract_audio --bitrate 192k",
    "gif": "vidproc film.mp4 --type gif --start-time 0 --duration 5",
    "webm": "vidproc film.mp4 --type webm --start-time 0 --duration 5",
}

MAX_INPUT_SIZE = (1 << 40) - 1

_BIT_RATE = re.compile(r"(\d+(?:\.\d+)?)\s*([km]?)(?:bit/s|bps|b)?", re.IGNORECASE | re.ASCII)

_DESCRIPTION = "Send a video to a vidproc server, follow its processing and fetch the result."

_EPILOG = """\
The path of the result is the last line of standard output; progress, warnings and errors go to
standard error. Times are seconds (12.5) or HH:MM:SS.mmm; sizes take K, M, G or T.

exit status:
  0  done
  1  the processing failed
  2  wrong usage, or the input can't be read
  3  cannot connect, or the connection was lost for good
  4  --max-wait-time passed; the task goes on at the server
  5  the server refused

examples:
  vidproc film.mp4 --type compress --quality 95
  vidproc film.mp4 --type resolution --width 1280 --height 720
  vidproc film.mp4 --type aspect_ratio --aspect-ratio "16:9" --fit crop
  vidproc film.mp4 --type extract_audio --bitrate 192k
  vidproc film.mp4 --type gif --start-time 0 --duration 5
  vidproc film.mp4 --type webm --start-time 00:01:30 --duration 5
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with `argv` (without the program's name) and return its exit status.

    Like every argparse program it raises `SystemExit` for ``--help``, ``--version`` and
    malformed options.
    """
    _forgive_odd_characters()
    try:
        return _main(argv)
    finally:
        _let_go_of_closed_streams()


def _main(argv: Sequence[str] | None) -> int:
    try:
        options = parse_command_line(argv)
        from vidproc.client.session import run

        return run(options)
    except UsageError as error:
        _say(*error.lines)
        return 2
    except KeyboardInterrupt:
        _say("Interrupted.")
        return 130
    except Exception as error:  # the last resort: a person never sees a traceback
        _say(f"Something unexpected went wrong: {type(error).__name__}: {error}")
        return 1


def parse_command_line(argv: Sequence[str] | None = None) -> Options:
    """Return the checked options.

    Raises `UsageError` with the lines to print, and `SystemExit` where argparse does.
    """
    parser = build_parser()
    given = parser.parse_args(argv)
    action = _action(parser, given)
    common: dict[str, Any] = {
        "action": action,
        "host": _host(given.host),
        "port": _port(given.port),
        "check_interval": _interval(given.check_interval, "--check-interval", 60),
        "max_wait_time": _interval(given.max_wait_time, "--max-wait-time", 3600, zero=True),
        "detach": given.detach,
        "force": given.force,
        "insecure": given.insecure,
        "tls": given.tls,
        "log_dir": Path(given.log_dir),
        **_credentials(given),
    }
    output = _output(given.output)
    if action != "process":
        _refuse_for_other_actions(given, action)
        if action == "download":
            check_output_folder(output if output is not None else Path())
        return Options(task_id=_task_id(given, action), output=output, **common)

    parameters = _parameters(given)
    source = check_input(given.input)
    if given.detach and output is not None:
        raise UsageError(
            "--output does not go with --detach, which leaves the result at the server",
            "Example: vidproc --download ID --output FILE, later",
        )
    if output is not None:
        _refuse_overwriting(source, output)
    if not given.detach:
        check_output_folder(output if output is not None else source.parent)
    return Options(input=source, type=given.type, parameters=parameters, output=output, **common)


class _Parser(argparse.ArgumentParser):
    """An argument parser that ends an error with where to find help."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(2, f"{self.prog}: {message}\nFor help and examples: vidproc --help\n")


def build_parser() -> argparse.ArgumentParser:
    """Return the argument parser of the command."""
    parser = _Parser(
        prog="vidproc",
        usage="vidproc INPUT --type TYPE [options]\n"
        "       vidproc --status ID | --watch ID | --download ID | --cancel ID\n"
        "       vidproc --list | --server-info",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("input", nargs="?", metavar="INPUT", help="the video to process")
    parser.add_argument("--type", choices=TYPES, help="what to do with it")
    parser.add_argument(
        "--output",
        metavar="FILE",
        help="where the result goes, a file or a folder (INPUT_processed.KIND beside the input)",
    )
    parser.add_argument(
        "--detach",
        action="store_true",
        help="end as soon as the server has accepted the task; fetch the result later",
    )
    parser.add_argument(
        "--force",
        action="store_true",
        help="replace a result of an earlier run instead of taking the next free name",
    )
    parser.add_argument("--version", action="version", version=f"vidproc {__version__}")

    group = parser.add_argument_group("parameters of the types")
    _add_parameters(group)

    group = parser.add_argument_group("instead of INPUT")
    for name, text in (
        ("status", "show how a task stands"),
        ("watch", "follow a task to its end"),
        ("download", "fetch the result of a task"),
        ("cancel", "end a task and remove its files"),
    ):
        group.add_argument(f"--{name}", metavar="ID", help=text)
    group.add_argument(
        "--list", action="store_true", help="list the tasks of the token in --token-file"
    )
    group.add_argument(
        "--server-info", action="store_true", help="show the server's version, limits, operations"
    )

    group = parser.add_argument_group("the server")
    group.add_argument("--host", default=DEFAULT_HOST, help=f"({DEFAULT_HOST})")
    group.add_argument("--port", default=str(DEFAULT_PORT), help=f"({DEFAULT_PORT})")
    group.add_argument(
        "--tls", action="store_true", help="encrypt; the certificate and host name are checked"
    )
    group.add_argument(
        "--ca", metavar="FILE", help="PEM certificates to trust instead of the system's"
    )
    group.add_argument(
        "--token-file", metavar="FILE", help='its first line is a token, or "name token"'
    )

    group.add_argument(
        "--insecure", action="store_true", help="send the token to another host without --tls"
    )

    group = parser.add_argument_group("waiting and logging")
    group.add_argument(
        "--check-interval",
        metavar="SECONDS",
        default="60",
        help="between two lines of progress where there is no terminal (60)",
    )
    group.add_argument(
        "--max-wait-time",
        metavar="SECONDS",
        default="3600",
        help="for the processing; then end with status 4 while the task goes on (3600)",
    )
    group.add_argument(
        "--log-dir", metavar="DIR", default="logs", help="where client.log goes (logs)"
    )
    return parser


def _add_parameters(group: argparse._ArgumentGroup) -> None:
    texts = {
        "width": ("W", "in pixels"),
        "height": ("H", "in pixels"),
        "aspect_ratio": ("W:H", "from 1:10 to 10:1, such as 16:9"),
        "fit": ("FIT", "pad, crop or stretch (pad)"),
        "start_time": ("T", "where the clip starts"),
        "duration": ("T", "how long the clip is; a GIF at most 600 s"),
        "quality": ("Q", "compress: VMAF, 70 to 99 (95); webm: CRF, 4 to 63, lower is better (30)"),
        "codec": ("CODEC", "compress: h264, hevc or av1 (h264); webm: vp9 or av1 (vp9)"),
        "target_size": ("BYTES", "fit into this size, such as 8M"),
        "preset": ("PRESET", "fast, balanced or small (balanced)"),
        "bitrate": ("BITS", "per second, 32k to 320k (a variable rate of high quality)"),
        "track": ("TRACK", "which audio track: a number from 1, or a language such as eng"),
        "fps": ("N", "frames per second, 1 to 50 (12)"),
        "max_size": ("BYTES", "keep the GIF below this size, such as 2M"),
    }
    for name, (metavar, text) in texts.items():
        types = ", ".join(OPTION_TYPES[name])
        group.add_argument(option_of(name), metavar=metavar, help=f"{text} [{types}]")


def option_of(parameter: str) -> str:
    """Return the option of a parameter: ``--start-time`` of ``start_time``."""
    return "--" + parameter.replace("_", "-")


# --- what is asked ---------------------------------------------------------------------------


def _action(parser: argparse.ArgumentParser, given: argparse.Namespace) -> str:
    asked = [
        name
        for name in ("status", "watch", "download", "cancel")
        if getattr(given, name) is not None
    ]
    if given.list:
        asked.append("list")
    if given.server_info:
        asked.append("info")
    options = [_command_of(name) for name in asked]
    if given.input is not None:
        if asked:
            raise UsageError(
                f"INPUT and {options[0]} do not go together: process a file, or ask about a task",
                f"Example: {EXAMPLES['compress']}",
            )
        if given.type is None:
            raise UsageError(
                f"--type is missing: say what to do with the file, one of {', '.join(TYPES)}",
                f"Example: {EXAMPLES['compress']}",
            )
        return "process"
    if not asked:
        if given.type is not None:
            raise UsageError(
                "The input file is missing: name the video to process",
                f"Example: {EXAMPLES[given.type]}",
            )
        parser.error("name a video to process, or a task with --status, --watch or --download")
    if len(asked) > 1:
        raise UsageError(
            f"{' and '.join(options)} do not go together: ask one thing at a time",
            "Example: vidproc --status ID",
        )
    if asked == ["list"] and given.token_file is None:
        raise UsageError(
            "--list needs --token-file: a server keeps a list of tasks for each token",
            "Example: vidproc --list --token-file token.txt",
        )
    return asked[0]


def _command_of(action: str) -> str:
    """Return the option that asks for `action`."""
    return "--server-info" if action == "info" else f"--{action}"


def _refuse_for_other_actions(given: argparse.Namespace, action: str) -> None:
    """Name an option that makes no sense without an input, rather than ignoring it."""
    command = _command_of(action)
    for name in ("type", *OPTION_TYPES):
        if getattr(given, name) is not None:
            raise UsageError(
                f"{option_of(name)} does not go with {command}; it is for processing an INPUT",
                f"Example: {EXAMPLES['compress']}",
            )
    if given.detach:
        raise UsageError(
            f"--detach does not go with {command}; it is for processing an INPUT",
            f"Example: {EXAMPLES['compress']} --detach",
        )
    if given.force and action != "download":
        raise UsageError(
            f"--force does not go with {command}; it is for INPUT or --download",
            "Example: vidproc --download ID --force",
        )
    if given.output is not None and action != "download":
        raise UsageError(
            f"--output does not go with {command}; it is for INPUT or --download",
            "Example: vidproc --download ID --output result.mp4",
        )


def _task_id(given: argparse.Namespace, action: str) -> str:
    if action in ("list", "info"):
        return ""
    task_id: str = getattr(given, action).strip()
    if not task_id or len(task_id) > 200 or not task_id.isprintable():
        raise UsageError(
            f"--{action} needs the id of a task, as it was printed when the task was accepted",
            f"Example: vidproc --{action} 0123456789abcdef0123456789abcdef",
        )
    return task_id


# --- parameters ------------------------------------------------------------------------------


def _parameters(given: argparse.Namespace) -> dict[str, Any]:
    """Return the parameters of the chosen type as they go over the wire, checked."""
    operation: str = given.type
    fields = {name: value for name in OPTION_TYPES if (value := getattr(given, name)) is not None}
    for name in fields:
        types = OPTION_TYPES[name]
        if operation not in types:
            raise UsageError(
                f"{option_of(name)} does not belong to --type {operation}; "
                f"it is for --type {' or '.join(types)}",
                f"Example: {EXAMPLES[operation]}",
            )
    _require(operation, fields)
    parameters = {name: _convert(name, text) for name, text in fields.items()}
    _check_ranges(operation, parameters)
    return parameters


def _require(operation: str, fields: dict[str, str]) -> None:
    if operation == "resolution" and not {"width", "height"} <= fields.keys():
        raise UsageError(
            "Resolution change requires both --width and --height",
            "Example: --width 1280 --height 720",
        )
    if operation == "aspect_ratio" and "aspect_ratio" not in fields:
        raise UsageError(
            "Aspect ratio change requires --aspect-ratio",
            'Example: --aspect-ratio "16:9"',
        )
    if operation in ("gif", "webm") and not {"start_time", "duration"} <= fields.keys():
        what = "GIF" if operation == "gif" else "WebM"
        raise UsageError(
            f"{what} creation requires both --start-time and --duration",
            "Example: --start-time 0 --duration 5",
        )


def _whole(text: str) -> int:
    if re.fullmatch(r"[+-]?\d{1,12}", text.strip(), re.ASCII) is None:
        raise ValueError(f"must be a whole number, not {text!r}")
    return int(text)


def _number(text: str) -> int | float:
    if re.fullmatch(r"[+-]?(\d{1,12}(\.\d*)?|\.\d+)", text.strip(), re.ASCII) is None:
        raise ValueError(f"must be a number, not {text!r}")
    value = float(text)
    return int(value) if value.is_integer() else value


def _size(text: str) -> int:
    try:
        return parse_size(text)
    except ValueError:
        raise ValueError(
            f"must be a size in bytes, or with K, M or G such as 8M, not {text!r}"
        ) from None


def _bit_rate(text: str) -> int:
    match = _BIT_RATE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"must be bits per second such as 192k or 192000, not {text!r}")
    return round(float(match[1]) * {"": 1, "k": 1_000, "m": 1_000_000}[match[2].lower()])


def _time(text: str) -> int | float:
    try:
        value = parse_time(text)
    except ValueError:
        raise ValueError(
            f"must be seconds such as 12.5, or HH:MM:SS such as 00:01:30.5, not {text!r}"
        ) from None
    return int(value) if value.is_integer() else value


def _track(text: str) -> int | str:
    text = text.strip()
    return int(text) if re.fullmatch(r"\d{1,6}", text, re.ASCII) else text


_CONVERTERS: dict[str, Callable[[str], Any]] = {
    "width": _whole,
    "height": _whole,
    "start_time": _time,
    "duration": _time,
    "quality": _number,
    "target_size": _size,
    "bitrate": _bit_rate,
    "track": _track,
    "fps": _number,
    "max_size": _size,
}

_PARAMETER_EXAMPLES = {
    "width": "--width 1280",
    "height": "--height 720",
    "aspect_ratio": '--aspect-ratio "16:9"',
    "fit": "--fit crop",
    "start_time": "--start-time 0 --duration 5",
    "duration": "--start-time 0 --duration 5",
    "target_size": "--target-size 8M",
    "preset": "--preset fast",
    "bitrate": "--bitrate 192k",
    "track": "--track 2",
    "fps": "--fps 12",
    "max_size": "--max-size 2M",
}


def _parameter_example(operation: str, name: str) -> str:
    if name == "quality":
        return "Example: --quality 95" if operation == "compress" else "Example: --quality 30"
    if name == "codec":
        return "Example: --codec h264" if operation == "compress" else "Example: --codec vp9"
    return f"Example: {_PARAMETER_EXAMPLES[name]}"


def _convert(name: str, text: str) -> Any:
    try:
        return _CONVERTERS.get(name, str)(text)
    except ValueError as error:
        example = _parameter_example("compress", name)
        raise UsageError(f"{option_of(name)} {error}", example) from None


def _check_ranges(operation: str, parameters: dict[str, Any]) -> None:
    """Check the values as the server would, so that nothing is sent in vain."""
    from vidproc.errors import ServiceError
    from vidproc.operations.parameters import parse_parameters

    try:
        parse_parameters(operation, parameters)
        return
    except ServiceError as error:
        description = error.description
    problem = description.partition(" is not right: ")[2].rstrip(".") or description
    name = next((name for name in parameters if re.match(rf"{name}\b", problem)), None)
    if name is None:
        name = next((name for name in parameters if re.search(rf"\b{name}\b", problem)), None)
    if name is None:
        raise UsageError(problem, f"Example: {EXAMPLES[operation]}")
    allowed = _allowed(operation, name)
    if name == "aspect_ratio":
        sentence = f"--aspect-ratio must be W:H from 1:10 to 10:1, not {parameters[name]!r}"
    elif allowed:
        sentence = f"{option_of(name)} must be {allowed}, not {parameters[name]!r}"
        if len(OPTION_TYPES[name]) > 1:
            sentence += f", for --type {operation}"
    else:
        sentence = problem
        for other in ("start_time", *parameters):
            sentence = re.sub(rf"(?<!-)\b{other}\b", option_of(other), sentence)
    raise UsageError(sentence, _parameter_example(operation, name))


def _allowed(operation: str, name: str) -> str:
    """Return in words what a parameter may be, from the server's own table; empty if it can't."""
    from vidproc.operations.parameters import describe_parameters

    if name == "track":
        return "a track number from 1, or a language such as eng"
    schema = describe_parameters(operation).get(name, {})
    for form in [schema, *schema.get("anyOf", [])]:
        if "enum" in form:
            return f"one of {', '.join(map(str, form['enum']))}"
        if "minimum" in form and "maximum" in form:
            kind = "a whole number " if form.get("type") == "integer" else ""
            if form["maximum"] > 1_000_000_000:
                return f"{kind}of at least {form['minimum']:g}"
            return f"{kind}from {form['minimum']:g} to {form['maximum']:g}"
    return ""


# --- files and places ------------------------------------------------------------------------


def check_input(text: str) -> Path:
    """Return the path of an input that can be sent; raises `UsageError` when it can't be."""
    path = Path(text)
    advice = "Name a video file that exists and that you may read."
    try:
        with path.open("rb") as file:
            regular = path.is_file()
            size = os.fstat(file.fileno()).st_size
            if regular and size:
                file.read(1)
    except FileNotFoundError:
        raise UsageError(f"The input file does not exist: {text}", advice) from None
    except IsADirectoryError:
        raise UsageError(f"The input is a folder, not a file: {text}", advice) from None
    except (OSError, ValueError) as error:
        if path.is_dir():  # Windows says "permission denied" of a folder
            raise UsageError(f"The input is a folder, not a file: {text}", advice) from None
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"The input file can't be read: {text} ({reason})", advice) from None
    if not regular:
        raise UsageError(f"The input is not a regular file: {text}", advice)
    if size == 0:
        raise UsageError(f"The input file is empty: {text}", "Name a video file with content.")
    if size > MAX_INPUT_SIZE:
        raise UsageError(
            f"The input file is larger than 1 TiB, more than the protocol carries: {text}",
            "Split it into parts.",
        )
    return path


def _output(text: str | None) -> Path | None:
    if text is None:
        return None
    if not text or "\0" in text:
        raise UsageError("--output must name a file or a folder", "Example: --output result.mp4")
    path = Path(text)
    if text[-1] in (os.sep, os.altsep or os.sep) and not path.is_dir():
        raise UsageError(
            f"The output folder does not exist: {text}", "Create it first, or name another."
        )
    if path.exists() and not path.is_dir() and not path.is_file():
        raise UsageError(
            f"The output is not a regular file: {text}", "Name a file that may be replaced."
        )
    return path


def _refuse_overwriting(source: Path, output: Path) -> None:
    try:
        same = output.exists() and output.samefile(source)
    except OSError:
        same = False
    if same:
        raise UsageError(
            f"The output would overwrite the input: {output}",
            f"Example: --output {source.stem}_new{source.suffix}",
        )


def check_output_folder(output: Path) -> None:
    """Raise `UsageError` when nothing can be written where `output`, a file or folder, goes."""
    folder = output if output.is_dir() else output.parent
    if not folder.is_dir():
        raise UsageError(
            f"The output folder does not exist: {folder}", "Create it first, or name another."
        )
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UsageError(
            f"The output folder can't be written to: {folder} ({error.strerror or error})",
            "Example: --output /tmp/result.mp4",
        ) from None


# --- the server ------------------------------------------------------------------------------


def _host(text: str) -> str:
    host = text.strip()
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    if not host or any(character.isspace() or character == "/" for character in host):
        raise UsageError(
            f"--host must be a host name or address, not {text!r}", "Example: --host localhost"
        )
    return host


def _port(text: str) -> int:
    if re.fullmatch(r"\d{1,5}", text.strip(), re.ASCII) and 1 <= int(text) <= 65535:
        return int(text)
    raise UsageError(f"--port must be from 1 to 65535, not {text!r}", "Example: --port 9999")


def _interval(text: str, option: str, example: int, *, zero: bool = False) -> float:
    try:
        seconds = parse_duration(text)
    except ValueError:
        seconds = -1.0
    if seconds > 0 or (zero and seconds == 0):
        return min(seconds, 1e9)
    raise UsageError(
        f"{option} must be seconds{'' if zero else ', more than 0'}, or such as 5m, not {text!r}",
        f"Example: {option} {example}",
    )


def _credentials(given: argparse.Namespace) -> dict[str, Any]:
    ca = token_file = token = None
    if given.ca is not None:
        if not given.tls:
            raise UsageError("--ca needs --tls", f"Example: --tls --ca {given.ca}")
        ca = Path(given.ca)
        if b"-----BEGIN CERTIFICATE-----" not in _read(ca, "--ca"):
            raise UsageError(
                f"--ca: there is no PEM certificate in {ca}",
                "Name the file with the authority's certificate (-----BEGIN CERTIFICATE-----).",
            )
    if given.token_file is not None:
        token_file = Path(given.token_file)
        token = _token(token_file)
        host = _host(given.host)
        if not (given.tls or given.insecure or _is_loopback(host)):
            raise UsageError(
                f"The token would travel to {host} unencrypted, for everybody on the way to read",
                "Add --tls, or --insecure if the network can be trusted.",
            )
    return {"ca": ca, "token_file": token_file, "token": token}


def _is_loopback(host: str) -> bool:
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _read(path: Path, option: str) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(1 << 22)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(
            f"{option}: {path} can't be read ({reason})", "Name a file that you may read."
        ) from None


def _token(path: Path) -> str:
    text = _read(path, "--token-file").decode(errors="replace")
    for line in text.splitlines():
        words = line.split()
        if words and not words[0].startswith("#"):
            token = words[-1]
            if len(token) <= 1024 and token.isprintable() and "\ufffd" not in token:
                return token
            break
    raise UsageError(
        f"--token-file: there is no token in {path}",
        'Its first line must be a token, or "name token".',
    )


# --- saying it -------------------------------------------------------------------------------


def _say(*lines: str) -> None:
    """Write lines to standard error; whoever closed it does not want them."""
    try:
        for line in lines:
            print(line, file=sys.stderr)
    except (OSError, ValueError):
        pass


def _forgive_odd_characters() -> None:
    """Let a file name that is no valid text come out as it went in, rather than as an error."""
    for stream, errors in ((sys.stdout, "surrogateescape"), (sys.stderr, "backslashreplace")):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            try:
                reconfigure(errors=errors if os.name == "posix" else "backslashreplace")
            except (OSError, ValueError):
                pass


def _let_go_of_closed_streams() -> None:
    """Keep the interpreter from complaining at its end that nobody reads what is still to write."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (AttributeError, ValueError):
            pass
        except OSError:
            try:
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, stream.fileno())
                os.close(nowhere)
            except (OSError, ValueError):
                pass
