"""Work that several callers request is done once for all of them, and again for a caller after its end."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from broker import single_flight
from broker.single_flight import SingleFlight
from tests.deadlines import DEADLINE_S
from tests.fakes.core import Core, site_config
from tests.fakes.launcher import FakeLauncher
from tests.fakes.scheduler import FakeScheduler

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker.controller.registry.models import Session


async def ended(task: asyncio.Task[Any]) -> None:
    """Return in the very iteration of the loop in which the task has ended, before its callbacks are called."""
    async with asyncio.timeout(DEADLINE_S):
        while not task.done():  # noqa: ASYNC110 - whoever waits for the task itself comes after its callbacks
            await asyncio.sleep(0)


def test_all_who_ask_meanwhile_join_and_the_next_one_does_not() -> None:
    async def scene() -> None:
        begun: list[int] = []
        reported: list[tuple[str, int]] = []
        go_on = asyncio.Event()
        work = SingleFlight[str, int](lambda key, task: reported.append((key, task.result())))

        async def count() -> int:
            begun.append(len(begun))
            number = begun[-1]
            await go_on.wait()
            return number

        first = work.join("a", count)
        assert work.join("a", count) is first
        assert work.join("b", count) is not first
        assert ("a" in work, "c" in work, list(work), len(work)) == (True, False, ["a", "b"], 2)
        go_on.set()
        await ended(first)
        go_on.clear()
        assert "a" not in work
        second = work.join("a", count)
        assert second is not first
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert work.join("a", count) is second, "the end of the first one has not taken it away"
        go_on.set()
        assert await second == 2
        assert (len(work), work.tasks) == (0, [])
        assert sorted(reported) == [("a", 0), ("a", 2), ("b", 1)]

    asyncio.run(scene())


def test_close_ends_what_runs_even_what_has_not_begun() -> None:
    async def scene() -> None:
        work = SingleFlight[str, None]()
        tasks = [work.join(key, asyncio.Event().wait) for key in "ab"]  # type: ignore[arg-type]  # it never returns
        await asyncio.sleep(0)
        tasks.append(work.join("c", asyncio.Event().wait))  # type: ignore[arg-type]
        await work.close()
        assert all(task.cancelled() for task in tasks)
        assert len(work) == 0

    asyncio.run(scene())


PARTS: dict[str, Callable[[Core, Session], asyncio.Task[Any]]] = {
    "operation": lambda core, session: core.operations.run(session),
    "submission": lambda core, session: core.submitter.submit(session),
    "flattening": lambda core, session: core.maintenance.flatten(session),
    "collection": lambda core, session: core.maintenance.schedule_gc(session.owner),
    "environments": lambda core, session: core.environments.sweep(session.owner),
}


@pytest.mark.parametrize("part", PARTS)
def test_nobody_joins_what_has_just_ended(tmp_path: Path, part: str) -> None:
    """A request in the moment in which another one's work ends gets its own work, not the other's result."""

    async def scene() -> None:
        core = Core.make(site_config(tmp_path), FakeLauncher(FakeScheduler()))
        session = await core.stopped()
        first = PARTS[part](core, session)
        assert PARTS[part](core, session) is first
        await ended(first)
        second = PARTS[part](core, session)
        assert second is not first
        await asyncio.gather(first, second, return_exceptions=True)
        await core.settle()
        core.registry.close()

    asyncio.run(scene())


def test_no_other_module_keeps_tasks_by_key() -> None:
    """Each would have to mind the iteration of the loop in which a task ends."""
    broker = Path(single_flight.__file__).parent
    keeping = [path.name for path in broker.rglob("*.py") if re.search(r"dict\[.*\bTask\b", path.read_text("utf-8"))]
    assert keeping == ["single_flight.py"]
