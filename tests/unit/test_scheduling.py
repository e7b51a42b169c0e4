"""Which tests go to a worker together."""

from __future__ import annotations

from pathlib import Path

from tests.scheduling import SPREAD, FileScheduling

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
