"""What file system a path lies on."""

from __future__ import annotations

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
    """The type of the network file system that `path`, or its nearest existing parent, lies on; empty for a local
    one.
    """
    kind = _type_at(path.absolute(), mountinfo.read_text(encoding="utf-8"))
    return kind if kind in NETWORK or kind.startswith("fuse.glusterfs") else ""


def _type_at(path: Path, mountinfo: str) -> str:
    """proc_pid_mountinfo(5): field 5 is the mount point with octal escapes, the type follows the lone dash."""
    best, kind = -1, ""
    for line in mountinfo.splitlines():
        fields, _, rest = line.partition(" - ")
        point = Path(fields.split(" ")[4].encode().decode("unicode_escape"))
        if path.is_relative_to(point) and len(point.parts) >= best:
            best, kind = len(point.parts), rest.split(" ")[0]
    return kind
