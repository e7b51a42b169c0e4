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
exec /usr/bin/unshare --map-root-user -- {WITHOUT_OVERRIDE} "${{@:3}}"
"""
LOCKED = {"file": 0, "folder": 0, "folder without x": 0o600}
WORDS = "its mode forbids even its owner to read it, which chmod u+rX mends"


@pytest.fixture(params=LOCKED)
def home(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The home of a session with the driver plain, in which the entry `work/locked` is locked."""
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "unshare").write_text(UNSHARE)
    (programs / "unshare").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    storage = Storage(tmp_path)
    storage.make()
    storage.session("s" * 26).mkdir()
    operations.create(storage, "s" * 26, "plain")
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


def test_stopped_snapshot_is_refused_with_the_remedy(home: Path, tmp_path: Path) -> None:
    storage = Storage(tmp_path)
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
