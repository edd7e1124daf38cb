"""The functions that Dask calls on a worker.

The scheduler imports this module, too, and nothing else of vidproc: it must stay light.
"""

from __future__ import annotations

from typing import Any

service: Any = None
"""The worker's `WorkerService`, in a worker's process alone."""


async def run(order: bytes) -> bytes:
    """Run a command on this worker; return its outcome."""
    outcome: bytes = await service.run(order)
    return outcome


async def stop(key: str) -> bool:
    """Stop a command; return whether it was there. Returns once its process has ended."""
    stopped: bool = await service.stop_command(key)
    return stopped
