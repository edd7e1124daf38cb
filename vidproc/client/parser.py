"""The options of the command and its help."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import NoReturn

from vidproc.about import ShowVersion
from vidproc.client.options import DEFAULT_HOST, DEFAULT_PORT
from vidproc.client.parameters import OPTION_TYPES, TYPES, option_of
from vidproc.client.paths import is_there
from vidproc.program_options import add_configuration

_DESCRIPTION = "Send a video to a vidproc server, follow its processing and fetch the result."


_EPILOG = """\
The path of the result is the last line of standard output (of a batch, a line for each result);
progress, warnings and errors go to standard error. Times are seconds (12.5) or HH:MM:SS.mmm; sizes
take K, M, G or T.

exit status:
    0  done
    1  the processing failed
    2  wrong usage, or the input cannot be read
    3  cannot connect, or the connection was lost for good
    4  --max-wait-time passed; the task continues on the server
    5  the server refused the request
  130  interrupted by Ctrl-C; by another signal, 128 plus its number
the exit status of a batch is the highest of its videos'; the same command resumes a batch.

examples:
  vidproc film.mp4 --type compress --quality 95
  vidproc film.mp4 --type resolution --width 1280 --height 720
  vidproc film.mp4 --type aspect_ratio --aspect-ratio "16:9" --fit crop
  vidproc film.mp4 --type extract_audio --bitrate 192k
  vidproc film.mp4 --type gif --start-time 0 --duration 5
  vidproc film.mp4 --type webm --start-time 00:01:30 --duration 5
  vidproc *.mp4 --type compress --output results
"""


class _Parser(argparse.ArgumentParser):
    """An argument parser whose errors say where to find help."""

    def error(self, message: str) -> NoReturn:
        unknown = message.partition("unrecognized arguments: ")[2]
        if unknown and is_there(Path(unknown)):
            message += f"\nTo name a file that begins with a dash, write ./{unknown}"
        self.print_usage(sys.stderr)
        self.exit(2, f"{self.prog}: {message}\nFor help and examples: vidproc --help\n")


def build_parser() -> argparse.ArgumentParser:
    """Return the argument parser of the command."""
    parser = _Parser(
        prog="vidproc",
        usage="vidproc INPUT... --type TYPE [options]\n"
        "       vidproc --status ID | --watch ID | --download ID | --cancel ID\n"
        "       vidproc --list | --server-info",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    _add_general(parser)
    _add_parameters(parser.add_argument_group("parameters of the operations"))
    _add_actions(parser.add_argument_group("instead of INPUT"))
    _add_server(parser.add_argument_group("the server"))
    _add_settings(parser.add_argument_group("waiting, logging and settings"))
    return parser


def _add_general(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "input",
        nargs="*",
        metavar="INPUT",
        help="the video to process; several, or a folder for the videos in it, are a batch",
    )
    parser.add_argument("--type", choices=TYPES, help="the operation")
    parser.add_argument(
        "--output",
        metavar="FILE",
        help="where the result goes, a file or a folder (INPUT_processed.KIND next to the input); "
        "for a batch a folder, which is created",
    )
    parser.add_argument(
        "--detach",
        action="store_true",
        help="exit as soon as the server has accepted the task; fetch the result later",
    )
    parser.add_argument(
        "--force",
        action="store_true",
        help="replace the result of an earlier run instead of using the next free name",
    )
    parser.add_argument(
        "--skip-existing",
        action="store_true",
        help="leave out a video whose result exists already",
    )
    parser.add_argument(
        "--version",
        action=ShowVersion,
        nargs=0,
        help="show the versions of this vidproc and its FFmpeg, and exit",
    )


def _add_parameters(group: argparse._ArgumentGroup) -> None:
    texts = {
        "width": ("W", "width in pixels"),
        "height": ("H", "height in pixels"),
        "aspect_ratio": ("W:H", "aspect ratio, from 1:10 to 10:1, such as 16:9"),
        "fit": ("FIT", "if the aspect ratio differs: pad, crop or stretch (pad)"),
        "start_time": ("T", "where the clip starts"),
        "duration": ("T", "the length of the clip; for a GIF at most 600 s"),
        "quality": ("Q", "compress: VMAF, 70 to 99 (95); webm: CRF, 4 to 63, lower is better (30)"),
        "codec": ("CODEC", "compress: h264, hevc, av1 or auto (h264); webm: vp9 or av1 (vp9)"),
        "target_size": ("BYTES", "the maximum size of the file, such as 8M"),
        "preset": ("PRESET", "encoding time against size: fast, balanced or small (balanced)"),
        "audio_tracks": ("WHICH", "the audio tracks to keep: all, or only the default one (all)"),
        "plays": ("CODECS", "the codecs that you can play, such as h264,hevc; for --codec auto"),
        "hdr": ("WHAT", "keep HDR, or convert it to sdr (keep; with h264 always sdr)"),
        "grain": ("HOW", "auto removes film grain and has players synthesise it; needs av1 (off)"),
        "bitrate": ("BITS", "bits per second, 32k to 320k (a high-quality variable bit rate)"),
        "track": ("TRACK", "which audio track: a number from 1, or a language such as eng"),
        "fps": ("N", "frames per second, 1 to 50 (12)"),
        "max_size": ("BYTES", "the maximum size of the GIF, such as 2M"),
    }
    for name, (metavar, text) in texts.items():
        types = ", ".join(OPTION_TYPES[name])
        group.add_argument(option_of(name), metavar=metavar, help=f"{text} [{types}]")


def _add_actions(group: argparse._ArgumentGroup) -> None:
    for name, text in (
        ("status", "show the state of a task"),
        ("watch", "follow a task to its end"),
        ("download", "fetch the result of a task"),
        ("cancel", "cancel a task and remove its files"),
    ):
        group.add_argument(f"--{name}", metavar="ID", help=text)
    group.add_argument(
        "--list", action="store_true", help="list your tasks (those of the token in --token-file)"
    )
    group.add_argument(
        "--server-info", action="store_true", help="show the server's version, limits, operations"
    )


def _add_server(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--host", default=DEFAULT_HOST, help=f"its host name or address ({DEFAULT_HOST})"
    )
    group.add_argument("--port", default=str(DEFAULT_PORT), help=f"its port ({DEFAULT_PORT})")
    group.add_argument(
        "--tls", action="store_true", help="encrypt, and check the certificate and host name"
    )
    group.add_argument(
        "--ca", metavar="FILE", help="PEM certificates to trust instead of the system's"
    )
    group.add_argument(
        "--token-file", metavar="FILE", help='its first line is a token, or "name token"'
    )
    group.add_argument(
        "--insecure",
        action="store_true",
        help="allow sending the token to another host without --tls",
    )


def _add_settings(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--check-interval",
        metavar="SECONDS",
        default="60",
        help="seconds between progress lines when there is no terminal (60)",
    )
    group.add_argument(
        "--max-wait-time",
        metavar="SECONDS",
        default="3600",
        help="how long to wait for the processing; then exit with status 4, while the task "
        "continues (3600)",
    )
    group.add_argument(
        "--log-dir", metavar="DIR", default="logs", help="where client.log goes (logs)"
    )
    group.add_argument(
        "--log-format", choices=("text", "json"), default="text", help="format of client.log (text)"
    )
    add_configuration(group)
