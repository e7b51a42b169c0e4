"""Files that their owner may not read, where root of a user namespace may not either: a snapshot of them is refused.

On NFS the server decides, and knows the user alone. Here each namespace's root has lost the two capabilities.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from broker.identifiers import new_id
from broker.volumes import copying, operations
from broker.volumes.drivers import MODES
from broker.volumes.storage import Storage
from profiles.removal import remove_tree
from tests.volumes.running import IMAGE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

WITHOUT_OVERRIDE = "setpriv --bounding-set=-dac_override,-dac_read_search --inh-caps=-all"
UNSHARE = f"""#!/bin/bash
[[ $* == "--map-root-user -- "* ]] || exit 64
[[ $* != *" -dest "*/berth-unpack-* ]] || exec /usr/bin/unshare "$@" # on a local disk
exec /usr/bin/unshare --map-root-user -- {WITHOUT_OVERRIDE} "${{@:3}}"
"""
ATTRIBUTE = "user.test"
LOCKED = {"file": 0, "folder": 0, "folder without x": 0o600}
WORDS = "its mode forbids even its owner to read it, which chmod u+rX mends"


@pytest.fixture
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Storage:
    """The storage of a user with one session, with the driver plain."""
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "unshare").write_text(UNSHARE)
    (programs / "unshare").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    storage = Storage(tmp_path)
    storage.make()
    storage.session("s" * 26).mkdir()
    operations.create(storage, "s" * 26, "plain")
    return storage


@pytest.fixture(params=LOCKED)
def home(request: pytest.FixtureRequest, storage: Storage) -> Iterator[Path]:
    """The session's home, in which the entry `work/locked` is locked."""
    with storage.opened("s" * 26) as session:
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


def test_stopped_snapshot_is_refused_with_the_remedy(home: Path, storage: Storage) -> None:
    with pytest.raises(OSError, match=re.escape(WORDS)) as failed:
        operations.snapshot(storage, "s" * 26, "o" * 26, IMAGE, operations.Note())
    assert failed.value.filename == "work/locked"
    assert operations.snapshots(storage, "s" * 26)["snapshots"] == []
    (home / "work/locked").chmod(0o700)
    made = operations.snapshot(storage, "s" * 26, "o" * 26, IMAGE, operations.Note())
    assert made["snapshot"]["number"] == 1


def test_live_copy_is_refused_with_the_remedy(home: Path, tmp_path: Path) -> None:
    command = ["unshare", "--map-root-user", "--", sys.executable, "-I", copying.__file__, str(home)]
    answers = b"all\nall\n"
    failing = [*command, str(tmp_path / "copy"), ""]
    done = subprocess.run(failing, input=answers, capture_output=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stderr.decode() == f"{WORDS}: work/locked\n"
    (home / "work/locked").chmod(0o700)
    subprocess.run([*command, str(tmp_path / "again"), ""], input=answers, capture_output=True, timeout=60, check=True)
    assert MODES["home"] == (tmp_path / "again/tree").stat().st_mode & 0o777


def test_read_only_entries_come_back_with_their_attributes(storage: Storage) -> None:
    """A file server lets nobody set attributes of what is read-only, and unsquashfs sets them last."""
    session = "s" * 26
    with storage.opened(session) as opened:
        home = storage.layers.tree(opened.record.home.top)
    (home / "folder").mkdir()
    for path, mode in ((home / "file", 0o444), (home / "folder/file", 0o600), (home / "folder", 0o555)):
        if not path.is_dir():
            path.write_text("text\n")
        os.setxattr(path, ATTRIBUTE, b"value")
        path.chmod(mode)
    taken = operations.snapshot(storage, session, new_id(), IMAGE, operations.Note())["snapshot"]["number"]
    remove_tree(home)
    home.mkdir()
    operations.rollback(storage, session, new_id(), taken, IMAGE)
    with storage.opened(session) as opened:
        home = storage.layers.tree(opened.record.home.top)
    found = {
        str(path.relative_to(home)): (path.stat().st_mode & 0o777, os.getxattr(path, ATTRIBUTE))
        for path in home.rglob("*")
    }
    wanted = {"file": 0o444, "folder": 0o555, "folder/file": 0o600}
    assert found == {name: (mode, b"value") for name, mode in wanted.items()}
    assert [each for each in storage.layers.root.iterdir() if each.name.startswith(".")] == []
