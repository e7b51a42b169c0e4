"""The random histories of the contract suite, in the guest: as a user, on the site's file system, with its driver."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import tests.volumes
from tests.vm.test_quickstart import DRIVERS

if TYPE_CHECKING:
    from tests.vm.person import Person

pytestmark = pytest.mark.vm

SEEDS = (1, 2, 3)
"""A failure comes again with the same seed. One takes a minute of a free machine under emulation."""
HISTORY_SECONDS = 1800
PROGRAM = "/tmp/berth-histories"  # noqa: S108 - in the guest
FOLDER = "/home/alice/histories"
NODE = "/tmp/berth-histories-node"  # noqa: S108 - in the guest


@pytest.fixture(scope="module")
def program(alice: Person) -> str:
    """The directory in the guest with tests/volumes in it."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        package = Path(tests.volumes.__file__).parent
        for path in (package.parent / "__init__.py", package.parent / "deadlines.py", *sorted(package.glob("*.py"))):
            archive.add(path, path.relative_to(package.parents[1]))
    alice.guest.run(
        ["sh", "-c", f"rm -rf {PROGRAM}; mkdir {PROGRAM}; tar -C {PROGRAM} -xz"], stdin=packed.getvalue()
    ).check_returncode()
    return PROGRAM


@pytest.mark.parametrize("seed", SEEDS)
def test_history_of_volumes_shows_what_plain_directories_show(
    alice: Person, site: str, program: str, seed: int
) -> None:
    """On a file server the system volume's changes are on the node's disk while a job runs (ADR 120)."""
    node = "" if DRIVERS[site] == "overlay" else NODE
    alice.sh(
        f"rm -rf {FOLDER} {NODE}; mkdir {NODE}; cd {program}; "
        f"/opt/berth/bin/python -B -m tests.volumes.history {DRIVERS[site]} {FOLDER} '{node}' {seed}",
        seconds=HISTORY_SECONDS,
    )
