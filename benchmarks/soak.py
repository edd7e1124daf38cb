"""Everything goes wrong at once, for a while: does each accepted task end, and is nothing left
over?

Clients from many addresses upload (at once, in resumable parts, slowly, cut off at any point),
watch, download, cancel and send rubbish, while the server is killed (twice in a row, too), stopped
and started again, its disk is filled to the last byte, its store is locked, its descriptors run
out, its clock is set and the listeners of watches fail (`benchmarks.troubled_server`). In the end
everything that was accepted must have ended, by a result, by a failure with a reason or by our own
cancel, and nothing may be left over: no process, no descriptor, no file without a row, no row
without its file, no slot.

``python -m benchmarks.soak --minutes 15 --seed 1``; with ``--kills 200`` so many kills (alone and
in pairs), steps of the clock and failing listeners, and no other harm. Prints a line each minute
and the counts at the end; the exit status is 1 when anything was lost or left. Linux only.
"""

from __future__ import annotations

import argparse
import collections
import hashlib
import json
import os
import random
import re
import shutil
import signal
import socket
import sqlite3
import struct
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from support.server_process import PlainClient, ServerProcess, receive, send, wait_for
from vidproc.mmp.codec import encode_head

TROUBLED = Path(__file__).with_name("troubled_server.py")
MEDIA = Path(__file__).parent.parent / "tests" / "media"
ADDRESSES = 100
WORKERS = 6
DISK_SIZE = "320M"
MEMORY_LIMIT = 150 << 20
DESCRIPTOR_TOLERANCE = 8
LAST_LIFE = 30.0
"""Seconds at the end without a restart, so that leaks within one run can be seen."""
END_TIMEOUT = 1800.0
"""Seconds within which accepted tasks must end. After crashes, tasks pause longer each time."""
_INSIDE = "VIDPROC_SOAK_INSIDE"

SHORT = {"start_time": 0, "duration": 0.3, "width": 96}
WORK: list[tuple[str, dict[str, Any]]] = [
    ("extract_audio", {}),
    ("gif", SHORT),
    ("gif", {**SHORT, "start_time": 1}),
    ("webm", SHORT),
    ("webm", {**SHORT, "duration": 2, "quality": 20}),
    ("resolution", {"width": 96, "height": 64}),
]
LOST = (OSError, ValueError, IndexError, KeyError)
"""What a client sees if its server dies within an answer."""


def is_error(answer: dict[str, Any]) -> bool:
    """Return whether an answer is an error. A failed task's status has a text in that field."""
    return isinstance(answer.get("error"), dict)


@dataclass
class Accepted:
    """A task that the server accepted."""

    address: str
    cancelled: bool = False


@dataclass
class Ledger:
    """What happened, as the clients saw it."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    accepted: dict[str, Accepted] = field(default_factory=dict)
    counts: collections.Counter[str] = field(default_factory=collections.Counter)
    violations: list[str] = field(default_factory=list)

    def count(self, what: str) -> None:
        with self.lock:
            self.counts[what] += 1

    def violate(self, what: str) -> None:
        with self.lock:
            self.violations.append(what)
        print(f"VIOLATION: {what}", flush=True)

    def accept(self, task_id: str, address: str) -> None:
        with self.lock:
            self.accepted.setdefault(task_id, Accepted(address))

    def some_task(self, chance: random.Random) -> str | None:
        with self.lock:
            recent = list(self.accepted)[-60:]
        return chance.choice(recent) if recent else None


class SmallDiskServer(ServerProcess):
    """A server whose data folder is on a disk of its own."""

    def __init__(self, root: Path, *options: str) -> None:
        super().__init__(root, *options)
        self.disk = self.root / "disk"
        self.disk.mkdir(exist_ok=True)
        self.data_dir = self.disk / "data"
        self.clock = self.root / "clock"
        """Contains by how many seconds the server's clock is ahead."""
        self.clock.write_text("0")

    def command(self) -> list[str]:
        """Return its command line."""
        return [sys.executable, str(TROUBLED), str(self.clock), *super().command()[1:]]


