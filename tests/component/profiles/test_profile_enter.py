"""enter.sh and the links of a stranger's tree, which is not its root yet."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from profiles.build.namespace import INSIDE
from tests.deadlines import DEADLINE_S

if TYPE_CHECKING:
    from pathlib import Path

NAMESPACE = ("unshare", "--user", "--map-root-user", "--mount")


@pytest.mark.parametrize("place", ["dev", "etc", "proc", "run", "tmp", "run/berth-build"])
def test_link_in_the_place_of_a_mount_point_is_refused(tmp_path: Path, place: str) -> None:
    for folder in ("tree", "kit", "real"):
        tmp_path.joinpath(folder).mkdir()
    link = tmp_path / "tree" / place
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(tmp_path / "real")
    command = [*NAMESPACE, "sh", str(INSIDE / "enter.sh"), str(tmp_path / "tree"), str(tmp_path / "kit"), "true"]
    env = {"PATH": os.environ["PATH"]}
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, env=env, check=False)
    assert done.returncode == 1
    assert f"/{place} of the base is a symbolic link" in done.stderr
    assert list(tmp_path.joinpath("real").iterdir()) == []
