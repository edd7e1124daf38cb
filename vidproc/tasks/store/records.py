"""A task as a row of the table, and its transitions. Callers hold the transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping

import msgspec

from vidproc.tasks.model import TRANSITIONS, Failure, InvalidTransition, State, Task
from vidproc.untrusted_json import decode_json

COLUMNS = Task.__struct_fields__
_JSON_COLUMNS = {"parameters", "input", "output", "warnings", "failure"}


def get(db: sqlite3.Connection, task_id: str) -> Task | None:
    """Return the task, or None."""
    return one(db, "SELECT * FROM tasks WHERE task_id = ?", (task_id,))


def insert(db: sqlite3.Connection, task: Task) -> None:
    """Insert a task."""
    columns = ", ".join(COLUMNS)
    marks = ", ".join("?" * len(COLUMNS))
    db.execute(
        f"INSERT INTO tasks ({columns}) VALUES ({marks})",  # noqa: S608 - our own names
        [_to_column(name, getattr(task, name)) for name in COLUMNS],
    )


def move(db: sqlite3.Connection, task: Task, to: State, fields: Mapping[str, object]) -> Task:
    """Move a task and set `fields`; return it as it is then. Raises `InvalidTransition`."""
    if to not in TRANSITIONS[task.state]:
        raise InvalidTransition(task.task_id, task.state, to)
    set_fields(db, task.task_id, {"state": to, **fields})
    return msgspec.structs.replace(task, state=to, **fields)


def set_fields(db: sqlite3.Connection, task_id: str, fields: Mapping[str, object]) -> None:
    """Set `fields` of a task; raises `ValueError` for one that tasks do not have."""
    if unknown := fields.keys() - set(COLUMNS):
        raise ValueError(f"a task has no {unknown}")
    assignments = ", ".join(f"{name} = ?" for name in fields)
    values = [_to_column(name, value) for name, value in fields.items()]
    db.execute(
        f"UPDATE tasks SET {assignments} WHERE task_id = ?",  # noqa: S608 - checked above
        [*values, task_id],
    )


def one(db: sqlite3.Connection, query: str, arguments: tuple[object, ...]) -> Task | None:
    """Return the task that a query finds, or None."""
    row = db.execute(query, arguments).fetchone()
    return None if row is None else from_row(row)


def in_states(db: sqlite3.Connection, states: Iterable[State]) -> list[Task]:
    """Return the tasks in these states, oldest first."""
    names = list(states)
    marks = ", ".join("?" * len(names))
    query = f"SELECT * FROM tasks WHERE state IN ({marks}) ORDER BY seq"  # noqa: S608
    return [from_row(row) for row in db.execute(query, names)]


def from_row(row: sqlite3.Row) -> Task:
    """Return the task of a row."""
    fields = {name: row[name] for name in COLUMNS}
    for name in _JSON_COLUMNS:
        if fields[name] is not None:
            value = decode_json(fields[name])  # parameters are whatever a client sent
            fields[name] = msgspec.convert(value, Failure) if name == "failure" else value
    fields["state"] = State(fields["state"])
    return Task(**fields)


def _to_column(name: str, value: object) -> object:
    if name in _JSON_COLUMNS and value is not None:
        return msgspec.json.encode(value).decode()
    return value
