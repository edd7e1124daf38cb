"""Uploads between their parts: creating, describing, setting the length, abandoning and feeding
them."""

from __future__ import annotations

import hashlib
import os
from typing import Any

from twisted.internet.defer import ensureDeferred
from twisted.internet.interfaces import IConsumer, IPushProducer
from zope.interface import implementer
from zope.interface.verify import verifyObject

from tests.rig import Rig
from tests.task_case import GIF, SchedulerTestCase
from vidproc.errors import ServiceError
from vidproc.tasks.model import State
from vidproc.tasks.recovery import recover_partial_uploads
from vidproc.tasks.settings import Caller
from vidproc.tasks.uploads.known import ANNOUNCED_RETENTION, MOST_ANNOUNCED, UploadView
from vidproc.tasks.uploads.session import AcceptedTask, PartialUpload, UploadSession
from vidproc.tasks.uploads.submission import Submission

CALLER = Caller("192.0.2.1")
ID = "0b1c2d3e-0000-4000-8000-000000000001"


def submission(upload_id: str | None = ID, size: int | None = 8, **rest: Any) -> Submission:
    """Return an upload for a GIF; without a `size`, the length follows later."""
    values: dict[str, Any] = {"payload_size": 0, "upload_id": upload_id, "size": size, **rest}
    return Submission("gif", GIF, "mp4", length_follows=size is None, **values)


class UploadsTestCase(SchedulerTestCase):
    def rig_with_space(self, **settings: Any) -> Rig:
        rig = self.rig(**settings)
        rig.storage.space.measure()
        return rig

    def create(self, rig: Rig, **values: Any) -> UploadView:
        view: UploadView = self.run_coroutine(rig.tasks.create_upload(submission(**values), CALLER))
        return view

    def describe(self, rig: Rig, upload_id: str = ID) -> UploadView:
        view: UploadView = self.run_coroutine(rig.tasks.describe_upload(upload_id, CALLER))
        return view

    def begin(self, rig: Rig, caller: Caller = CALLER, **values: Any) -> UploadSession:
        session = self.run_coroutine(rig.tasks.admit(submission(**values), caller))
        assert isinstance(session, UploadSession)
        return session

    def refused(self, coroutine: Any) -> int:
        failure = self.failureResultOf(ensureDeferred(coroutine), ServiceError)
        return int(failure.value.code)


class CreatedTests(UploadsTestCase):
    def test_an_upload_without_a_byte_holds_no_slot_and_no_space(self) -> None:
        """Meanwhile another task of the address is admitted."""
        rig = self.rig_with_space(tasks_per_ip=1)
        used = rig.storage.space.used
        view = self.create(rig)
        self.assertEqual((view.offset, view.length, view.task_id), (0, 8, None))
        self.assertEqual((rig.storage.space.reserved, rig.storage.space.used), (0, used))
        self.submit(rig)

    def test_it_is_kept_for_ten_minutes(self) -> None:
        """Its view has the expiry."""
        rig = self.rig_with_space()
        view = self.create(rig)
        self.assertEqual(view.expires_at, rig.clock.seconds() + ANNOUNCED_RETENTION)
        rig.clock.advance(ANNOUNCED_RETENTION - 1)
        self.run_coroutine(rig.tasks.upkeep())
        self.describe(rig)
        rig.clock.advance(2)
        self.run_coroutine(rig.tasks.upkeep())
        self.assertEqual(self.refused(rig.tasks.describe_upload(ID, CALLER)), 404)

    def test_an_address_keeps_only_a_few(self) -> None:
        """The oldest is deleted; those of other addresses stay."""
        rig = self.rig_with_space()
        other = Caller("192.0.2.2")
        self.run_coroutine(rig.tasks.create_upload(submission("others"), other))
        for number in range(MOST_ANNOUNCED + 1):
            self.create(rig, upload_id=f"upload-{number}")
        self.assertEqual(self.refused(rig.tasks.describe_upload("upload-0", CALLER)), 404)
        self.describe(rig, "upload-1")
        self.run_coroutine(rig.tasks.describe_upload("others", other))

    def test_a_break_before_the_first_byte_does_not_end_it(self) -> None:
        """Its client can continue."""
        rig = self.rig_with_space()
        self.create(rig)
        self.successResultOf(self.begin(rig).abort())
        self.assertEqual(self.describe(rig).offset, 0)

    def test_the_same_again_is_fine_and_something_else_is_not(self) -> None:
        """422 for a different request, 409 if it belongs to someone else."""
        rig = self.rig_with_space(owner_only=True)
        self.create(rig)
        self.create(rig)
        self.assertEqual(self.refused(rig.tasks.create_upload(submission(size=9), CALLER)), 422)
        stranger = Caller("192.0.2.2")
        self.assertEqual(self.refused(rig.tasks.create_upload(submission(), stranger)), 409)

    def test_what_can_be_refused_is_refused_at_once(self) -> None:
        """An empty file, and one that is too large."""
        rig = self.rig_with_space(max_upload=100)
        self.assertEqual(self.refused(rig.tasks.create_upload(submission(size=0), CALLER)), 415)
        self.assertEqual(self.refused(rig.tasks.create_upload(submission(size=101), CALLER)), 413)

    def test_its_bytes_make_it_a_task(self) -> None:
        """In parts, as usual; its description is updated."""
        rig = self.rig_with_space()
        self.create(rig)
        session = self.begin(rig, payload_size=4)
        session.write(b"half")
        self.assertEqual((self.describe(rig).offset, self.describe(rig).expires_at), (4, None))
        self.assertEqual(self.successResultOf(session.finish()), PartialUpload(4))
        view = self.describe(rig)
        assert view.expires_at is not None
        self.assertEqual(view.expires_at, rig.clock.seconds() + rig.settings.upload_retention)
        session = self.begin(rig, payload_size=4, offset=4)
        session.write(b"rest")
        accepted = self.successResultOf(session.finish())
        assert isinstance(accepted, AcceptedTask)
        view = self.describe(rig)
        self.assertEqual((view.offset, view.task_id), (8, accepted.task_id))


