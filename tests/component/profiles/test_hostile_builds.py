"""Hostile layers, documents, Dockerfiles, recipes and dev containers, by `berth profile build` from end to end."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from profiles.build import network
from profiles.build.namespace import remove_as_root
from tests.fakes.command_line import command_line, run
from tests.hostile_inputs import HOSTILE_INPUTS
from tests.hostile_layers import OUTSIDE
from tests.unpacked_images import listing

if TYPE_CHECKING:
    from collections.abc import Iterator

LEAST = 60


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a room for the input, a folder that must stay as it is, and a folder for the build alone."""
    for name in ("room", "programs"):
        (tmp_path / name).mkdir()
    work = Path("/var/tmp") / f"berth-test-{os.getpid()}"  # noqa: S108 - mode 0700, on a disk that overlayfs can use
    work.mkdir(mode=0o700)
    monkeypatch.setenv("TMPDIR", str(work))
    if not shutil.which("apptainer", path=network.PATH):
        # No build gets as far as to make an image.
        (tmp_path / "programs/apptainer").write_text("#!/bin/sh\necho apptainer version 1.4.5\n")
        (tmp_path / "programs/apptainer").chmod(0o755)
        monkeypatch.setattr(network, "PATH", f"{tmp_path}/programs:{network.PATH}")
        monkeypatch.setenv("PATH", f"{tmp_path}/programs:{os.environ['PATH']}")
    with command_line(monkeypatch, tmp_path):
        yield tmp_path
    remove_as_root(work)


def test_there_are_enough() -> None:
    assert len(HOSTILE_INPUTS) >= LEAST


@pytest.mark.parametrize("case", HOSTILE_INPUTS)
def test_hostile_input_is_refused_in_words_and_touches_nothing(
    place: Path, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare, words = HOSTILE_INPUTS[case]
    outside = place / OUTSIDE
    outside.mkdir()
    (outside / "sentinel").write_text("safe")
    made = prepare(place / "room")
    recipe = place / "room/profile.yaml"
    recipe.write_bytes(made if isinstance(made, bytes) else f"name: tiny\nversion: 1\nbase: {made}".encode())
    monkeypatch.chdir(place / "room")
    before = {name: listing(place / name) for name in (OUTSIDE, "room")}

    result = run("profile", "build", str(recipe))

    assert result.exit_code in {1, 2, 3}, result.output
    assert isinstance(result.exception, SystemExit), result.exception
    assert "Traceback" not in result.stderr
    assert re.search(words, result.stderr), result.stderr
    assert all(line.isprintable() for line in result.stderr.splitlines()), repr(result.stderr)
    assert {name: listing(place / name) for name in (OUTSIDE, "room")} == before
    assert _published(place / "store") == []
    assert [each.name for each in Path(os.environ["TMPDIR"]).glob("berth-build-*")] == []


def _published(store: Path) -> list[str]:
    """Return what is in the store, but for the log of a build that failed."""
    return [path.name for path in store.rglob("*") if path.is_file() and not path.name.endswith(".failed.log")]
