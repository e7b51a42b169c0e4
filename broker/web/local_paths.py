"""Paths to which a browser may be led: they stay on its origin."""

from __future__ import annotations

import re

_PATH = re.compile(r"/(?!/)[!-\[\]-~]{0,4096}", re.ASCII)
"""Printable ASCII without blanks and backslashes, which browsers read as slashes."""


def is_local_path(path: str) -> bool:
    """Whether a browser that is led to this path, perhaps with a query, stays on the origin."""
    return _PATH.fullmatch(path) is not None


def local_path(path: str) -> str:
    """Return the path if it stays on the origin, else `/`."""
    return path if is_local_path(path) else "/"
