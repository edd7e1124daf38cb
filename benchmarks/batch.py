"""A folder of short videos with one command; client and server are killed in the middle.

Makes 200 clips of different lengths, starts ``vidproc FOLDER --type extract_audio``, and at a
quarter, a half and three quarters of the results kills client and server with SIGKILL, and restarts
both. In the end each result must exist once, made from its own clip, and each clip must have been
one task. Exit status 1 if not. Run it from a checkout:
``python -m benchmarks.batch``; with ``--quick``, 20 clips and one kill.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

from support.batch_job import BatchJob


def main() -> int:
    """Run the benchmark and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=200, help="clips (200)")
    parser.add_argument("--kills", type=int, default=3, help="of client and server (3)")
    parser.add_argument("--tasks-per-ip", type=int, default=1, help="of the server (1)")
    parser.add_argument("--quick", action="store_true", help="20 clips and one kill")
    given = parser.parse_args()
    count, kills = (20, 1) if given.quick else (given.count, given.kills)
    with tempfile.TemporaryDirectory() as folder:
        job = BatchJob(Path(folder), count, f"--tasks-per-ip={given.tasks_per_ip}")
        try:
            began = time.monotonic()
            client = job.start_client()
            for number in range(kills):
                job.kill_both_at(client, count * (number + 1) // (kills + 1))
                print(f"killed both at {job.count()} of {count} results", flush=True)
                client = job.start_client()
            status = client.wait()
            seconds = time.monotonic() - began
            problems = job.problems()
        finally:
            job.server.stop()
        print(job.output.read_text().splitlines()[-count - 1])
    print(
        f"{count} videos, {kills} kills: exit status {status}, {len(problems)} problems, "
        f"{seconds:.0f} s ({seconds / count:.2f} s a video), load {os.getloadavg()[0]:.1f}"
    )
    for problem in problems:
        print(problem)
    return 1 if status or problems else 0


if __name__ == "__main__":
    sys.exit(main())