class Worker(threading.Thread):
    """Acts as one client after another, at random."""

    def __init__(
        self, server: ServerProcess, ledger: Ledger, seed: str, over: threading.Event
    ) -> None:
        super().__init__(daemon=True)
        self.server = server
        self.ledger = ledger
        self.chance = random.Random(seed)
        self.over = over
        self.films = [
            (MEDIA / "screencast-480p-vp9-opus.webm").read_bytes(),
            (MEDIA / "friday-480p-aac.mp4").read_bytes(),
            (MEDIA / "prores422-10bit.mov").read_bytes(),
        ]

    def run(self) -> None:
        acts: list[tuple[Callable[[], None], int]] = [
            (self.upload, 30),
            (self.upload_in_parts, 20),
            (self.cut_off, 12),
            (self.upload_slowly, 6),
            (self.upload_large, 4),
            (self.download, 14),
            (self.download_slowly, 4),
            (self.cancel, 6),
            (self.watch, 8),
            (self.send_rubbish, 4),
            (self.send_nested, 2),
        ]
        while not self.over.is_set():
            address = f"127.3.0.{self.chance.randrange(1, ADDRESSES + 1)}"
            self.client = PlainClient(self.server.port, address)
            act = self.chance.choices([a for a, _ in acts], [w for _, w in acts])[0]
            try:
                act()
                self.ledger.count(act.__name__)
            except LOST:
                self.ledger.count("answers lost")
                self.over.wait(0.2)
            except Exception as error:
                self.ledger.violate(f"{act.__name__}: {error!r}")
            self.over.wait(self.chance.uniform(0, 0.2))

    # --- what clients do -----------------------------------------------------------------------

    def _work(self) -> tuple[bytes, dict[str, Any]]:
        type, parameters = self.chance.choice(WORK)
        film = self.chance.choice(self.films)
        if self.chance.random() < 0.15:
            film = self.chance.randbytes(self.chance.randrange(1, 100_000))
        return film, {"action": "upload", "type": type, "parameters": parameters}

    def _note(self, answer: dict[str, Any]) -> bool:
        """Note an answer to an upload; return whether it was accepted."""
        if answer.get("status") == "accepted":
            self.ledger.accept(answer["task_id"], self.client.address)
            return True
        self._note_error(answer)
        return False

    def _note_error(self, answer: dict[str, Any]) -> None:
        if is_error(answer):
            code = answer["error"]["code"]
            self.ledger.count(f"answered {code}")
            if code == 500:
                self.ledger.violate(f"an answer of 500: {answer}")

    def upload(self) -> None:
        film, request = self._work()
        self._note(self.client.request(request, film, "mp4")[0])

    def upload_large(self) -> None:
        request = {"action": "upload", "type": "extract_audio", "parameters": {}}
        size = self.chance.randrange(5 << 20, 60 << 20)
        self._note(self.client.request(request, bytes(size), "mp4")[0])

    def upload_slowly(self) -> None:
        film, request = self._work()
        with self.client.connect() as connection:
            connection.sendall(encode_head(json.dumps(request).encode(), "mp4", len(film)))
            for start in range(0, len(film), 50_000):
                connection.sendall(film[start : start + 50_000])
                self.over.wait(self.chance.uniform(0, 0.3))
            self._note(receive(connection)[0])

    def cut_off(self) -> None:
        film, request = self._work()
        message = encode_head(json.dumps(request).encode(), "mp4", len(film)) + film
        with self.client.connect() as connection:
            connection.sendall(message[: self.chance.randrange(len(message))])
            if self.chance.random() < 0.5:  # by a reset
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def upload_in_parts(self) -> None:
        """Do as the command-line client does: break off, ask, resume, until it is accepted."""
        film, request = self._work()
        digest = hashlib.sha256(film).hexdigest()
        request |= {"upload_id": str(uuid.UUID(int=self.chance.getrandbits(128), version=4))}
        request |= {"size": len(film), "sha256": digest}
        offset = 0
        for _ in range(20):
            if self.over.is_set():
                return
            self.client.port = self.server.port
            try:
                answer = self._send_part(request, film, offset)
                if answer is None:
                    continue
                if self._note(answer):
                    self._ask_again(request, answer["task_id"])
                    return
                if is_error(answer):
                    if "offset" not in answer["error"]:
                        return
                    offset = answer["error"]["offset"]
                    continue
                offset = answer["offset"]
            except LOST:
                self.over.wait(0.3)
            try:
                offset = self._ask_offset(request, offset)
            except LOST:
                self.over.wait(0.3)

    def _send_part(
        self, request: dict[str, Any], film: bytes, offset: int
    ) -> dict[str, Any] | None:
        rest = film[offset:]
        how = self.chance.random()
        end = len(rest) if how < 0.5 else self.chance.randrange(len(rest) + 1)
        message = {**request, "offset": offset}
        if how < 0.75:  # a payload shorter than the rest is an upload in parts
            return self.client.request(message, rest[:end], "mp4")[0]
        with self.client.connect() as connection:
            head = encode_head(json.dumps(message).encode(), "mp4", len(rest))
            connection.sendall(head + rest[:end])
        return None

    def _ask_offset(self, request: dict[str, Any], offset: int) -> int:
        asked = {"action": "upload_status", "upload_id": request["upload_id"]}
        answer = self.client.request(asked)[0]
        if answer.get("status") == "accepted":
            self._note(answer)
            return int(request["size"])
        if is_error(answer):
            return 0 if answer["error"]["code"] == 404 else offset
        return int(answer["offset"])

    def _ask_again(self, request: dict[str, Any], task_id: str) -> None:
        asked = {"action": "upload_status", "upload_id": request["upload_id"]}
        answer = self.client.request(asked)[0]
        if answer.get("task_id") != task_id:
            self.ledger.violate(f"upload {request['upload_id']}: {task_id}, later {answer}")

    def download(self) -> None:
        task_id = self.ledger.some_task(self.chance)
        if task_id is None:
            return
        head, _, payload = self.client.download(task_id)
        self._note_error(head)
        if is_error(head):
            if head["error"]["code"] not in (409, 410):
                self.ledger.violate(f"download of {task_id}: {head}")
        elif hashlib.sha256(payload).hexdigest() != head["sha256"]:
            self.ledger.violate(f"the result of {task_id} is not what it was")

    def download_slowly(self) -> None:
        task_id = self.ledger.some_task(self.chance)
        if task_id is None:
            return
        with self.client.connect() as connection:
            send(connection, {"action": "download", "task_id": task_id})
            for _ in range(self.chance.randrange(10)):
                connection.recv(1000)
                self.over.wait(0.1)

    def cancel(self) -> None:
        task_id = self.ledger.some_task(self.chance)
        if task_id is None:
            return
        with self.ledger.lock:  # whatever becomes of the answer
            self.ledger.accepted[task_id].cancelled = True
        answer = self.client.request({"action": "cancel", "task_id": task_id})[0]
        self._note_error(answer)
        # On a full disk nothing can be stored; 507 says so, and to try again.
        if is_error(answer) and answer["error"]["code"] != 507:
            self.ledger.violate(f"cancel of {task_id}: {answer}")

    def watch(self) -> None:
        task_id = self.ledger.some_task(self.chance)
        if task_id is None:
            return
        with self.client.connect() as connection:
            send(connection, {"action": "watch", "task_id": task_id, "interval": 0.2})
            progress = 0.0
            for _ in range(self.chance.randrange(1, 20)):
                status = receive(connection)[0]
                if is_error(status):
                    self.ledger.violate(f"watch of {task_id}: {status}")
                    return
                if status["status"] not in ("queued", "processing"):
                    return
                if status["progress"] < progress and status["status"] == "processing":
                    self.ledger.violate(f"the progress of {task_id} went back: {status}")
                progress = status["progress"]

    def send_rubbish(self) -> None:
        with self.client.connect() as connection:
            connection.sendall(self.chance.randbytes(self.chance.randrange(1, 5000)))
            connection.settimeout(5)
            connection.recv(100)

    def send_nested(self) -> None:
        """What no answer could repeat; and a watch by somebody who does not read it."""
        depth = self.chance.randrange(40, 5000)
        nested = b'{"action":"upload","type":"compress","parameters":{"a":%b1%b}}' % (
            b"[" * depth,
            b"]" * depth,
        )
        with self.client.connect() as connection:
            connection.sendall(encode_head(nested, "mp4", 10) + bytes(10))
            code = receive(connection)[0]["error"]["code"]
        if code != 400:
            self.ledger.violate(f"JSON nested {depth} deep is answered {code}")
        task_id = self.ledger.some_task(self.chance)
        if task_id is not None:
            with self.client.connect() as connection:
                send(
                    connection,
                    {"action": "watch", "task_id": task_id, "interval": 0.1, "detail": True},
                )
                self.over.wait(self.chance.uniform(0, 1))


