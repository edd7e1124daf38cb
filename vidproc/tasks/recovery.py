"""Recovery at startup: makes the store and the disk agree before anything runs."""

from __future__ import annotations

from vidproc.files.boot import boot_id
from vidproc.files.data_folder import DataFolder, input_key, upload_key
from vidproc.tasks.model import State
from vidproc.tasks.store.store import TaskStore
from vidproc.topics import Topic, TopicLogger

_log = TopicLogger(Topic.SERVICE, __name__)


def recover(store: TaskStore, data_folder: DataFolder, now: float) -> None:
    """Clean up after the last run, however it ended.

    Call it at startup, with the data folder locked and before any thread runs. Raises `OSError`
    and `sqlite3.Error`; it can be called again then.
    """
    if offset := store.recovery.adopt_dates(now):
        _log.info(
            "the clock was set by {offset:+.0f} s in the last run; the tasks' dates were moved",
            offset=offset,
        )
    recovery = store.recovery.recover(now)
    for task in recovery.interrupted:
        _log.info(
            "task {task_id} was interrupted; it is {state} now",
            task_id=task.task_id,
            state=task.state,
        )
    for task_id in recovery.broken:
        # The upload was complete and had its final name, but its row was not updated yet.
        data_folder.take_back(input_key(task_id), upload_key(task_id))
    removed, moved = data_folder.sort_out(
        store.recovery.known_keys(), store.recovery.task_ids() | set(recovery.forgotten)
    )
    for key in removed:
        _log.info("{key} was left over; removed", key=key)
    for key in moved:
        _log.warn("{key} belongs to no task; moved to orphans", key=key)
    recover_partial_uploads(store, data_folder, boot_id())
    data_folder.space.measure()


def recover_partial_uploads(store: TaskStore, data_folder: DataFolder, boot: str) -> None:
    """Sync each partial upload, after dropping bytes that do not count as received.

    These are bytes that had not been verified yet, and, if the machine was rebooted since the last
    run, those that had not been synced.
    """
    last = store.recovery.last_boot()
    for task in store.in_states([State.PARTIAL]):
        key = upload_key(task.task_id)
        if last not in (None, boot):
            lost = data_folder.cut(key, task.synced or 0)
            if lost:
                _log.info(
                    "upload of task {task_id}: the last {lost} bytes were not synced when the"
                    " machine went down; dropped",
                    task_id=task.task_id,
                    lost=lost,
                )
        if task.verified is not None:
            lost = data_folder.cut(key, task.verified)
            if lost:
                _log.info(
                    "upload of task {task_id}: the last {lost} bytes were not verified when the"
                    " server ended; dropped",
                    task_id=task.task_id,
                    lost=lost,
                )
        size = data_folder.sync(key)
        if (task.synced, task.received, task.verified) != (size, size, None):
            store.update(task.task_id, synced=size, received=size, verified=None)
    if last != boot:
        store.recovery.note_boot(boot)
