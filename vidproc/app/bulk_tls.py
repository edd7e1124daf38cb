"""TLS for large transfers: Twisted's transport, but records are decrypted and encrypted in bulk.

Twisted passes each record of 16 KiB on separately, which costs about as much as decrypting it. Here
all records that have arrived are passed on together, and all records of a write are sent together.
`tests/test_bulk_tls.py` checks the parts of Twisted's transport that we use although it does not
document them.
"""

from __future__ import annotations

from typing import Any

from OpenSSL import SSL
from OpenSSL.SSL import Error, WantReadError
from twisted.internet.interfaces import ITransport
from twisted.protocols.tls import BufferingTLSTransport, TLSMemoryBIOFactory
from twisted.python.failure import Failure

RECORD = 1 << 14
"""The most bytes in a record."""
MOST_AT_ONCE = 1 << 20
"""The most bytes that are passed on together."""
_READ = 1 << 18  # bytes of encrypted records taken at a time
_FED = 64 << 10  # bytes given to OpenSSL at a time
_WRITTEN = 256 << 10  # bytes that are encrypted by one call

# Where records are decrypted, for all connections: only the reactor's thread does that, and what it
# has read leaves as a copy.
_plain = bytearray(MOST_AT_ONCE + RECORD)
_view = memoryview(_plain)
# OpenSSL's own function, for want of one in pyOpenSSL that makes no further copy of each record.
_lib: Any = getattr(SSL, "_lib", None)
_ffi: Any = getattr(SSL, "_ffi", None)
_place: Any = _ffi.from_buffer(_plain) if _lib is not None and _ffi is not None else None


class _BulkConnection:
    """A pyOpenSSL connection whose `recv` returns all that has arrived."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._ssl = getattr(connection, "_ssl", None) if _place is not None else None
        if self._ssl is not None:
            # Else a write returns after each record. What is written goes to memory, so a longer
            # one never has to wait.
            _lib.SSL_clear_mode(self._ssl, _lib.SSL_MODE_ENABLE_PARTIAL_WRITE)
        self._error: Error | None = None
        self._input = memoryview(b"")
        self._established = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def bio_write(self, data: bytes) -> int:
        """Take bytes that have arrived. OpenSSL gets them in small parts, because its buffer never
        shrinks."""
        if self._established:
            self._input = memoryview(data)
            self._feed()
        else:
            self._connection.bio_write(data)
        return len(data)

    def _feed(self) -> bool:
        """Give OpenSSL more of what has arrived. Return False if it has everything."""
        if not self._input:
            return False
        self._connection.bio_write(self._input[:_FED])
        self._input = self._input[_FED:]
        return True

    def recv(self, size: int) -> bytes:
        """Return what has arrived, whatever `size`. Raises as `Connection.recv` does."""
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        received = 0
        while received < MOST_AT_ONCE:
            try:
                received += self._decrypt(received)
            except WantReadError as error:
                if self._feed():
                    continue
                if not received:
                    raise
                self._error = error  # the reader keeps asking until it gets this
                break
            except Error as error:
                if not received:
                    raise
                self._error = error
                break
            self._established = True
        return bytes(_view[:received])

    def _decrypt(self, start: int) -> int:
        """Decrypt a record into the common buffer, from `start` on; return its length."""
        if self._ssl is None:
            return int(self._connection.recv_into(_view[start : start + RECORD]))
        size = int(_lib.SSL_read(self._ssl, _place + start, RECORD))
        if size <= 0:
            self._connection._raise_ssl_error(self._ssl, size)
        return size


class BulkTLSTransport(BufferingTLSTransport):
    """Twisted's transport over a `_BulkConnection`."""

    _tlsConnection: Any
    transport: Any

    def makeConnection(self, transport: ITransport) -> None:
        super().makeConnection(transport)
        if hasattr(transport, "SEND_LIMIT"):
            transport.SEND_LIMIT = MOST_AT_ONCE  # what the reactor sends at a time
        if self._tlsConnection is not None:
            self._tlsConnection = _BulkConnection(self._tlsConnection)

    def _write(self, bytes: bytes) -> None:
        """Encrypt what is written, and send its records together."""
        if self._lostTLSConnection:
            return
        view = memoryview(bytes)
        sent = 0
        while sent < len(view):
            try:
                sent += self._tlsConnection.send(view[sent : sent + _WRITTEN])
            except WantReadError:
                self._bufferedWrite(view[sent:].tobytes())
                break
            except Error:
                self._tlsShutdownFinished(Failure())
                return
        self._flush_records()

    def _flush_records(self) -> None:
        while True:
            try:
                records = self._tlsConnection.bio_read(_READ)
            except WantReadError:
                return
            self.transport.write(records)


def use_bulk_transport(factory: Any) -> None:
    """Make the TLS connections of a port's factory use `BulkTLSTransport`."""
    if isinstance(factory, TLSMemoryBIOFactory):
        factory.protocol = BulkTLSTransport
