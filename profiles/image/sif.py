"""Find the root file system in a SIF file. Sessions mount it from there without Apptainer.

The layout is that of github.com/sylabs/sif, pkg/sif (header.go, descriptor.go): a global header of 128 bytes, and
descriptors of 585 bytes at the place in the header; numbers are little-endian.
"""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING

from profiles.errors import ProfilesError
from profiles.userfile import open_regular

if TYPE_CHECKING:
    from pathlib import Path

_ARCHITECTURES = {b"02": "amd64", b"04": "arm64", b"06": "ppc64le", b"12": "riscv64"}
"""The values of the header for the kinds of machines, and the names that OCI has for these."""
_ARCHITECTURE_AT = 45

_HEADER = struct.Struct("<32x10s22x24xqq24x")
"""A launch script; the magic; version, architecture and id; two times and the number of free descriptors; the number of
all descriptors; where they begin; their size, and where the data is."""

_DESCRIPTOR = struct.Struct("<i?12xq48x128xii376x")
"""The kind of data; whether it is in use; three ids; where the data begins; its sizes, times and owners; its name; and
what a partition says of itself: its file system and its role."""

_MAGIC = b"SIF_MAGIC\x00"
_PARTITION = 0x4004
_SQUASHFS = 1
_PRIMARY_SYSTEM = 2
_MAX_DESCRIPTORS = 4096
"""Far above the 48 that Apptainer makes; a damaged number must not be obeyed."""


def squashfs_offset(sif: Path, *, own: bool = False) -> int:
    """Return the byte of a SIF file at which its root file system begins. With `own` the file must be the caller's own
    and no link.

    Raises ProfilesError if it is no SIF file, or its root file system is no squashfs, and OSError.
    """
    with open_regular(sif, own=own, follow=not own) as file:
        header = file.read(_HEADER.size)
        magic, total, start = _HEADER.unpack(header) if len(header) == _HEADER.size else (b"", 0, 0)
        if magic != _MAGIC:
            raise ProfilesError(f"{sif} is no SIF file")
        if not (0 <= total <= _MAX_DESCRIPTORS and 0 < start < os.fstat(file.fileno()).st_size):
            raise ProfilesError(f"{sif} has a damaged header")
        file.seek(start)
        descriptors = file.read(total * _DESCRIPTOR.size)
    whole = len(descriptors) - len(descriptors) % _DESCRIPTOR.size
    for kind, used, offset, file_system, role in _DESCRIPTOR.iter_unpack(descriptors[:whole]):
        if used and (kind, file_system, role) == (_PARTITION, _SQUASHFS, _PRIMARY_SYSTEM) and offset > 0:
            return int(offset)
    raise ProfilesError(f"{sif} has no squashfs root file system", hint="encrypted and ext3 images cannot be a base")


def sif_architecture(sif: Path) -> str:
    """Return the machine of a SIF file as OCI names it, such as `amd64`. Raises ProfilesError, OSError."""
    with open_regular(sif, own=False, follow=True) as file:
        code = file.read(_HEADER.size)[_ARCHITECTURE_AT : _ARCHITECTURE_AT + 2]
    if code not in _ARCHITECTURES:
        raise ProfilesError(f"{sif} is for a machine that Berth does not know")
    return _ARCHITECTURES[code]
