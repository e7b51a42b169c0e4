"""`python -m slurm.lab`."""

from __future__ import annotations

import sys

# Before anything else is imported: an older Python would fail at the first new feature, and say nothing useful.
if sys.version_info < (3, 11):  # noqa: UP036 - the lab runs before anything checks requires-python
    sys.exit(f"slurm.lab: Python {sys.version.split()[0]} is too old\n  remedy: run it with Python 3.11 or newer")

from slurm.lab.cli import main

sys.exit(main(sys.argv[1:]))
