"""File modes that do not depend on who calls."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def world_readable() -> Iterator[None]:
    """Within this, new files get the modes of a system's own: a lab brought up with umask 077 must work too."""
    previous = os.umask(0o022)
    try:
        yield
    finally:
        os.umask(previous)
