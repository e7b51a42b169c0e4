"""The guest's disks: Debian sid with systemd, Slurm, Apptainer and NFS, made once for each recipe.

Every part is found by the hash of what it is made from: the Debian, the system's layer, further layers, the disks.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from slurm.lab import rootfs
from slurm.lab.cache import cached_tree, digest_of
from slurm.lab.commands import run_tool
from slurm.lab.layers import build_layer, lowerdir
from slurm.lab.releases import RELEASES, SID
from slurm.vm import qemu

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from slurm.lab.progress import ProgressLog

HERE = Path(__file__).parent
SYSTEM = HERE / "system.sh"
FILES = HERE / "files"
DISK = HERE / "disk.sh"

ROOT_SIZE = "8G"
XFS_SIZE = "2G"
"""The sizes of the guest's file systems. Their files are sparse: they take only the bytes that are written."""
WRITE_SECONDS = 1800
"""Limit for writing disks, which takes half a minute on a free machine."""

LAB_ONLY = frozenset(
    ("libslurm-dev", "tini", "mmdebstrap", "debootstrap", "fakeroot", "python3-dev", "gcc", "libc6-dev", "xz-utils")
)
"""Packages of the lab's nodes for building and for life without systemd."""

PACKAGES = (
    *(package for package in RELEASES[SID].packages if package not in LAB_ONLY),
    "systemd", "systemd-sysv", "dbus", "udev", "kmod", "libpam-systemd",  # slurmd makes its scope through dbus
    "linux-image-cloud-amd64", "initramfs-tools",
    "nfs-kernel-server", "nfs-common",
)  # fmt: skip
"""So Slurm and Apptainer are the lab's: the same archive, the same names."""

CUSTOMIZE = """
set -eu
cd "$1"
rm -f etc/munge/munge.key etc/ssh/ssh_host_*_key* etc/hostname
"""


def debian(cache: Path, progress: ProgressLog) -> Path:
    """Return the guest's Debian, without settings of ours (590 MB)."""
    return rootfs.debian_tree(cache, "vm-root", PACKAGES, CUSTOMIZE, progress)


def layer(
    cache: Path,
    name: str,
    script: Path,
    inputs: Sequence[Path] = (),
    *,
    parents: Sequence[Path] = (),
    progress: ProgressLog,
) -> Path:
    """Build a layer over the guest's system, as slurm.lab.layers does over a node's root."""
    return build_layer(
        cache, name, script, inputs,
        base=debian(cache, progress), parents=[system(cache, progress), *parents], progress=progress,
    )  # fmt: skip


def system(cache: Path, progress: ProgressLog) -> Path:
    """Return the layer with the cluster's settings, accounts and keys, and which units start."""
    return build_layer(cache, "vm-system", SYSTEM, [FILES], base=debian(cache, progress), progress=progress)


def disks(cache: Path, layers: Sequence[Path], progress: ProgressLog) -> Path:
    """Return a directory with `root.raw`, `xfs.raw`, `vmlinuz` and `initrd`; `layers` lie over the system's."""
    trees = [debian(cache, progress), system(cache, progress), *layers]
    public = key(cache).with_suffix(".pub").read_text().strip()
    recipe = digest_of([*(path.name for path in trees), public, ROOT_SIZE, XFS_SIZE], [DISK])

    def make(work: Path) -> None:
        log = cache / "vm-disks.log"
        log.unlink(missing_ok=True)
        progress.say(f"writing the guest's disks (once for each version; log: {log})")
        out = work / "tree"
        out.mkdir()
        run_tool(
            ["bash", str(DISK)],
            seconds=WRITE_SECONDS,
            log=log,
            hint="see the end of the log",
            env={
                "PATH": os.environ["PATH"],
                "LOWER": lowerdir(trees),
                "ROOT": str(work / "root"),
                "OUT": str(out),
                "SIZE": ROOT_SIZE,
                "XFS_SIZE": XFS_SIZE,
                "KEY": public,
            },
        )
        progress.say("disks written")

    return cached_tree(cache, "vm-disks", recipe, make, progress)


def payload(cache: Path, trees: Mapping[str, Path], progress: ProgressLog) -> Path:
    """Return a read-only disk with each of `trees`, directories of the cache, under its name at the top."""
    recipe = digest_of([word for name, tree in sorted(trees.items()) for word in (name, str(tree.relative_to(cache)))])

    def make(work: Path) -> None:
        everything, out = work / "everything", work / "tree"
        everything.mkdir()
        out.mkdir()
        for name, tree in trees.items():
            run_tool(["cp", "-al", str(tree), str(everything / name)])
        disk = out / qemu.PAYLOAD
        disk.touch()
        os.truncate(disk, qemu.PAYLOAD_BYTES)
        options = ["-q", "-t", "ext4", "-m", "0", "-O", "^has_journal", "-d", str(everything)]
        run_tool(["mke2fs", *options, str(disk)], seconds=WRITE_SECONDS, hint="apt-get install e2fsprogs")

    return cached_tree(cache, "vm-payload", recipe, make, progress) / qemu.PAYLOAD


def key(cache: Path) -> Path:
    """Return this machine's private ssh key for its guests, made first if there is none."""
    path = cache / "vm-key"
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        run_tool(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "vm", "-f", str(path)])
    return path
