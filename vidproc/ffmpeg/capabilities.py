"""What an FFmpeg can do, for those who decide what to ask of it."""

from __future__ import annotations

from typing import Protocol


class Capabilities(Protocol):
    """What the FFmpeg at hand can do."""

    @property
    def encoders(self) -> frozenset[str]:
        """Names of its encoders, such as ``libx264``."""

    @property
    def filters(self) -> frozenset[str]:
        """Names of its filters, such as ``zscale``."""
