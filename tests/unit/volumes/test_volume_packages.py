"""Packages of a stack, and layers whose links lead elsewhere."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import pytest

from broker.volumes.packages import Packages, installed_packages
from profiles.image.overlayfs import open_stack

if TYPE_CHECKING:
    from pathlib import Path


def packages(tree: Path, of_image: str) -> Packages:
    with open_stack([tree]) as stack:
        return installed_packages(stack, of_image)


STATUS = "Package: tool\nStatus: install ok installed\nVersion: 1\n"


@pytest.mark.parametrize("link", ["var", "var/lib/dpkg", "var/lib/dpkg/status", "opt", "opt/venv/lib"])
def test_packages_beyond_a_link_are_not_the_layers(tmp_path: Path, link: str) -> None:
    tree, real = tmp_path / "tree", tmp_path / "real"
    for place in ("var/lib/dpkg", "opt/venv/lib/python3.11/site-packages/pack-2.dist-info"):
        (real / place).mkdir(parents=True)
    (real / "var/lib/dpkg/status").write_text(STATUS)
    assert packages(real, "") == {"tool": "1", "pip pack": "2"}
    (tree / link).parent.mkdir(parents=True)
    (tree / link).symlink_to(real / link)
    assert packages(tree, "apt base 1\n") == {"base": "1"}


def test_packages_whose_lists_are_deleted_are_gone(tmp_path: Path) -> None:
    (tmp_path / "var/lib/dpkg").mkdir(parents=True)
    os.mknod(tmp_path / "var/lib/dpkg/status", stat.S_IFCHR)
    (tmp_path / "opt").mkdir()
    os.mknod(tmp_path / "opt/venv", stat.S_IFCHR)
    assert packages(tmp_path, "apt base 1\npip pack==2\n") == {}
