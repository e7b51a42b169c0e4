"""The releases of Slurm for a lab's nodes, by Debian suite, and their differences."""

from __future__ import annotations

from dataclasses import dataclass

_CLUSTER = (
    "slurmctld", "slurmd", "slurm-client", "slurmdbd", "munge",
    "mariadb-server-core", "mariadb-client-core", "tini", "openssh-server", "python3",
)  # fmt: skip
"""The packages of the daemons in slurm.lab.daemons, and a Python for jobs."""

_EVERYTHING = (
    # the cluster
    "slurmctld", "slurmd", "slurm-client", "slurmdbd", "libslurm-dev", "munge",
    "mariadb-server-core", "mariadb-client-core", "tini", "openssh-server", "openssh-client", "sudo",
    # containers and images, as ordinary users
    "apptainer", "fuse3", "fuse-overlayfs", "squashfuse", "squashfs-tools", "fuse2fs", "e2fsprogs", "fakeroot",
    "mmdebstrap", "debootstrap", "uidmap", "debian-archive-keyring", "ca-certificates",
    "buildah", "netavark",
    # what layers are built with
    "python3", "python3-venv", "python3-dev", "gcc", "libc6-dev", "git", "rsync", "curl", "zstd", "xz-utils",
    # what people expect of a login node
    "acl", "attr", "socat", "iproute2", "iputils-ping", "procps", "psmisc", "less", "vim-tiny", "bash-completion",
    "strace", "haproxy",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Release:
    """A release of Slurm, and the packages of its nodes."""

    slurm: str
    """Its number, without the last part, which changes."""
    packages: tuple[str, ...]
    pyslurm: bool = False
    """Whether slurm/lab/pyslurm.sh builds a pyslurm for it."""


SID = "sid"
TRIXIE = "trixie"

RELEASES = {
    # The only suite with an Apptainer.
    SID: Release("26.05", _EVERYTHING, pyslurm=True),
    # Slurm alone: no sessions run there.
    TRIXIE: Release("24.11", _CLUSTER),
}
"""By suite."""
