"""Temporary directories of tests that other accounts must reach."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path


def let_others_enter(directory: Path) -> None:
    """Make `directory`, and its parents below the folder for temporary files, open to all accounts.

    pytest makes the folders above `tmp_path` with mode 0700, and so does mkdtemp(3).
    """
    root = Path(os.environ.get("PYTEST_DEBUG_TEMPROOT") or tempfile.gettempdir())
    for each in (directory, *directory.parents):
        mode = each.stat().st_mode
        if each == root or mode & stat.S_ISVTX:
            return
        if not mode & stat.S_IXOTH:
            each.chmod(0o755)
