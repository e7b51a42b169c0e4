"""The log of faults in the interface itself."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from broker.config.file import xdg_directory

if TYPE_CHECKING:
    from pathlib import Path

LIMIT_BYTES = 2**20
"""Size above which the log is begun again."""


def log_path() -> Path:
    return xdg_directory("XDG_STATE_HOME", ".local/state") / "berth" / "tui.log"


def log_failure(text: str) -> str:
    """Append a traceback to the log, which only the user can read; return where it is, in words."""
    path = log_path()
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        begin_again = path.exists() and path.stat().st_size > LIMIT_BYTES
        flags = os.O_WRONLY | os.O_CREAT | (os.O_TRUNC if begin_again else os.O_APPEND)
        with os.fdopen(os.open(path, flags, 0o600), "w", encoding="utf-8") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')}\n{text}\n")
    except OSError as error:
        return f"its traceback could not be written to {path}: {error.strerror or error}"
    return f"please report it with the traceback in {path}"
