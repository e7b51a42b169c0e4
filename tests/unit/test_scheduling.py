"""The groups of tests for one worker, the order in which they begin, and the growing pauses of a wait."""

from __future__ import annotations

import json
import time
from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast
from unittest.mock import Mock

import pytest

from slurm.lab.progress import pause_s
from tests import durations
from tests.durations import sort_by_duration
from tests.scheduling import SPREAD, FileScheduling

if TYPE_CHECKING:
    from collections.abc import Sequence

CHECKOUT = Path(__file__).parents[2]


def parts(*tests: str) -> set[str]:
    scheduling = FileScheduling.__new__(FileScheduling)  # without the workers that its constructor counts
    return {scheduling._split_scope(test) for test in tests}


def test_tests_of_a_file_stay_together() -> None:
    assert parts("tests/lab/test_x.py::test_a", "tests/lab/test_x.py::TestB::test_c[1]") == {"tests/lab/test_x.py"}


def test_tests_of_the_longest_files_go_to_any_worker() -> None:
    for file in SPREAD:
        assert (CHECKOUT / file).exists()
        assert len(parts(f"{file}::test_a[1]", f"{file}::test_a[2]")) == 2


def test_a_worker_that_has_not_collected_gets_no_tests_yet() -> None:
    """Two workers that replace crashed ones: when the first has collected, xdist asks for tests for both."""
    given: list[list[int]] = []
    scheduling, ready, late = FileScheduling.__new__(FileScheduling), Mock(), Mock()
    for worker in (ready, late):
        worker.shutting_down, worker.send_runtest_some = False, given.append
    scheduling.workqueue = OrderedDict({"a.py": {"a.py::test": False}, "b.py": {"b.py::test": False}})
    scheduling.assigned_work = {ready: {}, late: {}}
    scheduling.registered_collections = {ready: ["a.py::test", "b.py::test"]}
    scheduling.log = lambda *_: None
    for worker in (late, ready):
        scheduling._reschedule(worker)
    assert given == [[0]]


@pytest.fixture
def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two files have lasted long."""
    path = tmp_path / "durations.json"
    path.write_text(json.dumps({"long.py": 300, "longer.py": 400}))
    monkeypatch.setattr(durations, "RECORD", path)


def order(files: Sequence[str], *, waiting: Sequence[str] = (), shortest_first: bool = False) -> list[str]:
    """Return the files in the order in which their tests begin."""
    items = [
        SimpleNamespace(nodeid=f"{file}::test", get_closest_marker=lambda _, file=file: file in waiting or None)
        for file in files
    ]
    sort_by_duration(cast("list[pytest.Item]", items), shortest_first=shortest_first)
    return [item.nodeid.partition("::")[0] for item in items]


@pytest.mark.usefixtures("record")
def test_files_that_wait_begin_and_then_the_longest() -> None:
    files = ["waits.py", "new.py", "long.py", "longer.py"]
    assert order(files, waiting=["waits.py"]) == ["waits.py", "longer.py", "long.py", "new.py"]


@pytest.mark.usefixtures("record")
def test_files_whose_tests_take_least_begin_where_the_shortest_come_first() -> None:
    files = [*["longer.py"] * 800, "long.py", "new.py", *["more.py"] * 3]
    in_order = order(files, shortest_first=True)
    assert list(dict.fromkeys(in_order)) == ["more.py", "longer.py", "new.py", "long.py"]
    assert sorted(in_order) == sorted(files)


def test_who_waits_long_looks_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "monotonic", lambda: 100.0)
    assert [pause_s(began_at) for began_at in (100.0, 99.5, 99.0, 50.0)] == [0.02, 0.1, 0.2, 0.25]
    assert pause_s(99.9, shortest_s=0.03) == 0.03
