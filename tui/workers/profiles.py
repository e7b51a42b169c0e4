"""Read the list of published profiles, as `berth profile list` does: no call of the API has it."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

from broker.forms.start_form import parse_profile_list
from tui.program import berth_program

if TYPE_CHECKING:
    from broker.forms.start_form import ProfileChoice

PROFILES_TIMEOUT_S = 30.0
"""Seconds for `berth profile list`, which reads the stores on the shared file system."""


def read_profiles() -> list[ProfileChoice]:
    """Return the published profiles. OSError, ValueError or SubprocessError if the list cannot be read."""
    done = subprocess.run(
        berth_program(["berth", "profile", "list", "--json"]),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
        timeout=PROFILES_TIMEOUT_S,
    )
    return parse_profile_list(done.stdout)
