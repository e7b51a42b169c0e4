"""Fixtures that all tests share."""

from __future__ import annotations

import os

import pytest

from slurm.lab.errors import LabError
from tests.lab_cluster import Lab


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
