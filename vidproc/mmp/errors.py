"""Errors of the protocol: about bytes, not requests."""

from __future__ import annotations


class ProtocolError(Exception):
    """An error of the protocol."""


class LocalProtocolError(ProtocolError):
    """We tried to send what MMP cannot carry: a bug in the calling code."""


class RemoteProtocolError(ProtocolError):
    """The peer sent bytes that are not MMP. The rest of the stream cannot be decoded."""
