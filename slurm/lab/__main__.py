"""`python -m slurm.lab`."""

from __future__ import annotations

import sys

from slurm.lab.cli import main

sys.exit(main(sys.argv[1:]))
