"""Answers as text for people: the lines that the command prints."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from vidproc.client.words import describe_status, details_of, fraction_of, number, printable
from vidproc.configuration import Held
from vidproc.units import format_duration, format_size


def warnings_of(fields: dict[str, Any]) -> list[str]:
    """Return a status's warnings as printable sentences."""
    warnings = fields.get("warnings")
    return [printable(warning) for warning in warnings] if isinstance(warnings, list) else []


def _size_and_length(media: dict[str, Any]) -> list[str]:
    texts = []
    width, height = number(media.get("width")), number(media.get("height"))
    if width and height:
        texts.append(f"{width:.0f}x{height:.0f}")
    duration = number(media.get("duration"))
    if duration:
        texts.append(format_duration(duration))
    return texts


def _media(fields: dict[str, Any], key: str) -> dict[str, Any]:
    media = fields.get(key)
    return media if isinstance(media, dict) else {}


def summary(fields: dict[str, Any], size_in: int, size_out: int) -> str:
    """Return a line that summarises the result for a file of `size_in` bytes."""
    output = _media(fields, "output")
    percent = f" ({size_out * 100 / size_in:.0f} %)" if size_in else ""
    sizes = f"{format_size(size_in)} -> {format_size(size_out)}{percent}"
    text = ", ".join([sizes, *_size_and_length(output)])
    if output.get("already_optimal"):
        return f"Done: the file is already well compressed and was not changed. {text}"
    return f"Done: {text}"


def status_block(task_id: str, fields: dict[str, Any]) -> list[tuple[str, str]]:
    """Return a status as pairs of names and values, in reading order."""
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
        texts = [] if size is None else [format_size(size)]
        texts += _size_and_length(media)
        texts += [
            str(media[key])
            for key in ("container", "video_codec", "audio_codec")
            if isinstance(media.get(key), str)
        ]
        add(name.capitalize(), ", ".join(texts))
        if media.get("already_optimal"):
            add("Note", "the file is already well compressed and was not changed")
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
    """Return the answer to ``list`` as one line per task: ID, type, creation time, status."""
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
    """Return a sentence about the result of a cancel."""
    status = printable(fields.get("status") or "cancelled")
    if status == "cancelled":
        return f"{printable(task_id)}: cancelled"
    return f"{printable(task_id)}: it was already {status}; its files have been removed"


_LIMIT_WORDS: dict[str, Callable[[float], str]] = {
    "max_upload": format_size,
    "storage_limit": format_size,
    "retention": format_duration,
    "upload_retention": format_duration,
    "job_timeout": format_duration,
    "idle_timeout": format_duration,
}


def info_block(host: str, port: int, fields: dict[str, Any]) -> list[tuple[str, str]]:
    """Return a server's description as pairs of names and values."""
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
    known = {"id", "status", "version", "limits", "operations", "actions", "task_id", "settings"}
    known |= {"workers", "workers_left_out"}
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
    pairs += _worker_pairs(fields.get("workers"), number(fields.get("workers_left_out")))
    for key, setting in _media(fields, "settings").items():
        if isinstance(setting, dict):
            value = setting.get("value")
            text = "not set" if value is None else printable(value)
            pairs.append(
                (f"Server --{printable(key)}", f"{text} ({printable(setting.get('source'))})")
            )
    return pairs


def _worker_pairs(workers: object, left_out: float | None) -> list[tuple[str, str]]:
    """Return a pair for each worker of a server's cluster, and one for those that are left out."""
    if not isinstance(workers, list):
        return []
    if not workers:
        return [("Workers", "none; commands run on the server's machine")]
    pairs = []
    for worker in workers:
        if not isinstance(worker, dict):
            continue
        memory = number(worker.get("memory"))
        running = worker.get("running")
        layers = worker.get("sandbox")
        words = [
            f"{printable(worker.get('free_cores'))} of {printable(worker.get('cores'))} cores free",
            *([format_size(memory)] if memory is not None else []),
            f"FFmpeg {printable(worker.get('ffmpeg'))}",
            "sandbox " + (_listed(layers) or "off"),
            "running " + (_listed(running) or "nothing"),
            f"{printable(worker.get('completed'))} completed",
        ]
        if worker.get("refused"):
            words.append(f"gets no commands: {printable(worker['refused'])}")
        pairs.append((f"Worker {printable(worker.get('name'))}", "; ".join(words)))
    if left_out:
        pairs.append(("Workers", f"{left_out:.0f} more; over HTTP, /api/v1/info lists them all"))
    return pairs


def _listed(value: object) -> str:
    return ", ".join(printable(each) for each in value) if isinstance(value, list) else ""


def held_block(held: Iterable[Held]) -> list[tuple[str, str]]:
    """Return the client's own settings as pairs of names and values with their sources."""
    return [
        (f"Client --{one.name}", f"{' '.join(one.texts) or 'not set'} ({one.source})")
        for one in held
    ]


def _parameter_words(parameters: object) -> str:
    """Return an operation's parameters, with their ranges if the server sent them."""
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


def unfinished_lines(last: dict[str, Any]) -> list[str]:
    """Return lines that say why a task whose last status is `last` has no result."""
    status = str(last.get("status"))
    if status == "failed":
        reason = printable(last.get("error") or "no reason was given")
        solution = last.get("solution")
        return [f"The processing failed: {reason}", *([printable(solution)] if solution else [])]
    if status == "cancelled":
        return ["The task was cancelled; there is no result."]
    return [
        "The task has expired; its result is no longer kept.",
        "Process the file again to get a new one.",
    ]
