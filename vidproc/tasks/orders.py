"""What a task asks for: its operation and parameters, parsed once and passed on from then on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vidproc.operations.base import Operation
from vidproc.operations.parameters import Parameters, parse_parameters
from vidproc.operations.registry import get_operation


@dataclass(frozen=True, slots=True)
class Order:
    """An operation and its parameters. Sizes in bytes."""

    operation: Operation[Any]
    parameters: Parameters

    def estimate_size(self, source_size: int) -> int:
        """Return an estimate of the output's size, for the reservation."""
        return self.operation.estimate_size(self.parameters, source_size)

    def is_short(self, source_size: int) -> bool:
        """Return whether the task takes only a short time."""
        return self.operation.is_short(self.parameters, source_size)


def parse_order(type: str, fields: dict[str, Any]) -> tuple[Order, list[str]]:
    """Return what a request's type and parameters ask for, and warnings for its client.

    Raises `ServiceError` 400 or 422.
    """
    parameters, warnings = parse_parameters(type, fields)
    return Order(get_operation(type), parameters), warnings
