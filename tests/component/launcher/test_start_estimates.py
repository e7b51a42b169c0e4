"""Slurm's answer to `sbatch --test-only`: a time, a refusal, or no answer."""

from __future__ import annotations

import asyncio
import pwd
from typing import TYPE_CHECKING

import pytest

from broker.controller.launcher_client.errors import LauncherError
from tests.component.launcher.launcher_process import ID, USER, running

if TYPE_CHECKING:
    from pathlib import Path

STARTS = "Job 7 to start at 2026-12-24T18:00:00 using 1 processors on nodes c1 in partition gpu"


@pytest.mark.parametrize(
    ("script", "start_at", "refusal"),
    [
        (f"echo 'sbatch: {STARTS}' >&2", 1798135200.0, ""),
        (f"test $TZ = UTC0 && echo 'sbatch: {STARTS}' >&2", 1798135200.0, ""),
        (
            "printf 'a remark of a plugin\\nallocation failure: Requested nodes are busy\\n' >&2; exit 1",
            None,
            "Requested nodes are busy",
        ),
        ("echo 'sbatch: error: Invalid account' >&2; exit 1", None, "Invalid account"),
    ],
)
def test_estimate_is_a_time_or_a_refusal(storage: Path, script: str, start_at: float | None, refusal: str) -> None:
    async def scenario() -> None:
        seen = storage / "seen"
        seen.touch()
        seen.chmod(0o666)
        async with running(storage, f'for a; do echo "$a"; done >{seen}; id -u >>{seen}; {script}') as (launcher, _):
            await launcher.prepare(USER, ID, "auto")
            answer = await launcher.estimate(USER, ID, ["--mem=8G"], limit=10)
        assert (answer.start_at, answer.refusal) == (start_at, refusal)
        *words, uid = seen.read_text().splitlines()
        assert words[:2] == ["--test-only", "--mem=8G"]
        assert not {"--dependency=singleton", "--parsable"} & set(words)
        assert uid == str(pwd.getpwnam(USER).pw_uid)

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "script",
    [
        "exec sleep 60",
        "echo 'Unable to contact slurm controller (connect failure)' >&2; exit 1",
        "echo 'a time that no release has printed: 2026-12-24'",
        "exit 1",
        "kill -9 $$",
        "echo 'Job 7 to start at 2026-99-24T18:00:00' >&2",
    ],
)
def test_estimate_without_an_answer_is_an_error(storage: Path, script: str) -> None:
    async def scenario() -> None:
        async with running(storage, script) as (launcher, _):
            await launcher.prepare(USER, ID, "auto")
            with pytest.raises(LauncherError) as failure:
                await launcher.estimate(USER, ID, [], limit=1)
            assert failure.value.kind in {"unclear", "crashed"}

    asyncio.run(scenario())
