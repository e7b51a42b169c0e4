"""Files that a killed child of the launcher leaves on the login node's local disk are removed by the next child."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import tempfile
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

USES = """
from broker.volumes import flatten, inspection, probe, squashfs
from broker.volumes.layers import Layers
from broker.volumes.storage import Storage


def unpacking(place):
    (place / "squashfs").touch()
    squashfs._unsquash_on_local_disk(place / "squashfs", place / "target")


def probing(place):
    return probe._try_overlay(place / "room").how


def probing_the_node(place):
    return probe._mounts_on_node()


def joining(place):
    layers = Layers(packed(place))
    flatten._repack(layers, ("layer",), "made", lambda path: False)


def comparing(place):
    layers = packed(place)
    with inspection._unpacked_trees(Storage(place), {"layer"}, {"layer"}):
        pass


def packed(place):
    (place / "layers/layer").mkdir(parents=True, exist_ok=True)
    (place / "layers/layer/layer.squashfs").touch()
    return place / "layers"
"""
CALLED = {
    "unpacking": "squashfs._unsquash",
    "probing": "probe.run_program",
    "probing_the_node": "probe.run_program",
    "joining": "flatten.unpack_layer",
    "comparing": "inspection.unpack_layer",
}
"""By use, what it calls while it has a folder on the local disk."""
ANSWERS = {"probing": "none", "probing_the_node": False}
"""By use, the answer if that call fails; the other uses raise its error."""
KILLED = """
import os, sys
from pathlib import Path

{uses}

def die(*_, **__):
    os.kill(os.getpid(), 9)

{called} = die
{use}(Path(sys.argv[1]))
"""


@pytest.mark.parametrize("use", CALLED)
def test_what_a_killed_child_left_is_removed_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, use: str
) -> None:
    (tmp_path / "tmp").mkdir()
    program = KILLED.format(uses=USES, called=CALLED[use], use=use)
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

    module, _, function = CALLED[use].partition(".")
    monkeypatch.setattr(importlib.import_module(f"broker.volumes.{module}"), function, look)
    (tmp_path / "another").mkdir()
    uses: dict[str, object] = {}
    exec(USES, uses)  # noqa: S102 - the text above, which the killed child runs, too
    use_folder = uses[use]
    assert callable(use_folder)
    if use in ANSWERS:
        assert use_folder(tmp_path / "another") == ANSWERS[use]
    else:
        with pytest.raises(PermissionError):
            use_folder(tmp_path / "another")
    assert found == [False]
    assert list((tmp_path / "tmp").iterdir()) == []
