"""The environment with which this process was started."""

from __future__ import annotations

import os
from pathlib import Path


def inherited_environment() -> dict[str, str]:
    """Return the environment as the parent process passed it.

    In the locale C, Python itself sets LC_CTYPE to C.UTF-8 (PEP 538), so that `os.environ` does not say what the
    terminal can show. Where /proc is missing, `os.environ` is returned.
    """
    try:
        content = Path("/proc/self/environ").read_bytes()
    except OSError:
        return dict(os.environ)
    pairs = (entry.partition(b"=") for entry in content.split(b"\0") if entry)
    return {os.fsdecode(name): os.fsdecode(value) for name, _, value in pairs}
