"""Packages of a stack, and layers whose links lead elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from broker.volumes.packages import installed

if TYPE_CHECKING:
    from pathlib import Path

STATUS = "Package: tool\nStatus: install ok installed\nVersion: 1\n"


@pytest.mark.parametrize("link", ["var", "var/lib/dpkg", "var/lib/dpkg/status", "opt", "opt/venv/lib"])
def test_packages_beyond_a_link_are_not_the_layers(tmp_path: Path, link: str) -> None:
    tree, real = tmp_path / "tree", tmp_path / "real"
    for place in ("var/lib/dpkg", "opt/venv/lib/python3.11/site-packages/pack-2.dist-info"):
        (real / place).mkdir(parents=True)
    (real / "var/lib/dpkg/status").write_text(STATUS)
    assert installed([real], "") == {"tool": "1", "pip pack": "2"}
    (tree / link).parent.mkdir(parents=True)
    (tree / link).symlink_to(real / link)
    assert installed([tree], "apt base 1\n") == {"base": "1"}
