"""The exit statuses of the command."""

from __future__ import annotations

DONE, FAILED, USAGE, UNREACHABLE, WAITED, REFUSED = range(6)
"""The exit statuses."""
