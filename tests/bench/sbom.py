"""The inventory of a tree, against debsbom, which lists the Debian packages only. Both write CycloneDX and SPDX."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from profiles.build import namespace
from profiles.inventory.inventory_worker import InventoryRequest
from profiles.inventory.model import ImageOrigin
from tests.bench.harness import in_turns
from tests.bench.report import Result, Target, UnmeasurableError, result

if TYPE_CHECKING:
    from tests.bench.ground import Ground

NAME = "sbom"
PACKAGES = "openssh-server,python3-pip,python3-venv,npm"
SUITE = "trixie"
LIMIT_S = 600.0
ORIGIN = ImageOrigin("bench", "1", f"debian:{SUITE}", "", "2026-12-01T09:00:00Z", "bench")


def measure(ground: Ground, runs: int) -> Result:
    """Make the tree on this machine, for both sides; the lab has no part in it."""
    del ground
    with tempfile.TemporaryDirectory(dir="/var/tmp", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        tree = folder / "tree"
        make = ["mmdebstrap", "--mode=root", "--variant=apt", "--format=directory", f"--include={PACKAGES}", SUITE]
        try:
            _run(namespace.as_root(*make, str(tree)))
            InventoryRequest(str(tree), ORIGIN, is_kept=False).write(folder)
            ours = [sys.executable, "-m", "profiles.inventory.inventory_worker", str(folder)]
            out = ["-t", "cdx", "-t", "spdx", "--out", str(folder / "peer")]
            peer = [str(Path(sys.executable).with_name("debsbom")), "generate", "--root", str(tree), *out]
            sides = {"ours": lambda: _run(ours), "peer": lambda: _run(peer)}
            seconds = in_turns(sides, runs, name=NAME, unit="s")
        finally:
            namespace.remove_as_root(tree)
    return result(NAME, seconds["ours"], seconds["peer"], "s", Target(1.5))


def _run(argv: list[str]) -> float:
    """Return the seconds that the program takes."""
    began = time.monotonic()
    done = subprocess.run(argv, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    if done.returncode != 0:
        raise UnmeasurableError(f"{NAME}: {argv[0]} failed: {(done.stdout + done.stderr)[-500:]}")
    return time.monotonic() - began
