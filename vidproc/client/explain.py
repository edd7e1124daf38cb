"""Why a run ended early: the exit status and the message."""

from __future__ import annotations

import traceback

from vidproc.client.errors import (
    ChecksumMismatch,
    ConnectFailed,
    InputChanged,
    LostForGood,
    Refused,
    ResultNotWritten,
    WaitOver,
)
from vidproc.client.exit_status import FAILED, REFUSED, UNREACHABLE, USAGE, WAITED
from vidproc.client.log import Log
from vidproc.client.next_steps import RunState
from vidproc.client.words import printable
from vidproc.units import format_duration


def explain(error: BaseException, state: RunState, log: Log) -> tuple[int, list[str]]:
    """Return the exit status for an error, and lines that say what went wrong and what to do."""
    if state.signal:
        log.warning("interrupted by signal %d", state.signal)
        again = ["Run the same command again to resume the upload."]
        steps = state.later(cancel=True) or (again if state.upload_kept else [])
        return 128 + state.signal, ["Interrupted.", *steps]
    if isinstance(error, Refused):
        return REFUSED, _refusal(error, state, log)
    later = state.later()
    known: tuple[int, list[str]] | None = None
    if isinstance(error, ConnectFailed):
        known = UNREACHABLE, [printable(error), *_advice(error.advice), *later]
    elif isinstance(error, LostForGood):
        known = (
            UNREACHABLE,
            [printable(error), *_advice(error.advice), *(later or state.again())],
        )
    elif isinstance(error, WaitOver):
        limit = format_duration(state.options.max_wait_time)
        text = f"Task {printable(state.task_id)} is not done after {limit} (--max-wait-time); "
        known = WAITED, [f"{text}it continues on the server.", *later]
    elif isinstance(error, InputChanged):
        known = USAGE, [printable(error), "Run the command again when the file is complete."]
    elif isinstance(error, ResultNotWritten):
        advice = "Free some space, or choose another place with --output."
        known = FAILED, [printable(error), advice, *later]
    elif isinstance(error, ChecksumMismatch):
        known = FAILED, [f"The download is damaged and was discarded: {error}.", *later]
    if known is not None:
        log.warning("%s", error)
        return known
    log.error("unexpected: %s", "".join(traceback.format_exception(error)))
    where = state.options.log_dir / "client.log"
    kind = type(error).__name__
    return FAILED, [f"Something unexpected went wrong ({kind}); details in {where}", *later]


def _advice(text: str) -> list[str]:
    return [printable(text)] if text else []


def _refusal(refusal: Refused, state: RunState, log: Log) -> list[str]:
    log.warning("refused: %d %s", refusal.code, refusal.description)
    code = f" ({refusal.code})" if refusal.code else ""
    lines = [f"The server refused{code}: {printable(refusal.description)}"]
    lines += _advice(refusal.solution)
    other = refusal.fields.get("task_id")
    if isinstance(other, str) and other and other != state.task_id:
        lines.append(f"Watch that task: {state.command('--watch', other)}")
    elif refusal.code == 409 and state.options.action == "download":
        lines.append(f"Watch it: {state.command('--watch', state.task_id)}")
    return lines
