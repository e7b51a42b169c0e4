"""Find the type of a path's file system."""

from __future__ import annotations

import os
import re
from pathlib import Path

NETWORK = frozenset(
    {
        "nfs",
        "nfs4",
        "lustre",
        "gpfs",
        "beegfs",
        "ceph",
        "cifs",
        "smb3",
        "afs",
        "9p",
        "wekafs",
        "panfs",
        "pvfs2",
        "glusterfs",
        "fuse.sshfs",
    }
)


def network_file_system(path: Path, mountinfo: Path = Path("/proc/self/mountinfo")) -> str:
    """Return the type of the network file system of `path`, which need not exist; empty for a local file system."""
    kind = _type_at(path.absolute(), mountinfo.read_bytes())
    return kind if kind in NETWORK or kind.startswith("fuse.glusterfs") else ""


def _type_at(path: Path, mountinfo: bytes) -> str:
    """Return the type by proc_pid_mountinfo(5): field 5 is the mount point with octal escapes; the type follows the
    lone dash.

    The kernel escapes only space, tab, line feed and backslash. Users choose names of mount points, which may have any
    other control character, and need not be UTF-8.
    """
    best, kind = -1, ""
    for line in filter(None, mountinfo.split(b"\n")):
        fields, _, rest = line.partition(b" - ")
        point = Path(os.fsdecode(_ESCAPE.sub(lambda match: bytes([int(match[1], 8)]), fields.split(b" ")[4])))
        if path.is_relative_to(point) and len(point.parts) >= best:
            best, kind = len(point.parts), os.fsdecode(rest.split(b" ")[0])
    return kind


_ESCAPE = re.compile(rb"\\([0-3][0-7]{2})")
