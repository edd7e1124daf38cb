"""Server-sent events: the contents, rate, order and end of a stream."""

from __future__ import annotations

import json
from typing import Any

from tests.http_rig import HTTPClient, Response
from tests.rig import complete_step
from tests.test_http_tasks import TaskTestCase
from vidproc.ffmpeg.command import Progress
from vidproc.frontends.http.events import COMMENT_INTERVAL, MOST_TASKS
from vidproc.frontends.http.feeds import SHORTEST_INTERVAL
from vidproc.tasks.settings import Settings


class Stream:
    """A client's stream. `events` are those received, as (id, event, data)."""

    def __init__(self, client: HTTPClient, path: str, **headers: Any) -> None:
        self.client = client
        self._text = b""
        self.events: list[tuple[str, str, dict[str, Any]]] = []
        self.comments = 0
        self.ended = False
        lines = [f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items()]
        client.send(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n{''.join(lines)}\r\n".encode())
        data = client.written()
        self.head = Response(data.partition(b"\r\n\r\n")[0] + b"\r\n\r\n", head_only=True)
        self._raw = data.partition(b"\r\n\r\n")[2]
        self.read()

    def read(self) -> list[dict[str, Any]]:
        """Parse what has arrived; return the data of the new events."""
        self._raw += self.client.written()
        while b"\r\n" in self._raw:
            size, _, rest = self._raw.partition(b"\r\n")
            length = int(size, 16)
            if len(rest) < length + 2:
                break
            self._text += rest[:length]
            self._raw = rest[length + 2 :]
            self.ended = self.ended or length == 0
        new = []
        while b"\n\n" in self._text:
            block, _, self._text = self._text.partition(b"\n\n")
            lines = block.decode().split("\n")
            if lines[0].startswith(":"):
                self.comments += 1
            elif lines[0].startswith("id: "):
                fields = dict(line.split(": ", 1) for line in lines)
                data = json.loads(fields["data"])
                self.events.append((fields["id"], fields["event"], data))
                new.append(data)
        return new

    @property
    def last_id(self) -> str:
        """The id of the last event."""
        return self.events[-1][0]


class EventTestCase(TaskTestCase):
    def follow(self, *task_ids: str, **headers: Any) -> Stream:
        """Open a stream of one task or several."""
        path = f"/api/v1/tasks/{task_ids[0]}/events"
        if len(task_ids) > 1:
            path = "/api/v1/events?" + "&".join(f"task={task_id}" for task_id in task_ids)
        return Stream(self.rig.http_client(), path, **headers)

    def pass_time(self, seconds: float = SHORTEST_INTERVAL) -> None:
        self.rig.clock.advance(seconds)


class OneTaskTests(EventTestCase):
    def test_a_stream_sends_each_change_and_ends_after_the_last_one(self) -> None:
        """The current status comes at once; the last event is terminal."""
        task_id = self.send()
        stream = self.follow(task_id)
        self.assertEqual(stream.head.status, 200)
        self.assertEqual(stream.head.headers["Content-Type"], "text/event-stream")
        self.assertEqual(stream.head.headers["Cache-Control"], "no-store")
        self.assertEqual(stream.head.headers["X-Accel-Buffering"], "no")
        (_, event, data) = stream.events[0]
        self.assertEqual(
            (event, data["status"], data["task_id"]), ("status", "processing", task_id)
        )
        while self.rig.runner.running:
            self.pass_time()
            complete_step(self.rig.runner.running[0])
        self.pass_time()
        told = stream.read()
        self.assertEqual(told[-1]["status"], "completed")
        self.assertTrue(stream.ended)
        status = self.client.request("GET", f"/api/v1/tasks/{task_id}").json
        self.assertEqual(told[-1], status)
        self.assertEqual(len(self.rig.tasks.queue.watches), 0)

    def test_a_task_that_has_ended_is_reported_once(self) -> None:
        stream = self.follow(self.done())
        self.assertEqual([data["status"] for _, _, data in stream.events], ["completed"])
        self.assertTrue(stream.ended)

    def test_a_reconnect_after_the_end_gets_204(self) -> None:
        """That stops an EventSource. But not if the client missed the end."""
        task_id = self.send()
        stream = self.follow(task_id)
        first = stream.last_id
        self.pass_time()
        self.complete()
        self.pass_time()
        stream.read()
        headers: dict[str, Any] = {"Last_Event_ID": stream.last_id}
        again = self.rig.http_client().request("GET", f"/api/v1/tasks/{task_id}/events", **headers)
        self.assertEqual((again.status, again.body), (204, b""))
        missed = self.follow(task_id, Last_Event_ID=first)
        self.assertEqual([data["status"] for _, _, data in missed.events], ["completed"])

    def test_an_id_that_is_not_known_gets_the_present_status(self) -> None:
        """For example after a restart, when numbers start again."""
        task_id = self.done()
        for unknown in ("", "nonsense", "00000000-5", "1" * 500, f"ffffffff-{'0' * 8}-99-end"):
            stream = self.follow(task_id, Last_Event_ID=unknown)
            self.assertEqual([data["status"] for _, _, data in stream.events], ["completed"])

    def test_a_stream_goes_on_after_its_last_event(self) -> None:
        """Events that were seen are not repeated, as long as the task has followers."""
        task_id = self.send()
        other = self.follow(task_id)
        stream = self.follow(task_id)
        stream.client.lose()
        again = self.follow(task_id, Last_Event_ID=stream.last_id)
        self.assertEqual(again.events, [])
        self.pass_time()
        complete_step(self.rig.runner.running[0])
        self.pass_time()
        self.assertEqual(again.read(), other.read())
        self.assertTrue(again.events)

    def test_at_most_ten_events_a_second(self) -> None:
        """Changes in between are combined; the newest one is sent."""
        task_id = self.send()
        complete_step(self.rig.runner.running[0])  # the probe
        stream = self.follow(task_id)
        stream.read()
        queue = self.rig.tasks.queue
        entry = queue._entries[task_id]
        assert entry.attempt is not None
        count = 0
        for step in range(1000):  # a thousand changes a second, for a second
            entry.attempt.progress = 0.1 + step / 2000
            queue.watches.changed(task_id)
            self.rig.clock.advance(0.001)
            count += len(stream.read())
        self.assertTrue(9 <= count <= 11, count)
        self.pass_time()
        stream.read()
        self.assertEqual(stream.events[-1][2]["progress"], round(0.1 + 999 / 2000, 4))

    def test_progress_is_an_event(self) -> None:
        """Each report of the runner is one. An MMP watch with an interval of an hour is not
        affected."""
        task_id = self.send()
        complete_step(self.rig.runner.running[0])  # the probe
        stream = self.follow(task_id)
        watcher = self.rig.connect("192.0.2.5")
        watcher.request({"action": "watch", "task_id": task_id, "interval": 3600})
        running: Any = self.rig.runner.running[0]
        for second in (0.2, 0.4):
            self.pass_time()
            running.on_progress(Progress(second, None, 2.0))
        told = stream.read()
        self.assertEqual([data["speed"] for data in told], [2.0, 2.0])
        self.assertLess(told[0]["progress"], told[1]["progress"])
        self.assertEqual(watcher.answers(), [])

    def test_nothing_new_sends_no_event(self) -> None:
        task_id = self.send()
        stream = self.follow(task_id)
        self.pass_time()
        self.rig.tasks.queue.watches.changed(task_id)
        self.assertEqual(stream.read(), [])

    def test_a_comment_each_15_seconds(self) -> None:
        stream = self.follow(self.send())
        for _ in range(3):
            self.pass_time(COMMENT_INTERVAL)
        stream.read()
        self.assertEqual(stream.comments, 3)

    def test_an_idle_stream_is_not_cut_off(self) -> None:
        """Its client has nothing to say."""
        stream = self.follow(self.send())
        for _ in range(40):
            self.pass_time(COMMENT_INTERVAL)
        self.assertFalse(stream.client.transport.aborted)

    def test_a_client_that_goes_leaves_nothing(self) -> None:
        stream = self.follow(self.send())
        self.assertEqual(len(self.rig.tasks.queue.watches), 1)
        stream.client.lose()
        self.assertEqual(len(self.rig.tasks.queue.watches), 0)
        self.assertEqual(len(self.rig.http.site.shared.feeds), 0)

    def test_head_has_no_events(self) -> None:
        task_id = self.send()
        response = self.client.request("HEAD", f"/api/v1/tasks/{task_id}/events")
        self.assertEqual(response.status, 200)
        self.assertEqual(response.headers["Content-Type"], "text/event-stream")
        self.assertEqual(self.client.request("GET", "/healthz").status, 200)

    def test_a_stop_ends_the_stream(self) -> None:
        """Gracefully: its client reconnects, perhaps to another server."""
        stream = self.follow(self.send())
        self.rig.gate.drain(30)
        stream.read()
        self.assertTrue(stream.ended)
        self.assertTrue(stream.client.transport.ended)


class SlowReaderTests(EventTestCase):
    def test_a_slow_reader_costs_no_memory_and_gets_the_newest(self) -> None:
        """Nothing is written while it does not read; then the current status, once."""
        task_id = self.send()
        stream = self.follow(task_id)
        complete_step(self.rig.runner.running[0])
        self.pass_time()
        stream.read()
        connection = stream.client.connection
        connection.pauseProducing()
        entry = self.rig.tasks.queue._entries[task_id]
        assert entry.attempt is not None
        for step in range(100):
            entry.attempt.progress = step / 100
            self.rig.tasks.queue.watches.changed(task_id)
            self.pass_time()
        self.assertEqual(stream.client.transport.value(), b"")
        connection.resumeProducing()
        told = stream.read()
        self.assertEqual([data["progress"] for data in told], [0.99])

    def test_one_that_never_reads_is_cut_off(self) -> None:
        stream = self.follow(self.send())
        stream.client.connection.pauseProducing()
        for _ in range(20):
            self.pass_time(COMMENT_INTERVAL)
        self.assertTrue(stream.client.transport.aborted)


class SeveralTasksTests(EventTestCase):
    options = {"settings": Settings(max_concurrent=1)}

    def setUp(self) -> None:
        super().setUp()
        self.ids = [self.send(host=f"192.0.2.{number}") for number in range(1, 4)]

    def statuses(self, stream: Stream) -> dict[str, str]:
        """Return the last status of each task."""
        return {data["task_id"]: data["status"] for _, _, data in stream.events}

    def test_all_are_reported_in_one_stream(self) -> None:
        """First the current status of each; the stream ends with the last task."""
        stream = self.follow(*self.ids)
        self.assertEqual([data["task_id"] for _, _, data in stream.events], self.ids)
        self.assertEqual(list(self.statuses(stream).values()), ["processing", "queued", "queued"])
        for _ in self.ids:
            self.assertFalse(stream.ended)
            first = self.rig.runner.running[0]
            while (
                self.rig.runner.running and self.rig.runner.running[0].workspace == first.workspace
            ):
                complete_step(self.rig.runner.running[0])
            self.pass_time()
            stream.read()
        self.complete()
        self.pass_time()
        stream.read()
        self.assertEqual(set(self.statuses(stream).values()), {"completed"})
        self.assertTrue(stream.ended)
        query = "&".join(f"task={task_id}" for task_id in self.ids)
        again = self.rig.http_client().request(
            "GET", f"/api/v1/events?{query}", Last_Event_ID=stream.last_id
        )
        self.assertEqual(again.status, 204)

    def test_the_end_of_another_stream_does_not_end_this_one(self) -> None:
        """The last event of one task does not stop a stream of two."""
        self.complete()
        one = self.follow(self.ids[0])
        self.assertTrue(one.ended)
        both = self.follow(*self.ids[:2], Last_Event_ID=one.last_id)
        self.assertEqual(len(both.events), 2)

    def test_an_id_of_a_stream_of_other_tasks_says_nothing_of_these(self) -> None:
        """A client that adds a task to its stream gets that one's status, too."""
        first, second = self.ids[:2]
        self.follow(second)  # so that its newest event is an old one
        one = self.follow(first)
        both = self.follow(first, second, Last_Event_ID=one.last_id)
        self.assertEqual([data["task_id"] for _, _, data in both.events], [second, first])
        again = self.follow(second, first, Last_Event_ID=both.last_id)
        self.assertEqual(again.events, [])

    def test_a_task_named_twice_is_followed_once(self) -> None:
        stream = self.follow(self.ids[0], self.ids[0], self.ids[1])
        self.assertEqual(len(stream.events), 2)

    def test_the_limits(self) -> None:
        """No task or over a hundred get 400, an unknown one 404, and nothing is left over."""
        self.assert_problem(self.client.request("GET", "/api/v1/events"), 400)
        many = "&".join(f"task={number}" for number in range(MOST_TASKS + 1))
        self.assert_problem(self.client.request("GET", f"/api/v1/events?{many}"), 400)
        query = f"task={self.ids[0]}&task=nothing"
        self.assert_problem(self.client.request("GET", f"/api/v1/events?{query}"), 404)
        self.assertEqual(len(self.rig.http.site.shared.feeds), 0)
        self.assertEqual(len(self.rig.tasks.queue.watches), 0)

    def test_a_status_is_encoded_once_for_all_streams(self) -> None:
        """All streams send the feed's bytes."""
        streams = [self.follow(self.ids[0]) for _ in range(20)]
        feeds = self.rig.http.site.shared.feeds
        self.assertEqual(len(feeds), 1)
        before = feeds._number
        complete_step(self.rig.runner.running[0])
        self.pass_time()
        told = [stream.read() for stream in streams]
        self.assertTrue(all(data == told[0] and data for data in told))
        self.assertEqual(feeds._number - before, len(told[0]))
