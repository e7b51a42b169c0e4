"""Data types of ssh's wire format (RFC 4251, section 5) that keys and certificates consist of."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


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

    def ended(self) -> bool:
        """Whether nothing is left."""
        return self._offset == len(self._data)

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


def strings(data: bytes) -> Iterator[bytes]:
    """The length-prefixed strings that follow one another; ValueError if the last one is cut off."""
    reader = Reader(data)
    while not reader.ended():
        yield reader.string()
