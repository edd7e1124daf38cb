"""What schemathesis must know: how a part of an upload is serialized."""

from __future__ import annotations

from typing import Any

import schemathesis


@schemathesis.serializer("application/offset+octet-stream")
def offset_octet_stream(context: Any, value: Any) -> Any:
    """Return a body as it is, or as text."""
    return value if isinstance(value, bytes) else str(value).encode(errors="replace")
