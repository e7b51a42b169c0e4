"""An access list for tests, as the kernel stores it (acl(5), posix_acl_xattr.h of Linux)."""

from __future__ import annotations

import struct

ANOTHER = 12345
"""A user who is not the owner."""


def access_list(permissions: int) -> bytes:
    """Give another user the permissions, within a mask of 6."""
    none = 2**32 - 1
    entries = [(0x01, 6, none), (0x02, permissions, ANOTHER), (0x04, 4, none), (0x10, 6, none), (0x20, 4, none)]
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