class LengthTests(UploadsTestCase):
    def test_a_length_can_come_later(self) -> None:
        """After some bytes, and before the last."""
        rig = self.rig_with_space()
        self.assertIsNone(self.create(rig, size=None).length)
        session = self.begin(rig, size=None)
        session.write(b"half")
        self.successResultOf(session.finish())
        view = self.run_coroutine(rig.tasks.set_upload_length(ID, 8, CALLER))
        self.assertEqual((view.offset, view.length), (4, 8))
        session = self.begin(rig, size=8, payload_size=4, offset=4)
        session.write(b"rest")
        accepted = self.successResultOf(session.finish())
        assert isinstance(accepted, AcceptedTask)
        task = rig.store.get(accepted.task_id)
        assert task is not None
        self.assertEqual(task.input_size, 8)

    def test_a_length_is_said_once_and_must_be_possible(self) -> None:
        """Not less than was received, and not more than is allowed."""
        rig = self.rig_with_space(max_upload=100)
        self.create(rig, size=None)
        session = self.begin(rig, size=None)
        session.write(b"half")
        self.successResultOf(session.finish())
        for length, code in ((3, 422), (101, 413)):
            setting = rig.tasks.set_upload_length(ID, length, CALLER)
            self.assertEqual(self.refused(setting), code)
        self.run_coroutine(rig.tasks.set_upload_length(ID, 8, CALLER))
        self.run_coroutine(rig.tasks.set_upload_length(ID, 8, CALLER))
        self.assertEqual(self.refused(rig.tasks.set_upload_length(ID, 9, CALLER)), 422)

    def test_a_body_of_unknown_length_ends_when_its_sender_says_so(self) -> None:
        """Even without an upload_id; space is reserved as bytes arrive."""
        rig = self.rig_with_space()
        film = os.urandom(10_000)
        sha256 = hashlib.sha256(film).hexdigest()
        session = self.begin(rig, upload_id=None, size=None, sha256=sha256)
        session.write(film)
        self.assertLess(rig.storage.space.reserved, rig.settings.max_upload)
        session.set_size(len(film))
        accepted = self.successResultOf(session.finish())
        assert isinstance(accepted, AcceptedTask)
        task = rig.store.get(accepted.task_id)
        assert task is not None
        self.assertEqual((task.state, task.input_size), (State.PROCESSING, len(film)))
        self.assertEqual(rig.storage.path(f"inputs/{task.task_id}").read_bytes(), film)

    def test_a_body_of_unknown_length_is_bounded(self) -> None:
        """By the largest upload."""
        rig = self.rig_with_space(max_upload=100)
        session = self.begin(rig, upload_id=None, size=None)
        broken: list[ServiceError] = []
        session.on_broken = broken.append
        session.write(bytes(101))
        self.assertEqual([error.code for error in broken], [413])
        self.successResultOf(session.abort())
        self.assertEqual((rig.storage.space.reserved, self.leftovers(rig)), (0, []))

    def test_an_empty_body_of_unknown_length_is_415(self) -> None:
        rig = self.rig_with_space()
        session = self.begin(rig, upload_id=None, size=None)
        refused = self.assertRaises(ServiceError, session.set_size, 0)
        self.assertEqual(refused.code, 415)


