"""SIF files with nothing in them but headers."""

from __future__ import annotations

import struct


def sif_bytes(*, offset: int, file_system: int = 1, role: int = 2, used: bool = True, total: int = 3) -> bytes:
    """A SIF's header and descriptors: an unused one, a label, and a partition that begins at `offset`."""
    header = bytes(32) + b"SIF_MAGIC\0" + b"01\0" + b"02\0" + bytes(16)
    header += struct.pack("<8q", 1, 1, 0, total, 4096, total * 585, offset, 100)
    labels = struct.pack("<i?IIIqqqqqqq", 0x4003, True, 2, 1, 0, 99, 1, 1, 1, 1, 0, 0) + bytes(128 + 384)
    partition = struct.pack("<i?IIIqqqqqqq", 0x4004, used, 1, 1, 0, offset, 100, 100, 1, 1, 0, 0) + bytes(128)
    partition += struct.pack("<ii", file_system, role) + b"02\0" + bytes(373)
    return header.ljust(4096, b"\0") + bytes(585) + labels + partition


SQUASHFS_OFFSET = 8192
"""The offset of the file system in `squashfs_sif`, in bytes."""


def squashfs_sif(mark: bytes = b"") -> bytes:
    """A SIF with the first bytes of a squashfs, and `mark` behind them, which makes its digest another one."""
    return sif_bytes(offset=SQUASHFS_OFFSET).ljust(SQUASHFS_OFFSET, b"\0") + b"hsqs" + mark
