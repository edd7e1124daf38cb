from __future__ import annotations

from typing import Any


async def compress_to_size(work: Any, target: int) -> Any:
    raise NotImplementedError