class AbandonTests(UploadsTestCase):
    def test_an_abandoned_upload_leaves_nothing(self) -> None:
        """Neither row nor bytes, whether or not bytes are arriving."""
        for under_way in (True, False):
            rig = self.rig_with_space()
            session = self.begin(rig, payload_size=8)
            broken: list[ServiceError] = []
            session.on_broken = broken.append
            session.write(b"half")
            if not under_way:
                self.successResultOf(session.abort())
            self.run_coroutine(rig.tasks.abandon_upload(ID, CALLER))
            self.assertEqual([error.code for error in broken], [409] * under_way)
            self.assertEqual(self.refused(rig.tasks.describe_upload(ID, CALLER)), 404)
            self.assertEqual((rig.storage.space.reserved, self.leftovers(rig)), (0, []))
            self.submit(rig)

    def test_a_whole_upload_cannot_be_abandoned(self) -> None:
        """It has become a task, which stays."""
        rig = self.rig_with_space()
        session = self.begin(rig, payload_size=8)
        session.write(b"all of it"[:8])
        accepted = self.successResultOf(session.finish())
        assert isinstance(accepted, AcceptedTask)
        self.assertEqual(self.refused(rig.tasks.abandon_upload(ID, CALLER)), 409)
        self.assertIs(self.state(rig, accepted.task_id), State.PROCESSING)

    def test_a_stranger_can_neither_see_nor_abandon_it(self) -> None:
        rig = self.rig_with_space(owner_only=True)
        self.create(rig)
        stranger = Caller("192.0.2.2")
        self.assertEqual(self.refused(rig.tasks.describe_upload(ID, stranger)), 404)
        self.assertEqual(self.refused(rig.tasks.abandon_upload(ID, stranger)), 404)
        self.describe(rig)


@implementer(IPushProducer)
class Source:
    """Records the calls."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def pauseProducing(self) -> None:
        self.told.append("pause")

    def resumeProducing(self) -> None:
        self.told.append("resume")

    def stopProducing(self) -> None:
        self.told.append("stop")


class ConsumerTests(UploadsTestCase):
    def test_a_session_is_a_consumer_that_pauses_its_producer(self) -> None:
        """Once, for any number of reasons."""
        rig = self.rig_with_space()
        session = self.begin(rig, payload_size=8)
        verifyObject(IConsumer, session)
        source = Source()
        session.registerProducer(source, True)
        session.hold("disk", True)
        session.hold("space", True)
        session.hold("disk", False)
        self.assertEqual(source.told, ["pause"])
        session.hold("space", False)
        self.assertEqual(source.told, ["pause", "resume"])
        session.unregisterProducer()
        session.hold("disk", True)
        self.assertEqual(source.told, ["pause", "resume"])

    def test_a_producer_that_comes_late_is_paused_or_stopped(self) -> None:
        rig = self.rig_with_space()
        session = self.begin(rig, payload_size=8)
        session.hold("disk", True)
        early, late = Source(), Source()
        session.registerProducer(early, True)
        self.assertEqual(early.told, ["pause"])
        self.assertRaises(RuntimeError, session.registerProducer, late, True)
        session.unregisterProducer()
        self.successResultOf(session.abort())
        session.registerProducer(late, True)
        self.assertEqual(late.told, ["stop"])


class RestartTests(UploadsTestCase):
    def test_an_upload_without_a_byte_outlives_a_restart(self) -> None:
        """It has no file."""
        rig = self.rig_with_space()
        self.create(rig)
        recover_partial_uploads(rig.store, rig.storage, "another boot")
        recover_partial_uploads(rig.store, rig.storage, "and another")
        self.assertEqual(self.describe(rig).offset, 0)
        session = self.begin(rig, payload_size=8)
        session.write(bytes(8))
        self.assertIsInstance(self.successResultOf(session.finish()), AcceptedTask)
