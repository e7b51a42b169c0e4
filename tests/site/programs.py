"""Install Debian packages that a target needs and this machine lacks, or say what to install. Standard library only."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

PROVIDES: dict[str, Callable[[], object]] = {
    "btrfs-progs": lambda: shutil.which("mkfs.btrfs"),
    "buildah": lambda: shutil.which("buildah"),
    "busybox-static": lambda: Path("/bin/busybox").exists(),
    "chromium": lambda: shutil.which("chromium"),
    "curl": lambda: shutil.which("curl"),
    "docker-registry": lambda: shutil.which("docker-registry"),
    "fuse-overlayfs": lambda: shutil.which("fuse-overlayfs"),
    "git": lambda: shutil.which("git"),
    "haproxy": lambda: shutil.which("haproxy", path="/usr/sbin:/usr/bin"),
    "nginx": lambda: shutil.which("nginx", path="/usr/sbin:/usr/bin"),
    "openssl": lambda: shutil.which("openssl"),
    "openssh-client": lambda: shutil.which("ssh"),
    "openssh-server": lambda: Path("/usr/sbin/sshd").exists(),
    "nodejs": lambda: shutil.which("node"),
    "npm": lambda: shutil.which("npm"),
    "nftables": lambda: shutil.which("nft", path="/usr/sbin:/sbin:/usr/bin"),
    "postgresql": lambda: list(Path("/usr/lib/postgresql").glob("*/bin/initdb")),
    "mmdebstrap": lambda: shutil.which("mmdebstrap"),
    "python3-venv": lambda: (
        not subprocess.run(["/usr/bin/python3", "-I", "-c", "import ensurepip"], check=False).returncode
    ),
    "prometheus": lambda: shutil.which("promtool"),
    "putty-tools": lambda: shutil.which("plink"),
    "qemu-system-x86": lambda: shutil.which("qemu-system-x86_64"),
    "qemu-utils": lambda: shutil.which("qemu-img"),
    "rpm": lambda: shutil.which("rpmbuild"),
    "rsync": lambda: shutil.which("rsync"),
    "shellcheck": lambda: shutil.which("shellcheck"),
    "squashfs-tools": lambda: shutil.which("mksquashfs"),
    "skopeo": lambda: shutil.which("skopeo"),
    "sshfs": lambda: shutil.which("sshfs"),
    "systemd": lambda: shutil.which("systemd-analyze"),
    "tmux": lambda: shutil.which("tmux"),
    "wrk": lambda: shutil.which("wrk"),
    "xauth": lambda: shutil.which("xauth"),
    "xfsprogs": lambda: shutil.which("mkfs.xfs"),
    "zstd": lambda: shutil.which("zstd"),
}
"""Each package, and how to see that it is there."""


def main(packages: list[str]) -> int:
    missing = [package for package in packages if not PROVIDES[package]()]
    if not missing:
        return 0
    command = f"apt-get install {' '.join(missing)}"
    if os.geteuid() != 0:
        print(f"missing programs; as root: {command}", file=sys.stderr)
        return 1
    print(f"installing {' '.join(missing)}", file=sys.stderr)
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    install = ["apt-get", "install", "-qq", "-y", "--no-install-recommends", *missing]
    for attempt in (["apt-get", "update", "-qq"], install):
        done = subprocess.run(attempt, env=environment, capture_output=True, text=True, check=False, timeout=600)
        if done.returncode != 0 and attempt is install:
            print(f"{command} failed:\n{done.stderr[-2000:]}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
