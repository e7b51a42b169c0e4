"""Encode and decode the data types of ssh's wire format (RFC 4251, section 5)."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class WireReader:
    """Reads one field after another; ValueError where the data ends too early."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._offset = 0

    def string(self) -> bytes:
        return self._take(self.uint32())

    def uint32(self) -> int:
        return int.from_bytes(self._take(4), "big")

    def uint64(self) -> int:
        return int.from_bytes(self._take(8), "big")

    def at_end(self) -> bool:
        """Whether all data has been read."""
        return self._offset == len(self._data)

    def _take(self, length: int) -> bytes:
        end = self._offset + length
        if end > len(self._data):
            raise ValueError("the data ends in the middle of a field")
        field = self._data[self._offset : end]
        self._offset = end
        return field


def encode_string(value: bytes) -> bytes:
    """Encode one length-prefixed string."""
    return struct.pack(">I", len(value)) + value


def read_strings(data: bytes) -> Iterator[bytes]:
    """Yield consecutive length-prefixed strings; ValueError if the last one is truncated."""
    reader = WireReader(data)
    while not reader.at_end():
        yield reader.string()
