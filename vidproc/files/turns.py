"""Limits on how long one stream may occupy a pool thread."""

from __future__ import annotations

import errno

TURN_TIME = 0.1
"""Seconds that one stream may occupy a thread before others get a turn."""
TURN_BYTES = 16 << 20
"""Bytes that it may move in that time; they are counted against the upload limit afterwards."""
PATIENCE = 0.002
"""Seconds that a thread waits for the other side before it leaves the waiting to the reactor."""
UNABLE = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EOVERFLOW})
"""Errors that mean that this file or socket does not support moving bytes without copying."""
