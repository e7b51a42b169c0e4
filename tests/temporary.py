"""Temporary directories of tests that other accounts must reach."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def let_others_enter(directory: Path) -> None:
    """Make `directory`, and those of its parents that only their owner can enter, open to all accounts.

    pytest makes the folders above `tmp_path` with mode 0700, and so does mkdtemp(3).
    """
    for each in (directory, *directory.parents):
        mode = stat.S_IMODE(each.stat().st_mode)
        if not mode & stat.S_IXOTH:
            each.chmod(0o755)
