"""Failed tests are reported when they fail, not only at the end of a run of several minutes."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest


class FailuresAtOnce:
    """A plugin that prints one line for each failure as it happens, with the seconds since the start of the run; pytest
    prints the details at the end. It adds the test's id, as JSON, to the file $TEST_FAILURES if that is set.
    """

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._began_at = time.monotonic()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        record = os.environ.get("TEST_FAILURES")
        if report.failed and record:
            with Path(record).open("a") as failures:
                failures.write(f"{json.dumps(report.nodeid)}\n")
        terminal = self._config.pluginmanager.get_plugin("terminalreporter")
        if report.failed and terminal is not None:
            crash = getattr(report.longrepr, "reprcrash", None)
            reason = crash.message.partition("\n")[0] if crash else report.longreprtext.strip().rpartition("\n")[2]
            terminal.ensure_newline()
            seconds = time.monotonic() - self._began_at
            terminal.write_line(f"FAILED {report.nodeid} after {seconds:.0f} s: {reason}", red=True)
