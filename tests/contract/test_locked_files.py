"""Files that their owner may not read, where root of a user namespace may not either: a snapshot of them is refused.

On NFS the server decides, and knows the user alone. Here each namespace's root has lost the two capabilities.
"""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from broker.names import new_id
from broker.volumes import operations
from broker.volumes.copy_archive import ARCHIVE, copy_archive
from broker.volumes.drivers import MODES
from broker.volumes.storage import Storage
from profiles.local_folder import PREFIX
from profiles.removal import remove_tree
from tests.job_scripts import BATCH
from tests.volumes.running import IMAGE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

WITHOUT_OVERRIDE = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all"]
AS_ON_NFS = ["unshare", "--map-root-user", "--", *WITHOUT_OVERRIDE, sys.executable]
UNSHARE = f"""#!/bin/bash
[[ $* == "--map-root-user -- "* ]] || exit 64
[[ $* != *" -dest "*/{PREFIX}* ]] || exec /usr/bin/unshare "$@" # on a local disk
exec /usr/bin/unshare --map-root-user -- {" ".join(WITHOUT_OVERRIDE)} "${{@:3}}"
"""
ATTRIBUTE = "user.test"
LOCKED = {"file": 0, "folder": 0, "folder without x": 0o600}
WORDS = "permission denied: cannot read "
SNAPSHOT = """
import sys
from pathlib import Path

from broker.volumes import operations
from broker.volumes.storage import Storage
from tests.volumes.running import IMAGE

try:
    operations.snapshot(Storage(Path(sys.argv[1])), "s" * 26, "o" * 26, IMAGE, operations.SnapshotNote())
except OSError as error:
    print(error.strerror)
"""
"""Take a snapshot and print why it was refused, if it was."""


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    """The storage of a user with one session, with the driver plain."""
    storage = Storage(tmp_path)
    storage.make()
    storage.session("s" * 26).mkdir()
    operations.create_volumes(storage, "s" * 26, "plain")
    return storage


@pytest.fixture(params=LOCKED)
def home(request: pytest.FixtureRequest, storage: Storage) -> Iterator[Path]:
    """The session's home, in which the entry `work/locked` is locked."""
    with storage.open_session("s" * 26) as session:
        tree = storage.layers.tree(session.record.home.top)
    place = tree / "work/locked"
    if request.param == "file":
        place.parent.mkdir()
        place.write_text("text\n")
    else:
        place.mkdir(parents=True)
        (place / "file").write_text("text\n")
    place.chmod(LOCKED[request.param])
    yield tree
    remove_tree(tree)


def test_stopped_snapshot_is_refused_with_the_remedy(home: Path, tmp_path: Path, storage: Storage) -> None:
    def snapshot() -> str:
        command = [*AS_ON_NFS, "-c", SNAPSHOT, str(tmp_path)]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout

    refused = snapshot()
    assert refused.startswith(f"{WORDS}work/locked")
    assert "run `chmod u+r" in refused
    assert operations.snapshots(storage, "s" * 26)["snapshots"] == []
    (home / "work/locked").chmod(0o700)
    assert snapshot() == ""
    assert len(operations.snapshots(storage, "s" * 26)["snapshots"]) == 1


def test_live_copy_is_refused_with_the_remedy(home: Path, tmp_path: Path) -> None:
    archive = tmp_path / ARCHIVE
    archive.write_bytes(copy_archive())
    command = [*AS_ON_NFS, "-I", str(archive), str(home)]
    answers = b"all\nall\n"
    failing = [*command, str(tmp_path / "copy"), ""]
    done = subprocess.run(failing, input=answers, capture_output=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stdout.decode().startswith(f"failed {WORDS}work/locked")
    (home / "work/locked").chmod(0o700)
    subprocess.run([*command, str(tmp_path / "again"), ""], input=answers, capture_output=True, timeout=60, check=True)
    assert MODES["home"] == (tmp_path / "again/tree").stat().st_mode & 0o777


def test_copy_for_a_batch_job_is_refused_with_the_remedy(home: Path) -> None:
    program = f'source {BATCH}\nLAYERS=$1 HOME_STACK=("$2") TOP=copied DRIVER=plain\nmake_job_layer'
    for number in range(100):
        (home / f"work/{number}").mkdir()
        (home / f"work/{number}").chmod(0)
    command = [*AS_ON_NFS[:-1], "bash", "-c", program, "bash", str(home.parents[1]), home.parent.name]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 74
    assert "Permission denied" in done.stderr
    assert "files of the home cannot be read, see above: run `chmod u+r` on them in the session" in done.stderr
    assert len(done.stderr.splitlines()) < 30
    assert not (home.parents[1] / "copied/tree").exists()


def test_read_only_entries_come_back_with_their_attributes(
    storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file server lets no one set attributes of a read-only file, and unsquashfs sets them last."""
    (tmp_path / "programs").mkdir()
    (tmp_path / "programs/unshare").write_text(UNSHARE)
    (tmp_path / "programs/unshare").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'programs'}:{os.environ['PATH']}")
    session = "s" * 26
    with storage.open_session(session) as opened:
        home = storage.layers.tree(opened.record.home.top)
    (home / "folder").mkdir()
    for path, mode in ((home / "file", 0o444), (home / "folder/file", 0o600), (home / "folder", 0o555)):
        if not path.is_dir():
            path.write_text("text\n")
        os.setxattr(path, ATTRIBUTE, b"value")
        path.chmod(mode)
    home.chmod(0o555)
    taken = operations.snapshot(storage, session, new_id(), IMAGE, operations.SnapshotNote())["snapshot"]["number"]
    remove_tree(home)
    home.mkdir()
    operations.rollback(storage, session, new_id(), taken, IMAGE)
    with storage.open_session(session) as opened:
        home = storage.layers.tree(opened.record.home.top)
    found = {
        str(path.relative_to(home)): (path.stat().st_mode & 0o777, os.getxattr(path, ATTRIBUTE))
        for path in home.rglob("*")
    }
    wanted = {"file": 0o444, "folder": 0o555, "folder/file": 0o600}
    assert found == {name: (mode, b"value") for name, mode in wanted.items()}
    assert home.stat().st_mode & 0o777 == 0o555
    assert [each for each in storage.layers.root.iterdir() if each.name.startswith(".")] == []
