"""A fault in a worker of the interface is kept with its own traceback."""

from __future__ import annotations

import pytest
from textual.worker import WorkerFailed

from tests.fakes.tui_app import TuiTest, run_tui


def test_fault_of_a_worker_is_kept_with_its_cause() -> None:
    failures: list[str] = []

    async def fail() -> None:
        raise LookupError("the cause")

    async def scenario(test: TuiTest) -> None:
        test.app.run_worker(fail())
        await test.until(lambda: test.app.failure)
        failures.append(test.app.failure)

    with pytest.raises(WorkerFailed):
        run_tui(scenario)
    assert failures[0].endswith("LookupError: the cause\n")
    assert 'in fail\n    raise LookupError("the cause")' in failures[0]
