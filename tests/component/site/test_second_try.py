"""Failed tests that run once more, with a real pytest."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.site.second_try import TESTS_FAILED, UNSTABLE_LIMIT, failed_tests, report_unstable, second_code

CHECKOUT = Path(__file__).parents[3]
TESTS = """
import pathlib, pytest

def test_passes():
    pass

@pytest.mark.parametrize("word", ["a b", "c"])
def test_unstable(word):
    seen = pathlib.Path(__file__).with_name(f"seen {word}")
    was_there = seen.exists()
    seen.touch()
    assert was_there

def test_broken():
    assert False
"""
PYTEST = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with the tests above, and the plugin that records failures."""
    (tmp_path / "test_it.py").write_text(TESTS)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "conftest.py").write_text(
        "from tests.failures import FailuresAtOnce\n"
        "def pytest_configure(config):\n    config.pluginmanager.register(FailuresAtOnce(config))\n"
    )
    (tmp_path / "build/failures").mkdir(parents=True)
    return tmp_path


def record_of(project: Path) -> Path:
    return project / "build/failures/lane.txt"


def run(project: Path, select: str) -> int:
    """Run the selected tests, and then those that failed; return the exit code of all."""
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT), "TEST_FAILURES": str(record_of(project))}
    command = [*PYTEST, f"--rootdir={project}"]
    first = subprocess.run([*command, "-k", select, str(project)], env=environment, cwd=project, check=False)
    # The ids are relative to the folder in which the lanes run.
    again = ["env", f"--chdir={project}", *command]
    return second_code(again, first.returncode, record_of(project), environment)


def test_passing_lane_is_not_tried_again(project: Path) -> None:
    assert run(project, "passes") == 0
    assert failed_tests(record_of(project)) == []


def test_tests_that_pass_alone_are_unstable(project: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(project, "passes or unstable") == 0
    ids = ["test_it.py::test_unstable[a b]", "test_it.py::test_unstable[c]"]
    assert failed_tests(record_of(project)) == ids
    capfd.readouterr()
    report_unstable(project / "build/unstable.txt")
    assert [line.partition(":")[0] for line in capfd.readouterr().out.splitlines()] == ["UNSTABLE test_it.py"] * 2


def test_broken_test_fails_the_run(project: Path) -> None:
    assert run(project, "broken or unstable") == TESTS_FAILED
    assert not (project / "build/unstable.txt").exists()


def test_many_failures_are_not_tried_again(tmp_path: Path) -> None:
    record = tmp_path / "build/lane.txt"
    record.parent.mkdir()
    record.write_text("".join(f"{json.dumps(f'test_{number}')}\n" for number in range(UNSTABLE_LIMIT + 1)))
    assert second_code(["false"], TESTS_FAILED, record, {}) == TESTS_FAILED


@pytest.mark.parametrize("code", [2, 3, -9])
def test_interrupted_lane_is_not_tried_again(tmp_path: Path, code: int) -> None:
    record = tmp_path / "build/lane.txt"
    record.parent.mkdir()
    record.write_text('"test_one"\n')
    assert second_code(["true"], code, record, {}) == code
