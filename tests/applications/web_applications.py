"""Web applications as people run them: Vite's development server from npm, and TensorBoard from PyPI.

Both are installed once, in the cache of the lab.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from slurm.lab.cache import cached_tree, digest_of
from slurm.lab.paths import cache_root
from slurm.lab.progress import ProgressLog
from tests.npm_tree import INSTALL_TIMEOUT_S, npm_tree

HERE = Path(__file__).parent
VITE = Path("node_modules/vite/bin/vite.js")
TENSORBOARD = "tensorboard==2.21.0"


def vite_tree() -> Path:
    """Return a directory with Vite and Node.js."""
    return npm_tree("vite", HERE)


def tensorboard_tree(python: str) -> Path:
    """Return a directory with TensorBoard, for PYTHONPATH of a Python of this version, such as `3.13`."""

    def make(work: Path) -> None:
        options = ["--no-compile", "--only-binary=:all:", f"--python-version={python}", f"--target={work / 'tree'}"]
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *options]
        subprocess.run([*command, TENSORBOARD], check=True, timeout=INSTALL_TIMEOUT_S)

    return cached_tree(cache_root(), "tensorboard", digest_of([TENSORBOARD, python]), make, ProgressLog(quiet=True))
