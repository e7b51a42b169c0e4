"""A copy of this machine's root file system in which a test may install packages. Changes stay in a directory."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

LIMIT_S = 300
ENTER = """
set -eu
mount -t overlay overlay -o "lowerdir=$4,upperdir=$1/upper,workdir=$1/work" "$1/root"
mount -t proc proc "$1/root/proc"
mount --rbind /dev "$1/root/dev"
mount --bind "$2" "$1/root/mnt"
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
exec chroot "$1/root" env -i PATH="$PATH" LC_ALL=C.UTF-8 sh -euc "$3"
"""


@dataclass(frozen=True, slots=True)
class SpareRoot:
    """An overlay over `/`. Each command mounts it again, in a mount namespace of its own."""

    place: Path
    """A directory on another file system than `/`: an overlay cannot contain its own upper directory."""
    packages: Path
    """The directory that commands find as /mnt."""
    lower: str = "/"
    """The lower directories of the overlay, the highest first."""

    @classmethod
    def make(cls, place: Path, packages: Path, before: SpareRoot | None = None) -> SpareRoot:
        """Return a copy of `/` in a new directory; with `before`, of that copy, which nothing may change later."""
        place.mkdir()
        for name in ("upper", "work", "root"):
            (place / name).mkdir()
        return cls(place, packages, "/" if before is None else f"{before.place}/upper:{before.lower}")

    def run(self, script: str) -> subprocess.CompletedProcess[str]:
        """Run a shell script as root in the copy, and return what it printed, also on its standard error."""
        arguments = [str(self.place), str(self.packages), script, self.lower]
        argv = ["unshare", "--mount", "--", "sh", "-c", ENTER, "sh", *arguments]
        return subprocess.run(
            argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=LIMIT_S, check=False
        )

    def ok(self, script: str) -> str:
        """Run a script that must succeed, and return its output."""
        done = self.run(script)
        assert done.returncode == 0, f"{script!r} ended with {done.returncode}: {done.stdout}"
        return done.stdout
