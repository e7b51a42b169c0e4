"""The subprocess runner: what comes back, what is raised, and that nothing is left behind."""

import asyncio
import os
import sys
import time
from pathlib import Path

import pytest

from slurm.run import MAX_STDERR_CHARACTERS, CommandError, FinishedCommand, run_command
from tests.deadlines import DEADLINE_S
from tests.processes import process_state

# Starts a grandchild in the same process group, writes both process ids, and stays.
FAMILY = 'sleep 600 & echo "$$ $!" >"$1.new"; mv "$1.new" "$1"; wait'


async def until_exists(path: Path) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not os.access(path, os.F_OK):  # noqa: ASYNC110 - made by another process: no event to wait for
            await asyncio.sleep(0.01)


def ended(pid: int) -> bool:
    """Whether the process has ended; a zombie that its new parent has not collected yet has."""
    return process_state(pid) in "ZX"


def assert_all_end(pids: Path) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not all(ended(int(pid)) for pid in pids.read_text().split()):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_output_and_code() -> None:
    code = "import sys; print('out\\xff'); print('err', file=sys.stderr); sys.exit(3)"
    finished = asyncio.run(run_command((sys.executable, "-c", code), timeout=DEADLINE_S, check=False))
    assert finished == FinishedCommand((sys.executable, "-c", code), 3, "outÿ\n", "err\n")


def test_bytes_that_are_not_utf_8_are_replaced() -> None:
    finished = asyncio.run(run_command(("printf", "a\\377b"), timeout=DEADLINE_S))
    assert finished.stdout == "a\ufffdb"


def test_a_failure_carries_code_and_the_end_of_stderr() -> None:
    code = "import sys; sys.stderr.write('x' * 10000 + 'the end'); sys.exit(4)"
    with pytest.raises(CommandError, match=r"ended with 4: x+the end") as caught:
        asyncio.run(run_command((sys.executable, "-c", code), timeout=DEADLINE_S))
    assert caught.value.code == 4
    assert len(caught.value.stderr) == MAX_STDERR_CHARACTERS


def test_a_signal_is_a_negative_code() -> None:
    with pytest.raises(CommandError) as caught:
        asyncio.run(run_command(("sh", "-c", "kill -9 $$"), timeout=DEADLINE_S))
    assert caught.value.code == -9


def test_a_missing_program_never_started() -> None:
    with pytest.raises(CommandError) as caught:
        asyncio.run(run_command(("/nonexistent/program",), timeout=DEADLINE_S))
    assert caught.value.code is None


def test_there_is_no_input_and_no_shell() -> None:
    assert asyncio.run(run_command(("cat",), timeout=DEADLINE_S)).stdout == ""
    assert asyncio.run(run_command(("printf", "%s", "$(id); *"), timeout=DEADLINE_S)).stdout == "$(id); *"


def test_the_environment_is_the_one_given() -> None:
    assert asyncio.run(run_command(("/usr/bin/env",), timeout=DEADLINE_S, env={"A": "1"})).stdout == "A=1\n"


def test_at_the_time_limit_the_whole_group_is_killed(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    start = time.monotonic()
    with pytest.raises(CommandError, match=r"no end after 3 s") as caught:
        asyncio.run(run_command(("sh", "-c", FAMILY, "sh", str(pids)), timeout=3))
    assert time.monotonic() - start < 15
    assert caught.value.code is None
    assert_all_end(pids)


def test_cancellation_kills_the_whole_group(tmp_path: Path) -> None:
    pids = tmp_path / "pids"

    async def start_and_cancel() -> None:
        task = asyncio.create_task(run_command(("sh", "-c", FAMILY, "sh", str(pids)), timeout=600))
        await until_exists(pids)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(start_and_cancel())
    assert_all_end(pids)


@pytest.mark.parametrize("iterations", range(6))
def test_a_start_that_is_cancelled_at_once_leaves_nothing(tmp_path: Path, iterations: int) -> None:
    """Cancelled after so many iterations of the event loop: before, during and after the program's start."""
    pids = tmp_path / "pids"

    async def start_and_cancel() -> None:
        task = asyncio.create_task(run_command(("sh", "-c", FAMILY, "sh", str(pids)), timeout=600))
        for _ in range(iterations):
            await asyncio.sleep(0)
            time.sleep(0.02)  # noqa: ASYNC251 - so that the program is ahead of the event loop
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(asyncio.wait_for(start_and_cancel(), 20))
    if pids.exists():
        assert_all_end(pids)


def test_a_descendant_that_left_the_group_and_keeps_the_pipes_does_not_hold_us_up(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    script = f"setsid sh -c 'echo $$ >{pid}; exec sleep 600' & sleep 600"
    start = time.monotonic()
    try:
        with pytest.raises(CommandError, match=r"no end after 2 s"):
            asyncio.run(run_command(("sh", "-c", script), timeout=2))
        assert time.monotonic() - start < 15
    finally:
        os.kill(int(pid.read_text()), 9)
