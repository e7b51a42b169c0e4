"""No test ends a program that is only slow: a busy machine is no fault."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
SHORT = re.compile(r"(timeout=|\.(wait|join|result|get|acquire)\()([5-9]|[1-5][0-9])(\.0)?[,)\s]")
"""Between a limit that a test is about (below 5 s) and one that only ends what hangs (tests/deadlines.py)."""
WHERE_PROGRAMS_WAIT = ("vm", "bench", "site")
"""Folders with limits of their own."""


def test_limits_of_programs_are_those_of_the_tests() -> None:
    files = [file for file in TESTS.rglob("*.py") if file.relative_to(TESTS).parts[0] not in WHERE_PROGRAMS_WAIT]
    assert len(files) > 100
    found = {str(file): match[0] for file in files if (match := SHORT.search(file.read_text()))}
    assert found == {}
