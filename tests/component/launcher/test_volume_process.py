"""The process that runs a verb on volumes as its user does nothing without the process that started it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import broker
from tests.deadlines import DEADLINE_S

ID = "01jd0000000000000000000000"
CHECKOUT = str(Path(broker.__file__).parents[1])


@pytest.mark.parametrize("parent_lives", [True, False])
def test_process_whose_parent_has_ended_before_it_began_changes_nothing(tmp_path: Path, *, parent_lives: bool) -> None:
    """setpriv(1) asks the kernel to end the process with its parent. One that has ended by then is not seen."""
    request = {
        "parent": os.getpid() if parent_lives else os.getppid(),
        "storage": str(tmp_path / "storage"),
        "verb": "snapshots",
        "arguments": {"session": ID},
    }
    done = subprocess.run(
        [sys.executable, "-P", "-m", "broker.launcher.volume_verbs"],
        input=json.dumps(request).encode(),
        env={"PYTHONPATH": CHECKOUT, "PATH": os.environ["PATH"]},
        capture_output=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert (done.returncode, bool(done.stdout), done.stderr) == (0 if parent_lives else 1, parent_lives, b"")
    assert (tmp_path / "storage/layers").exists() == parent_lives
