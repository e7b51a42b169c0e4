"""The archive that a session's job runs on its node has everything that its programs import."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from broker.volumes.copy_archive import ARCHIVE, copy_archive

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("program", ["broker.volumes.copy_program", "broker.volumes.saves"])
def test_archive_has_all_that_a_program_imports(program: str, tmp_path: Path) -> None:
    archive = tmp_path / ARCHIVE
    archive.write_bytes(copy_archive())
    load = f"import sys; sys.path.insert(0, {str(archive)!r}); import {program}"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", load], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
