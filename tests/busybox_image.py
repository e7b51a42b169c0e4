"""A container image of one program, busybox, in which a session's shell and sshd are names of it: it builds fast."""

from __future__ import annotations

from pathlib import Path

from tests.container_images import Member, folder, hard_link, layer, layout_files, make_image, symlink, write_archive

BUSYBOX = Path("/bin/busybox")
PROGRAMS = ("sh", "cat", "chmod", "chroot", "cp", "echo", "env", "ls", "mkdir", "rm", "sed", "sleep", "sort")
INSTALL = b"""#!/bin/sh
mkdir -p "${6%/*}" && cp "$5" "$6" && chmod "$3" "$6"
"""
"""For `install -D -m MODE -- SOURCE DESTINATION`, which busybox does not have."""


def write_busybox_archive(path: Path) -> None:
    """Write an OCI archive of the machine's static busybox."""
    members = [
        *(folder(name) for name in ("bin", "etc", "opt", "opt/folder", "root", "tmp", "usr", "usr/sbin", "var")),
        Member("bin/busybox", BUSYBOX.read_bytes(), mode=0o755),
        *(hard_link(f"bin/{name}", "bin/busybox") for name in PROGRAMS),
        Member("bin/install", INSTALL, mode=0o755),
        Member("bin/bash", b'#!/bin/sh\nexec /bin/sh "$@"\n', mode=0o755),
        symlink("usr/sbin/sshd", "/bin/busybox"),
        Member("opt/folder/old", b"old"),
        Member("opt/owned", b"", uid=42, gid=43),
        folder("opt/closed", 0),
    ]
    write_archive(layout_files(make_image([layer(*members)])), path)
