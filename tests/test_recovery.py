"""Recovery after the last run, with a real folder and store."""

from __future__ import annotations

import tempfile
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.rig import Rig
from vidproc.files.boot import boot_id
from vidproc.files.data_folder import upload_key
from vidproc.tasks.model import State, Task
from vidproc.tasks.recovery import recover, recover_partial_uploads
from vidproc.tasks.uploads import uploads

UPLOAD_ID = "00000000-0000-0000-0000-000000000001"
REQUEST = {"action": "upload", "type": "gif", "upload_id": UPLOAD_ID, "size": 1000}
PARAMETERS = {"start_time": 0, "duration": 1}


class PartialUploadTests(SynchronousTestCase):
    """An upload of 1,000 bytes is synced every 100 bytes; the server ends, and another starts."""

    def setUp(self) -> None:
        self.patch(uploads, "SYNC_EVERY", 100)
        self.root = Path(tempfile.mkdtemp(dir=self.make_folder()))
        self.rig = Rig(self.root)
        self.addCleanup(lambda: self.rig.close())
        recover_partial_uploads(self.rig.store, self.rig.storage, "boot 1")

    def make_folder(self) -> str:
        folder: str = self.mktemp()
        Path(folder).mkdir(parents=True)
        return folder

    def begin(self, *parts: int) -> None:
        """Send parts of an upload with these sizes, and stop."""
        from tests.rig import message

        request = {**REQUEST, "parameters": PARAMETERS}
        client = self.rig.connect()
        client.send(message(request, bytes(b"x" * 1000), "mp4")[:-1000])
        for size in parts:
            client.send(b"x" * size)
        self.client = client

    def start_again(self, boot: str) -> Task:
        """Let the server end abruptly, and start another; return the upload's row."""
        self.rig.close()
        self.rig = Rig(self.root)
        self.rig.store.recovery.recover(self.rig.clock.seconds())
        recover_partial_uploads(self.rig.store, self.rig.storage, boot)
        (task,) = self.rig.store.in_states([State.PARTIAL])
        return task

    def held(self, task: Task) -> int:
        return self.rig.storage.size(upload_key(task.task_id))

    def test_under_the_same_boot_every_byte_is_kept(self) -> None:
        """The kernel still has them."""
        self.begin(150, 90)
        task = self.start_again("boot 1")
        self.assertEqual((self.held(task), task.synced, task.received), (240, 240, 240))

    def test_after_another_boot_only_what_was_synced_is_kept(self) -> None:
        """The rest may be zeros."""
        self.begin(150, 90)
        task = self.start_again("boot 2")
        self.assertEqual((self.held(task), task.synced, task.received), (150, 150, 150))

    def test_after_another_boot_an_upload_that_was_never_synced_begins_anew(self) -> None:
        """Its size says nothing."""
        self.begin(90)
        task = self.start_again("boot 2")
        self.assertEqual((self.held(task), task.synced), (0, 0))

    def test_an_upload_that_broke_off_before_the_power_cut_keeps_all(self) -> None:
        """It was synced when it was interrupted."""
        self.begin(150, 90)
        self.client.lose()
        task = self.start_again("boot 2")
        self.assertEqual(self.held(task), 240)

    def test_what_a_crash_left_is_synced_by_the_next_start(self) -> None:
        """A power cut after that loses nothing more."""
        self.begin(150, 90)
        self.start_again("boot 1")
        task = self.start_again("boot 2")
        self.assertEqual(self.held(task), 240)

    def test_uploads_of_an_older_version_are_kept(self) -> None:
        """That version noted no boot ID."""
        self.begin(90)
        with self.rig.store.database.transaction() as db:
            db.execute("DELETE FROM boot")
        task = self.start_again("boot 1")
        self.assertEqual((self.held(task), task.synced), (90, 90))

    def test_the_client_goes_on_from_what_was_synced(self) -> None:
        """The result is the whole file."""
        self.begin(150, 90)
        task = self.start_again("boot 2")
        path = self.rig.storage.path(upload_key(task.task_id))
        client = self.rig.connect()
        ((status, _, _),) = client.request({"action": "upload_status", "upload_id": UPLOAD_ID})
        self.assertEqual(status["offset"], 150)
        request = {**REQUEST, "parameters": PARAMETERS, "offset": 150}
        ((answer, _, _),) = client.request(request, b"x" * 850, "mp4")
        self.assertEqual(answer["status"], "accepted", answer)
        self.assertFalse(path.exists())
        stored = self.rig.store.get(task.task_id)
        assert stored is not None and stored.input_key is not None
        self.assertEqual(self.rig.storage.path(stored.input_key).read_bytes(), b"x" * 1000)

    def test_a_start_notes_the_boot(self) -> None:
        """The current boot of the machine."""
        recover(self.rig.store, self.rig.storage, self.rig.clock.seconds())
        self.assertEqual(self.rig.store.recovery.last_boot(), boot_id())
        self.assertNotEqual(boot_id(), "")
