"""The operations by name: the only place that lists all of them."""

from __future__ import annotations

from typing import Any

from vidproc.errors import ErrorCode, ServiceError
from vidproc.operations.aspect_ratio import AspectRatioOperation
from vidproc.operations.base import Operation
from vidproc.operations.compress.operation import CompressOperation
from vidproc.operations.extract_audio import ExtractAudioOperation
from vidproc.operations.gif.operation import GifOperation
from vidproc.operations.resolution import ResolutionOperation
from vidproc.operations.webm import WebMOperation

OPERATIONS: dict[str, Operation[Any]] = {
    operation.name: operation
    for operation in (
        CompressOperation(),
        ResolutionOperation(),
        AspectRatioOperation(),
        ExtractAudioOperation(),
        GifOperation(),
        WebMOperation(),
    )
}
"""Operation name -> operation, in the order of `vidproc.operations.parameters.PARAMETERS`."""


def get_operation(name: str) -> Operation[Any]:
    """Return an operation; raises `ServiceError` 400 for an unknown name."""
    operation = OPERATIONS.get(name)
    if operation is None:
        raise ServiceError(
            ErrorCode.BAD_REQUEST,
            "The type is not an operation.",
            f"Use one of {', '.join(OPERATIONS)}.",
        )
    return operation
