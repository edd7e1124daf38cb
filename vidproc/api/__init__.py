"""vidproc for scripts and notebooks, over HTTP: ``pip install "vidproc[api]"``.

    from vidproc.api import process
    result = process("film.mp4", "compress", quality=90)

`uploads`, `tasks`, `downloads` and `processing` have the calls: what to send and when to try again,
as generators that do no input or output of their own. `drivers` runs them on httpx, blocking or
asynchronously; `clients` is what people use.
"""

try:
    import httpx as _httpx  # noqa: F401
except ImportError as error:
    raise ImportError('vidproc.api needs httpx: pip install "vidproc[api]"') from error

from vidproc.api.clients import AsyncClient, Client, process
from vidproc.api.errors import (
    Refused,
    ResultDamaged,
    TaskCancelled,
    TaskFailed,
    TimedOut,
    Unreachable,
    VidprocError,
)
from vidproc.api.models import Progress, Result, Status

__all__ = [
    "AsyncClient",
    "Client",
    "Progress",
    "Refused",
    "Result",
    "ResultDamaged",
    "Status",
    "TaskCancelled",
    "TaskFailed",
    "TimedOut",
    "Unreachable",
    "VidprocError",
    "process",
]
