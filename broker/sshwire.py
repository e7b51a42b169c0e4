"""The few types of ssh's wire format (RFC 4251, section 5) that keys and certificates are made of."""

from __future__ import annotations

import struct


class Reader:
    """Reads one field after the other; ValueError where the data ends too early."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._offset = 0

    def string(self) -> bytes:
        return self._take(self.uint32())

    def uint32(self) -> int:
        return int.from_bytes(self._take(4), "big")

    def uint64(self) -> int:
        return int.from_bytes(self._take(8), "big")

    def _take(self, length: int) -> bytes:
        end = self._offset + length
        if end > len(self._data):
            raise ValueError("the data ends in the middle of a field")
        taken = self._data[self._offset : end]
        self._offset = end
        return taken


def string(value: bytes) -> bytes:
    """Encode one length-prefixed string."""
    return struct.pack(">I", len(value)) + value
