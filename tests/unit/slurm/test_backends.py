"""The choice between pyslurm and Slurm's commands."""

import asyncio
import sys

import pytest

from slurm.backends import Backend, open_scheduler

# Each reads one question and does what its name says.
ANSWERS = (sys.executable, "-Ic", 'input(); print(\'{"answer": "26.05.5"}\', flush=True); input()')
HAS_NO_PYSLURM = (
    sys.executable,
    "-Ic",
    'input(); print(\'{"error": "pyslurm cannot be imported"}\', flush=True); input()',
)
DIES = (sys.executable, "-Ic", "input(); raise SystemExit(1)")
HANGS = ("sleep", "600")
IS_MISSING = ("/nonexistent/python",)


@pytest.mark.parametrize(
    ("backend", "worker", "chosen"),
    [
        ("auto", ANSWERS, "pyslurm"),
        ("auto", HAS_NO_PYSLURM, "commands"),
        ("auto", DIES, "commands"),
        ("auto", HANGS, "commands"),
        ("auto", IS_MISSING, "commands"),
        ("pyslurm", HANGS, "pyslurm"),
        ("commands", ANSWERS, "commands"),
    ],
)
def test_choice(backend: Backend, worker: tuple[str, ...], chosen: str) -> None:
    timeout = 0.5 if worker is HANGS else 20.0

    async def choose() -> str:
        scheduler = await open_scheduler(backend, timeout=timeout, worker_argv=worker)
        await scheduler.close()
        return scheduler.name

    assert asyncio.run(choose()) == chosen
