"""Run a command against a lab of its own: up, with Berth on it, the command, down again unless KEEP_LAB is set.

`python3 -m tests.site.run COMMAND…`; the command finds the lab's name in LAB_NAME. Standard library only.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys

from slurm.lab import lifecycle
from slurm.lab.errors import LabError
from slurm.lab.place import Place
from slurm.lab.preflight import check_root
from tests.site import deploy

NAME = os.environ.get("LAB_NAME", "test")


def main(command: list[str]) -> int:
    try:
        check_root()
        deploy.up(NAME)
    except (LabError, deploy.SiteError) as error:
        print(f"tests: {error}", file=sys.stderr)
        return 1
    try:
        environment = os.environ | {"LAB_NAME": NAME}
        return subprocess.run(command, env=environment, check=False).returncode
    finally:
        if not os.environ.get("KEEP_LAB"):
            lifecycle.down(Place.find(NAME))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    raise SystemExit(main(sys.argv[1:]))
