"""The capabilities of an FFmpeg, for code that builds commands."""

from __future__ import annotations

from typing import Protocol


class Capabilities(Protocol):
    """The capabilities of the FFmpeg in use."""

    @property
    def encoders(self) -> frozenset[str]:
        """The names of its encoders, such as ``libx264``."""

    @property
    def filters(self) -> frozenset[str]:
        """The names of its filters, such as ``zscale``."""

    @property
    def spare_cores(self) -> int:
        """The cores of a cluster that commands may use now; 0 without a cluster."""
