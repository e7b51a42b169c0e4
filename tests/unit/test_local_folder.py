"""What a killed worker of the launcher leaves on the login node's local disk goes with the next one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from typing import TYPE_CHECKING

import pytest

from broker.volumes import probe, squashfs

if TYPE_CHECKING:
    from pathlib import Path

WAYS = {
    "unpacking": ("packing", "_unsquash", "packing._unsquash_on_local_disk(place / 'squashfs', place / 'target')"),
    "probing": ("probe", "run", "probe._overlay(place / 'room')"),
}
"""Module, what it runs while it has a folder on the local disk, and how that comes about."""
KILLED = """
import os, sys
from pathlib import Path
from broker.volumes import {module}

def die(*_, **__):
    os.kill(os.getpid(), 9)

{module}.{function} = die
place = Path(sys.argv[1])
{call}
"""


@pytest.mark.parametrize("way", WAYS)
def test_what_a_killed_worker_left_is_removed_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    for name in ("tmp", "room", "another"):
        (tmp_path / name).mkdir()
    (tmp_path / "squashfs").touch()
    module, function, call = WAYS[way]
    program = KILLED.format(module=module, function=function, call=call)
    environment = os.environ | {"TMPDIR": str(tmp_path / "tmp")}
    done = subprocess.run([sys.executable, "-c", program, tmp_path], env=environment, timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL
    left = list((tmp_path / "tmp").iterdir())
    assert len(left) == 1

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    found: list[bool] = []

    def look(*_: object, **__: object) -> None:
        found.append(left[0].exists())
        raise PermissionError

    monkeypatch.setattr({"packing": squashfs, "probe": probe}[module], function, look)
    if way == "unpacking":
        with pytest.raises(PermissionError):
            squashfs._unsquash_on_local_disk(tmp_path / "squashfs", tmp_path / "target")
    else:
        assert probe._try_overlay(tmp_path / "another").how == "none"
    assert found == [False]
    assert list((tmp_path / "tmp").iterdir()) == []
