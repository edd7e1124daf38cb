"""Errors of the protocol: about bytes, not requests."""

from __future__ import annotations


class ProtocolError(Exception):
    """Bytes and MMP do not go together."""


class LocalProtocolError(ProtocolError):
    """We tried to send what MMP can't carry: a fault of the calling code."""


class RemoteProtocolError(ProtocolError):
    """The peer sent what is no MMP. The stream can't be understood from here on."""