class Soak:
    """The run: starts the server and the clients, disturbs the server, and counts."""

    def __init__(self, root: Path, minutes: float, seed: int, kills: int = 0) -> None:
        self.root = root
        self.kills = kills
        self.pause = (0.5, 3.5) if kills else (3.0, 15.0)
        self.seconds = minutes * 60
        self.seed = seed
        self.chance = random.Random(f"{seed}/harm")
        self.ledger = Ledger()
        options = ("--retention=90s", "--upload-retention=60s", "--idle-timeout=10s", "--grace=3s")
        self.server = SmallDiskServer(root, *options)
        self.small_disk = self._mount()
        self.descriptors = 0
        self.most_memory = 0

    def _mount(self) -> bool:
        if os.environ.get(_INSIDE) != "1":
            print("no mount namespace can be had here: no full disks", flush=True)
            return False
        argv = ["mount", "-t", "tmpfs", "-o", f"size={DISK_SIZE}", "tmpfs", str(self.server.disk)]
        done = subprocess.run(argv, capture_output=True, text=True)
        if done.returncode != 0:
            print(f"no full disks: {done.stderr.strip()}", flush=True)
        return done.returncode == 0

    def run(self) -> bool:
        """Do everything; return whether nothing was lost or left over."""
        self._start()
        over = threading.Event()
        workers = [
            Worker(self.server, self.ledger, f"{self.seed}/{number}", over)
            for number in range(WORKERS)
        ]
        for worker in workers:
            worker.start()
        begin = time.monotonic()
        minute = 1
        last_harm = self.seconds - min(LAST_LIFE, self.seconds / 3)
        next_harm = begin + self.chance.uniform(*self.pause)
        while (now := time.monotonic()) < begin + self.seconds:
            if now >= next_harm and (self.kills or now < begin + last_harm):
                self._harm()
                next_harm = time.monotonic() + self.chance.uniform(*self.pause)
                if self.kills and self.ledger.counts["kills"] >= self.kills:
                    break
            if now >= begin + 60 * minute:
                self._tell(minute)
                minute += 1
            self._look()
            time.sleep(0.25)
        over.set()
        for worker in workers:
            worker.join(90)
            if worker.is_alive():
                self.ledger.violate("a client waits for its answer for 90 s")
        self._check()
        return not self.ledger.violations

    # --- harm ----------------------------------------------------------------------------------

    def _start(self) -> None:
        self.server.start()
        self.descriptors = self._count_descriptors()

    def _harm(self) -> None:
        kinds = {"kill": 4, "stop": 2, "fill": 2, "fill and kill": 1}
        kinds |= {"kill twice": 2, "lock": 2, "descriptors": 2, "clock": 2}
        if self.kills:
            kinds = {"kill": 6, "kill twice": 2, "clock": 1}
        kind = self.chance.choices(list(kinds), list(kinds.values()))[0]
        if kind.startswith("fill") and not self.small_disk:
            kind = "kill"
        self.ledger.count(f"harm: {kind}")
        if kind == "clock":
            # Forward or back, by seconds or a day, in addition to earlier steps.
            ahead = float(self.server.clock.read_text())
            ahead += self.chance.choice((-1, 1)) * 10 ** self.chance.uniform(0.5, 5)
            self.server.clock.write_text(f"{ahead:.1f}")
            return
        if kind in ("lock", "descriptors"):
            self._lock_store() if kind == "lock" else self._use_up_descriptors()
            return
        if kind == "kill twice":
            self._kill()
            self._start()
            time.sleep(self.chance.uniform(0, 0.5))
            kind = "kill"
        ballast = self.server.disk / "ballast"
        if kind.startswith("fill"):
            self._fill(ballast)
            time.sleep(self.chance.uniform(2, 6))
        if kind.endswith("kill"):
            self._kill()
        ballast.unlink(missing_ok=True)
        if kind == "stop":
            start = time.monotonic()
            self.server.kill(signal.SIGTERM)
            if time.monotonic() - start > 15:
                self.ledger.violate(f"a stop took {time.monotonic() - start:.0f} s")
        if kind != "fill":
            self._start()

    def _kill(self) -> None:
        children = self.server.descendants()
        self.server.kill()
        self.ledger.count("kills")
        _, alive = psutil.wait_procs(children, timeout=10)
        if alive := [p for p in alive if p.status() != psutil.STATUS_ZOMBIE]:
            self.ledger.violate(f"children outlived a kill: {alive}")

    def _lock_store(self) -> None:
        """Hold the store's write lock for longer than the server waits for it."""
        store = sqlite3.connect(self.server.data_dir / "tasks.sqlite", timeout=30)
        try:
            store.execute("BEGIN IMMEDIATE")
            time.sleep(self.chance.uniform(1, 14))
        finally:
            store.rollback()
            store.close()

    def _use_up_descriptors(self) -> None:
        """Use up the server's descriptors for a while."""
        process = psutil.Process(self.server.pid)
        before = process.rlimit(psutil.RLIMIT_NOFILE)
        process.rlimit(psutil.RLIMIT_NOFILE, (process.num_fds(), before[1]))
        time.sleep(self.chance.uniform(1, 6))
        process.rlimit(psutil.RLIMIT_NOFILE, before)

    @staticmethod
    def _fill(ballast: Path) -> None:
        try:
            with ballast.open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(1 << 16))
        except OSError:
            pass

    # --- looking -------------------------------------------------------------------------------

    def _count_descriptors(self) -> int:
        try:
            return int(psutil.Process(self.server.pid).num_fds())
        except psutil.Error:
            return 0

    def _look(self) -> None:
        try:
            memory = psutil.Process(self.server.pid).memory_info().rss
        except psutil.Error:
            self.ledger.violate("the server has died by itself")
            self.server.kill()
            self._start()
            return
        self.most_memory = max(self.most_memory, memory)

    def _tell(self, minute: int) -> None:
        counts = self.ledger.counts
        harm = {k.removeprefix("harm: "): v for k, v in counts.items() if k.startswith("harm")}
        print(
            f"minute {minute}: accepted {len(self.ledger.accepted)}, uploads {counts['upload']}"
            f" + {counts['upload_in_parts']} in parts, cut {counts['cut_off']},"
            f" answers lost {counts['answers lost']}, harm {harm},"
            f" memory {self.most_memory >> 20} MiB, descriptors {self._count_descriptors()},"
            f" violations {len(self.ledger.violations)}",
            flush=True,
        )

    # --- the end -------------------------------------------------------------------------------

    def _check(self) -> None:
        """Wait until everything has ended, and compare the state with what it should be."""
        client = PlainClient(self.server.port)

        def idle() -> bool:
            load: dict[str, int] = client.request({"action": "info", "detail": True})[0]["load"]
            return load["queued"] == 0 and load["running"] == 0

        try:
            wait_for(idle, END_TIMEOUT)
        except AssertionError:
            self.ledger.violate(f"tasks are left after {END_TIMEOUT:.0f} s")
        ended = self._count_ended(client)
        self._check_descriptors()
        if children := self.server.children():
            self.ledger.violate(f"children are left: {children}")
        if self.most_memory > MEMORY_LIMIT:
            self.ledger.violate(f"the server had {self.most_memory >> 20} MiB")
        self.server.stop()
        self._check_processes()
        self._check_files()
        print(json.dumps(dict(sorted(self.ledger.counts.items())), indent=1))
        print(
            f"accepted {len(self.ledger.accepted)}, ended {sum(ended.values())}:"
            f" {dict(ended)}; server's largest memory {self.most_memory >> 20} MiB"
        )

    def _count_ended(self, client: PlainClient) -> collections.Counter[str]:
        ended: collections.Counter[str] = collections.Counter()
        for task_id, accepted in self.ledger.accepted.items():
            status = client.status(task_id)
            state = status.get("status")
            if state in ("completed", "expired"):
                ended["completed"] += 1
            elif state == "failed" and status["error"] and status["solution"]:
                ended["failed"] += 1
                reason = re.sub(r"\([^)]*\)|\d[\d.]*", "#", status["error"])[:60]
                self.ledger.count(f"failed: {status['error_code']} {reason}")
                if status["error_code"] == 500:
                    self.ledger.violate(f"task {task_id} failed by our fault: {status}")
            elif state == "cancelled" and accepted.cancelled:
                ended["cancelled"] += 1
            else:
                self.ledger.violate(f"task {task_id} has no right end: {status}")
        return ended

    def _check_descriptors(self) -> None:
        """Connections take a moment to go; what stays is a leak."""
        try:
            wait_for(
                lambda: self._count_descriptors() <= self.descriptors + DESCRIPTOR_TOLERANCE, 30
            )
        except AssertionError:
            names = [c.path for c in psutil.Process(self.server.pid).open_files()]
            self.ledger.violate(
                f"{self._count_descriptors()} descriptors, {self.descriptors} at start: {names}"
            )

    def _check_processes(self) -> None:
        ours = str(self.server.data_dir)
        left = [
            process.info["cmdline"]
            for process in psutil.process_iter(["cmdline"])
            if any(ours in part for part in process.info["cmdline"] or ())
        ]
        if left:
            self.ledger.violate(f"processes are left: {left}")

    def _check_files(self) -> None:
        """The stopped server's folder holds exactly what its rows name; no slot is taken."""
        store = sqlite3.connect(self.server.data_dir / "tasks.sqlite")
        store.row_factory = sqlite3.Row
        rows = store.execute("SELECT * FROM tasks").fetchall()
        store.close()
        active = [dict(r) for r in rows if r["state"] in ("uploading", "queued", "processing")]
        if active:
            self.ledger.violate(f"rows hold slots: {active}")
        named = {r["output_key"]: r["output_size"] for r in rows if r["output_key"]}
        partial = {f"uploads/{r['task_id']}" for r in rows if r["state"] == "partial"}
        files = set(self.server.files())
        # A broken upload of which nothing had arrived has no file.
        if (extra := files - set(named) - partial) or (missing := set(named) - files):
            self.ledger.violate(f"files without rows {extra}, rows without files {missing}")
        for key, size in named.items():
            path = self.server.data_dir / key
            if path.exists() and path.stat().st_size != size:
                self.ledger.violate(f"{key} has {path.stat().st_size} bytes, not {size}")


