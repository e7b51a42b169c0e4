"""Run a program as root over a tree of the user's own files.

An ordinary user becomes root of a user namespace that maps the user's own id to 0 and has the user's subordinate ids
(subuid(5)) as the others. So packages whose files have several owners unpack as they should. Root runs the program as
root. Nothing here needs a setuid program except newuidmap(1) and newgidmap(1).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from profiles.build import network
from profiles.removal import remove_tree

if TYPE_CHECKING:
    from collections.abc import Sequence

INSIDE = Path(__file__).parent / "inside"
"""The scripts that run in the namespace, and in the tree."""

CHECK_TIMEOUT_S = 30.0
REMOVE_TIMEOUT_S = 300.0


def as_root(*argv: str) -> list[str]:
    """Return the command that runs `argv` as root over the user's files, with mounts and processes of its own."""
    isolated = ["--mount", "--pid", "--fork", "--kill-child"]
    user = [] if os.geteuid() == 0 else ["--user", "--map-auto", "--map-root-user"]
    return ["unshare", *user, *isolated, *argv]


def in_tree(tree: Path, kit: Path, *argv: str, enter: Sequence[str] = ()) -> list[str]:
    """Return the command that runs `argv` as root of `tree`, with the folder `kit` at /run/berth-build.

    `enter` is the beginning of a command that mounts the tree first.
    """
    return as_root(*enter, "/bin/sh", str(INSIDE / "enter.sh"), str(tree), str(kit), *argv)


def as_confined_root(root: Path, shown: Sequence[str], *argv: str) -> list[str]:
    """Return the command that runs `argv` as root where only the machine's programs, its settings and `shown` are.

    `root` is an empty directory. Each of `shown` is a path, or `ro:` and a path that is read-only there.
    """
    python = shutil.which("python3", path=network.PATH) or sys.executable
    return as_root("/bin/sh", str(INSIDE / "confine.sh"), python, str(root), *shown, "--", *argv)


def namespace_problem() -> str:
    """Return why this user cannot be root of a namespace; empty if they can."""
    try:
        done = subprocess.run(
            as_root("true"),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=CHECK_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return "" if done.returncode == 0 else done.stderr.strip() or f"unshare ended with {done.returncode}"


def remove_as_root(path: Path) -> None:
    """Remove a tree whose files may belong to subordinate ids. Return if it does not exist."""
    if _remove_without_namespace(path):
        return
    subprocess.run(
        as_root("rm", "-rf", "--one-file-system", "--", str(path)),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=REMOVE_TIMEOUT_S,
        check=True,
    )


def _remove_without_namespace(path: Path) -> bool:
    """Try without a namespace, which is enough until packages have been unpacked."""
    try:
        remove_tree(path)
    except OSError:
        return False
    return True
