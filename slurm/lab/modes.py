"""File modes that do not depend on the caller's umask."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def world_readable() -> Iterator[None]:
    """Give new files the usual modes within this context: a lab that is brought up with umask 077 must work too."""
    previous = os.umask(0o022)
    try:
        yield
    finally:
        os.umask(previous)
