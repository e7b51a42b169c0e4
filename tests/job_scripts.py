"""The scripts that run on a compute node, joined into files for tests that run bash."""

from __future__ import annotations

from pathlib import Path

from broker.job.bundle import ENVIRONMENT_SCRIPT, SERVICE_SCRIPT, SESSION_SCRIPT, write_scripts

PARTS = Path(__file__).parents[1] / "broker/job"
FOLDER = Path(__file__).parents[1] / "build/job"
SESSION = FOLDER / SESSION_SCRIPT
BATCH = FOLDER / ENVIRONMENT_SCRIPT
SERVICE = FOLDER / SERVICE_SCRIPT

write_scripts(FOLDER)
