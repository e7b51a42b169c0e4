"""The `berth` command of this installation, for what is no call of the API."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def berth_program(command: Sequence[str]) -> list[str]:
    """Return the command line `berth …` for this installation, whatever PATH has."""
    return [sys.executable, "-P", "-m", "broker.cli", *command[1:]]
