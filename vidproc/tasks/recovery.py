"""What a start does before anything runs: it makes the store and the disk agree."""

from __future__ import annotations

from vidproc.files.boot import boot_id
from vidproc.files.data_folder import DataFolder, input_key, upload_key
from vidproc.tasks.model import State
from vidproc.tasks.store.store import TaskStore
from vidproc.topics import Topic, TopicLogger

_log = TopicLogger(Topic.SERVICE, __name__)


def recover(store: TaskStore, data_folder: DataFolder, now: float) -> None:
    """Put right what the end of the last run has left, however it ended.

    For the start, under the data folder's lock and before any thread runs. Raises `OSError` and
    `sqlite3.Error`; it can be done again then.
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
        # It was whole, and had its final name, but the store did not know yet.
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
    """Keep what is certain of each partial upload, and have the disk keep it.

    If the machine was started again since the last run, what had not been synced is cut off.
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
        size = data_folder.sync(key)
        if (task.synced, task.received) != (size, size):
            store.update(task.task_id, synced=size, received=size)
    if last != boot:
        store.recovery.note_boot(boot)
