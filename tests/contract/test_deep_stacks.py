"""Stacks of many layers mount as shallow ones do, and files that cannot be linked are no obstacle to joining them."""

from __future__ import annotations

import errno
import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from broker.names import new_id
from broker.volumes import operations
from broker.volumes.errors import VolumeError
from broker.volumes.files import file_lock
from broker.volumes.operations import SnapshotNote
from tests.job_scripts import BATCH, SESSION
from tests.volumes.filesystems import mounted
from tests.volumes.running import IMAGE, Running

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MOUNT = """
source "$1"
NODE_DIR=$2/node LAYERS=$2/layers MOUNTED=()
mkdir "$NODE_DIR" "$NODE_DIR/merged"
cd "$LAYERS"
mount_overlay "$NODE_DIR/merged" "${@:3}"
cat "$NODE_DIR/merged/oldest" "$NODE_DIR/merged/newest"
echo written >"$NODE_DIR/merged/file"
"""
"""session.sh's own function, with the top and the layers as arguments, the newest first."""
MOUNT_TO_READ = """
mount_read_only "$NODE_DIR/merged" "${@:4}"
cat "$NODE_DIR/merged/oldest" "$NODE_DIR/merged/newest"
findmnt --noheadings --output FSTYPE "$NODE_DIR/merged"
"""
"""The function of batch.sh, which mounts layers without a top, read-only."""


def _mount(room: Path, depth: int, program: str = MOUNT) -> tuple[subprocess.CompletedProcess[str], Path]:
    layers = [new_id() for _ in range(depth + 1)]
    for layer in layers:
        (room / "layers" / layer / "tree").mkdir(parents=True)
    (room / "layers" / layers[-1] / "tree/oldest").write_text("oldest\n")
    (room / "layers" / layers[1] / "tree/newest").write_text("newest\n")
    command = ["unshare", "--map-root-user", "--mount", "bash", "-c", program, "bash", str(SESSION), str(room)]
    trees = [f"{layer}/tree" for layer in layers]
    done = subprocess.run([*command, *trees], capture_output=True, text=True, timeout=60, check=False)
    return done, room / "layers" / layers[0]


@pytest.mark.parametrize("depth", [2, 200, 450])
def test_kernel_mounts_a_stack_of_any_depth(tmp_path: Path, depth: int) -> None:
    done, top = _mount(tmp_path, depth)
    assert done.returncode == 0, done.stderr
    assert f"an overlay of {depth + 1} layers, mounted by kernel" in done.stdout
    assert "oldest\nnewest\n" in done.stdout
    assert (top / "tree/file").read_text() == "written\n"


@pytest.mark.parametrize("depth", [2, 200])
def test_kernel_mounts_a_batch_jobs_stack_of_any_depth(tmp_path: Path, depth: int) -> None:
    program = MOUNT.partition("mount_overlay")[0].replace("$1", str(BATCH)) + MOUNT_TO_READ
    done, _ = _mount(tmp_path, depth, program)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "oldest\nnewest\noverlay\n"


def test_stack_too_deep_for_the_kernel_is_refused_with_words(tmp_path: Path) -> None:
    done, top = _mount(tmp_path, 501)
    assert done.returncode == 74
    assert "not this one of 502 layers: `berth flatten NAME` joins them" in done.stdout
    assert not (top / "fuse").exists()


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    with mounted("ext4", tmp_path) as disk:
        yield Running.on(disk.path, "overlay")


def _deep(running: Running, names: int = 1) -> str:
    """A session of two layers; a file of the older one has so many names."""
    session = running.create()
    layers = running.storage.layers
    for number in range(2):
        for volume in (running.record(session).home, running.record(session).system):
            (layers.tree(volume.top) / f"other{number}").write_text("content")
            if number == 0:
                (layers.tree(volume.top) / "file").write_text("content")
        if number == 0:
            home = layers.tree(running.record(session).home.top)
            for name in range(1, names):
                (home / f"name{name}").hardlink_to(home / "file")
        operations.snapshot(running.storage, session, new_id(), IMAGE, SnapshotNote())
    return session


def _flatten(running: Running, session: str) -> Path:
    operations.flatten(running.storage, session, new_id(), digest=IMAGE.digest, below=running.below)
    (layer,) = running.record(session).home.layers
    return running.storage.layers.tree(layer)


def test_file_with_more_names_than_can_be_linked_is_joined(running: Running) -> None:
    names = 32_600  # ext4 allows 65,000
    joined = _flatten(running, _deep(running, names))
    assert (joined / "file").stat().st_nlink == names
    assert (joined / f"name{names - 1}").stat().st_ino == (joined / "file").stat().st_ino
    assert (joined / "file").read_text() == "content"
    assert (joined / "other0").stat().st_nlink == 2


def test_flattening_that_fails_leaves_nothing(running: Running) -> None:
    session = _deep(running)
    before = running.storage.layers.all()

    def unreadable(path: str) -> bool:
        raise OSError(errno.EIO, os.strerror(errno.EIO), path)

    system = running.storage.layers.tree(running.record(session).system.layers[-1])
    os.mknod(system / "gone", 0o020600)  # a mark of deletion: only for one it has to be known what the image has
    with pytest.raises(OSError, match="Input/output"):
        operations.flatten(running.storage, session, new_id(), digest=IMAGE.digest, below=unreadable)
    with file_lock(running.storage.session(session) / "run/lock"), pytest.raises(VolumeError, match="a job"):
        operations.flatten(running.storage, session, new_id(), digest=IMAGE.digest, below=running.below)
    assert running.storage.layers.all() == before
    reason = "Input/output error: gone"
    assert running.record(session).unflattened == reason
    assert operations.snapshots(running.storage, session)["volumes"]["unflattened"] == reason
    record = (running.storage.session(session) / "volumes.json").read_text()
    assert f'\n "unflattened": "{reason}"' in record  # where a login's greeting looks for it
    assert running.storage.layers.leftovers() == []
    assert _flatten(running, session).is_dir()
    assert running.record(session).unflattened == ""
