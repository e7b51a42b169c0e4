"""Saves of a system on the node's disk, as the session's script makes them (node/saves.sh), without a cluster."""

from __future__ import annotations

import os
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from tests.deadlines import DEADLINE_S
from tests.job_scripts import SESSION

if TYPE_CHECKING:
    from pathlib import Path

PROGRAM = "import sys; print(*sys.argv[1:], file=open(sys.argv[3] + '/asked', 'w')); {end}"
"""In place of the program that packs: it writes its arguments down, and ends as a test wants it."""


@pytest.fixture
def node(tmp_path: Path) -> Path:
    """A node directory of a job that has begun with an empty top."""
    (tmp_path / "node/top/tree").mkdir(parents=True)
    (tmp_path / "session/run").mkdir(parents=True)
    return tmp_path / "node"


def bash(node: Path, code: str) -> subprocess.CompletedProcess[str]:
    session = node.parent / "session"
    begin = f"source {SESSION}; NODE_DIR={node} DIRECTORY={session} PYTHON=python3 ROOT_MODE=755 PACKER='' COPIER=''"
    return subprocess.run(
        ["bash", "-c", f"{begin}\n{code}"], capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )


def packer(node: Path, end: str) -> None:
    (node.parent / "session/run/copying.pyz").write_text(PROGRAM.format(end=end))


PACK = (
    "ON_NODE=yes RESULT=frozen MESSAGE=''; exec {lock}>$NODE_DIR/copying; "
    "pack_copy store $NODE_DIR $NODE_DIR/live; echo $RESULT:$MESSAGE"
)


def test_copy_that_was_packed_keeps_its_consistency(node: Path) -> None:
    packer(node, "sys.exit(0)")
    (node / "live.new/tree").mkdir(parents=True)
    assert bash(node, PACK).stdout == "frozen:\n"
    assert (node / "live/asked").read_text().startswith("store ")


@pytest.mark.parametrize(
    ("end", "message"),
    [
        ("sys.exit('No space left on device')", "No space left on device"),
        ("__import__('os').kill(__import__('os').getpid(), 9)", ""),
    ],
    ids=["fails", "is killed"],
)
def test_half_packed_layer_is_never_called_frozen(node: Path, end: str, message: str) -> None:
    packer(node, end)
    (node / "save.err").symlink_to("/dev/full")  # the node's disk may have no room for the errors
    (node / "live.new/tree").mkdir(parents=True)
    assert bash(node, PACK).stdout == f"failed:{message}\n"


def test_last_save_tells_why_it_failed_although_the_disk_of_the_node_is_full(node: Path) -> None:
    (node.parent / "session/run/copying.pyz").write_text("raise SystemExit('first line\\nNo space left on device')")
    (node / "save.err").symlink_to("/dev/full")
    (node / "top/tree/file").touch()
    done = bash(node, f"GENERATION=1.0 BERTH_ROOT='' LAYERS={node} SYSTEM_STACK=(top); save_at_end")
    assert done.stdout.count("attempt to save failed: No space left on device\n") == 2, done


def test_copy_that_was_left_half_made_is_removed_before_the_next(node: Path) -> None:
    (node / "live.new/tree/folder").mkdir(parents=True)
    (node / "live.new/tree/folder/file").write_text("of a save that was ended")
    (node / "live.new/tree/folder").chmod(0)
    done = bash(node, "begin_save")
    assert (done.returncode, (node / "live.new").exists()) == (0, False), done.stderr
    assert (node / "saving").exists()


class TestChanges:
    @pytest.fixture(autouse=True)
    def unchanged(self, node: Path) -> None:
        (node / "top/tree").chmod(0o755)

    def changed(self, node: Path) -> bool:
        return bash(node, "has_system_changed").returncode == 0

    def test_new_file_is_a_change(self, node: Path) -> None:
        assert not self.changed(node)
        (node / "top/tree/file").touch()
        assert self.changed(node)

    def test_nothing_has_changed_after_a_save(self, node: Path) -> None:
        (node / "top/tree/file").touch()
        (node / "saved").touch()
        at = (node / "top/tree/file").stat().st_ctime_ns + 1
        os.utime(node / "saved", ns=(at, at))
        assert not self.changed(node)

    def test_clock_that_was_set_back_counts_as_a_change(self, node: Path) -> None:
        """Later changes would have times of change before the save's, so a comparison of times would miss them."""
        future = time.time() + 3600
        (node / "saved").touch()
        os.utime(node / "saved", (future, future))
        assert self.changed(node)
