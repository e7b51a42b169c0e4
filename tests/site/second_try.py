"""Run the failed tests of a lane once more, with nothing beside them.

A test that fails in both runs fails the run of all tests. One that passes alone is unstable: it is named in the last
lines of the output, with its first failure further up, and in build/unstable.txt. More than UNSTABLE_LIMIT failures are
no accident and are not tried again. Standard library only. See docs/adr/0154-failed-tests-run-once-more.md.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

TESTS_FAILED = 1
"""pytest's exit code (pytest's reference, "Exit codes")."""
UNSTABLE_LIMIT = 12
TRY_LIMIT_S = 1200


def failed_tests(record: Path) -> list[str]:
    """Return the ids of the tests that the plugin of tests/failures.py has recorded there, each once."""
    lines = record.read_text().splitlines() if record.exists() else []
    return list(dict.fromkeys(json.loads(line) for line in lines))


def second_code(command: Sequence[str], code: int, record: Path, environment: Mapping[str, str]) -> int:
    """Return the exit code of a lane that ended with `code`, after a second try of its failed tests.

    `command` is pytest with its options. The tests that pass are added to `unstable.txt` beside the record's folder.
    """
    failed = failed_tests(record)
    if code != TESTS_FAILED or not 0 < len(failed) <= UNSTABLE_LIMIT:
        return code
    print(f"tests: {len(failed)} failed; once more, alone: {' '.join(failed)}", flush=True)
    try:
        second = subprocess.run([*command, *failed], env=environment, timeout=TRY_LIMIT_S, check=False).returncode
    except subprocess.TimeoutExpired:
        print(f"tests: the second try did not end within {TRY_LIMIT_S} s", file=sys.stderr)
        return code
    if second == 0:
        with (record.parent.parent / "unstable.txt").open("a") as unstable:
            unstable.writelines(f"{test}\n" for test in failed)
    return second


def report_unstable(unstable: Path) -> None:
    """Print the tests that failed beside others and passed alone."""
    for test in unstable.read_text().splitlines() if unstable.exists() else []:
        print(f"UNSTABLE {test}: failed beside other tests, passed alone", flush=True)
