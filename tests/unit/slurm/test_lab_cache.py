from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from slurm.lab.cache import cached_tree, digest_of
from slurm.lab.progress import ProgressLog
from tests.deadlines import DEADLINE_S

if TYPE_CHECKING:
    from pathlib import Path

QUIET = ProgressLog(quiet=True)


def plant(work: Path) -> None:
    (work / "tree").mkdir()
    (work / "tree/file").write_text("made")
    (work / "scratch").write_text("thrown away")


def test_made_once_and_nothing_but_the_tree_is_kept(tmp_path: Path) -> None:
    made = cached_tree(tmp_path, "thing", "k1", plant, QUIET)

    def never(_work: Path) -> None:
        pytest.fail("made a second time")

    assert cached_tree(tmp_path, "thing", "k1", never, QUIET) == made
    assert [path.name for path in made.iterdir()] == ["file"]
    assert [path.name for path in tmp_path.iterdir() if not path.name.endswith(".lock")] == ["thing-k1"]


def test_a_failure_leaves_no_tree_and_the_next_one_starts_afresh(tmp_path: Path) -> None:
    def breaks(work: Path) -> None:
        plant(work)
        raise RuntimeError("half-way")

    with pytest.raises(RuntimeError, match="half-way"):
        cached_tree(tmp_path, "thing", "k1", breaks, QUIET)
    assert [path.name for path in tmp_path.iterdir()] == [".thing-k1.lock"]
    assert (cached_tree(tmp_path, "thing", "k1", plant, QUIET) / "file").read_text() == "made"


def test_two_that_want_the_same_take_turns_and_the_second_says_that_it_waits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    begun, go_on, calls = threading.Event(), threading.Event(), []

    def slow(work: Path) -> None:
        calls.append(work)
        begun.set()
        assert go_on.wait(DEADLINE_S)
        plant(work)

    class Releasing(ProgressLog):
        """Lets the first one finish once the second one has said that it waits."""

        def say(self, what: str) -> None:
            super().say(what)
            go_on.set()

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(cached_tree, tmp_path, "thing", "k1", slow, QUIET)
        assert begun.wait(DEADLINE_S)
        second = pool.submit(cached_tree, tmp_path, "thing", "k1", slow, Releasing())
        assert first.result(DEADLINE_S) == second.result(DEADLINE_S)
    assert len(calls) == 1
    assert "waiting for another process that makes thing" in capsys.readouterr().err


def test_digest_changes_with_texts_names_modes_and_contents(tmp_path: Path) -> None:
    top = tmp_path / "top"
    (top / "sub").mkdir(parents=True)
    file = top / "sub/file"
    file.write_text("one")
    seen = {digest_of(["a"], [top]), digest_of(["b"], [top]), digest_of(["a", ""], [top]), digest_of(["a"], [file])}
    file.write_text("two")
    seen.add(digest_of(["a"], [top]))
    file.chmod(0o755)
    seen.add(digest_of(["a"], [top]))
    file.rename(top / "sub/other")
    seen.add(digest_of(["a"], [top]))
    (top / "sub/link").symlink_to("other")
    seen.add(digest_of(["a"], [top]))
    assert len(seen) == 8
    assert digest_of(["a"], [top]) in seen
