"""Fixtures that all tests share."""

from __future__ import annotations

import os

import pytest

from slurm.lab.errors import LabError
from tests.lab_cluster import Lab


@pytest.fixture(scope="session")
def lab() -> Lab:
    """The lab called $LAB_NAME, or `lab`. It must be up: a test that needs it fails otherwise, and is not skipped."""
    try:
        return Lab.find(os.environ.get("LAB_NAME", "lab"))
    except (AssertionError, LabError) as error:
        pytest.fail(str(error), pytrace=False)
