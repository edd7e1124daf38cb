"""What all parts of the task service stand on."""

from __future__ import annotations

from dataclasses import dataclass

from twisted.internet.interfaces import IReactorTime

from vidproc.files.data_folder import DataFolder
from vidproc.files.threads import WorkerThreads
from vidproc.tasks.settings import Settings
from vidproc.tasks.store.store import TaskStore


@dataclass(frozen=True, slots=True)
class Foundation:
    """The clock, the settings, and where tasks and their files are kept.

    `disk` are threads for work on files, `store_thread` the one in which the store is changed.
    """

    reactor: IReactorTime
    settings: Settings
    data_folder: DataFolder
    disk: WorkerThreads
    store: TaskStore
    store_thread: WorkerThreads
