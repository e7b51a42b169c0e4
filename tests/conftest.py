"""Fixtures that all tests share."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

import pytest

from slurm.lab.errors import LabError
from tests.lab_cluster import Lab, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def lab() -> Lab:
    """The lab called $LAB_NAME, or `lab`; with several pytest workers, this worker's own.

    It must be up: a test that needs it fails otherwise, and is not skipped.
    """
    names = [os.environ.get("LAB_NAME", "lab"), os.environ.get("PYTEST_XDIST_WORKER", "")]
    try:
        return Lab.find("-".join(filter(None, names)))
    except (AssertionError, LabError) as error:
        pytest.fail(str(error), pytrace=False)


@pytest.fixture(scope="module")
def tidy(lab: Lab) -> Iterator[None]:
    """A module leaves no jobs behind, and every node in service: the next one's would wait for them."""
    yield

    def left() -> str:
        jobs = lab.sh("squeue -h -o 'job %i, %j of %u: %T'")
        return "\n".join(filter(None, [jobs, lab.sh("sinfo -h -N -t drain,down,fail -o '%N: %T, %E'")]))

    with contextlib.suppress(AssertionError):
        wait_for(lambda: not left(), what="an empty queue")
    assert not left(), f"what the module has left on the lab:\n{left()}"
