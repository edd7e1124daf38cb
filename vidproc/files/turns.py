"""How long one stream may have a thread of the pool, whichever way its bytes go."""

from __future__ import annotations

import errno

TURN_TIME = 0.1
"""Seconds that one stream may have a thread before the next one's turn in the pool."""
TURN_BYTES = 16 << 20
"""Bytes that it may take in that time, for whoever limits uploads counts them afterwards."""
PATIENCE = 0.002
"""Seconds for which a thread waits for the other side before it leaves that to the reactor."""
UNABLE = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EOVERFLOW})
"""Errors that say that this file or socket can't be moved without copies."""
