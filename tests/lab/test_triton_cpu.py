"""The shipped profile without a GPU: a real Triton kernel runs in a session."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from slurm.lab.progress import ProgressLog
from tests.site import deploy

if TYPE_CHECKING:
    from tests.lab.conftest import User


@pytest.mark.soak  # the image has PyTorch and Triton: 700 MB are fetched
def test_triton_kernel_runs_in_a_session(alice: User, name: str) -> None:
    deploy.build_profile(alice.site, "triton-cpu", ProgressLog(quiet=True))
    alice.ok("start", name, "--profile", "triton-cpu", "--mem=2G")
    said = alice.ok("exec", name, "--", "bash", "-lc", "python3 /usr/share/berth/examples/vector_add.py", seconds=300)
    assert said.startswith("Triton 3.")
    assert said.endswith("98432 sums are right\n")
