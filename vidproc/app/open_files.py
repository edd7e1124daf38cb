"""The limit on open files, and how many connections it allows."""

from __future__ import annotations

import resource

LEAST_FILES = 64
"""Descriptors without which the server could not start FFmpeg."""
FILES_BESIDE = 256
"""Descriptors that the server may need besides those of its connections."""
FILES_PER_CONNECTION = 3
"""Descriptors of a connection with a transfer: its socket, a copy of it for a thread, the file."""


def most_connections(files: int) -> int:
    """Return for how many connections that many descriptors are enough, if all have a transfer."""
    return max(16, (files - FILES_BESIDE) // FILES_PER_CONNECTION)


def raise_open_files() -> int:
    """Raise the limit on open files as far as possible, and return it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = min(hard, 1 << 16) if hard != resource.RLIM_INFINITY else 1 << 16
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        return wanted
    return 1 << 16 if soft == resource.RLIM_INFINITY else soft