def enter_namespace() -> None:
    """Go on in a mount namespace of our own where one can be had; our disks end with it."""
    if _INSIDE in os.environ:
        return
    for options in (["--mount"], ["--mount", "--map-root-user"]):
        argv = ["unshare", *options]
        if (
            shutil.which("unshare")
            and subprocess.run([*argv, "true"], capture_output=True).returncode == 0
        ):
            os.environ[_INSIDE] = "1"
            module = [sys.executable, "-m", "benchmarks.soak", *sys.argv[1:]]
            os.execvp("unshare", [*argv, *module])
    os.environ[_INSIDE] = "0"


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--seed", type=int, default=1, help="of what clients and harm do")
    parser.add_argument(
        "--kills", type=int, default=0, help="end after so many kills, and only kill"
    )
    parser.add_argument("--keep", action="store_true", help="keep the server's logs")
    options = parser.parse_args()
    enter_namespace()
    root = Path(tempfile.mkdtemp(prefix="vidproc-soak-"))
    soak = Soak(root, options.minutes, options.seed, options.kills)
    try:
        well = soak.run()
    finally:
        soak.server.stop()
        if options.keep:
            print(f"logs: {soak.server.log_dir}")
        else:
            shutil.rmtree(root, ignore_errors=True)
    print("nothing lost, nothing left" if well else f"{len(soak.ledger.violations)} violations")
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
