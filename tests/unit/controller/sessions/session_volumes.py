"""The actions of tests on a session's volumes: read and write them, request changes, and wait for them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from broker.controller.registry.registry import EventEntry
from broker.schema.volumes import CloneRequest, RollbackRequest, SnapshotRequest, SwitchRequest
from slurm.state import JobState
from tests.deadlines import DEADLINE_S
from tests.fakes.rows import make_session

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from broker.controller.registry.models import Session
    from broker.schema.sessions import SessionState, SessionView
    from tests.fakes.core import Core

SNAPSHOT = SnapshotRequest()


def put(core: Core, state: SessionState, **values: Any) -> Session:  # noqa: ANN401 - columns of several types
    """A session in that state, with volumes."""
    image = core.stores.find("base")
    row = make_session(state=state, digest=image.digest, image_path=str(image.path), host_key="", **values)
    asyncio.run(core.launcher.prepare("alice", row.id, "auto"))
    return core.registry.create(row, EventEntry("alice", "start"))


def write(core: Core, content: str, volume: str = "home", name: str = "dev") -> None:
    core.launcher.volumes.write("alice", core.row(name).id, "file", content, volume)


def read(core: Core, volume: str = "home", name: str = "dev") -> str:
    return core.launcher.volumes.read("alice", core.row(name).id, volume).get("file", "")


def end_job(core: Core, state: JobState = JobState.CANCELLED, name: str = "dev") -> None:
    job_id = core.row(name).job.job_id
    assert job_id is not None
    core.scheduler.end(job_id, state)


async def wait_for_operation(core: Core, asked: Coroutine[Any, Any, SessionView]) -> SessionView:
    """Ticks continue while a caller waits for the answer."""
    waiting = asyncio.ensure_future(asked)
    while not waiting.done():
        await core.reconciler.tick()
        await asyncio.sleep(0.001)
    return await waiting


async def begun(core: Core, asked: Coroutine[Any, Any, SessionView]) -> SessionView:
    """Ask, and leave once the operation is recorded."""
    waiting = asyncio.ensure_future(asked)
    async with asyncio.timeout(DEADLINE_S):
        while core.row().pending is None and not waiting.done():  # noqa: ASYNC110 - nobody is told of a record
            await asyncio.sleep(0.001)
    if waiting.done():
        return await waiting
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    return core.row().view()


CHANGES: dict[str, Callable[[Core], Coroutine[Any, Any, object]]] = {
    "snapshot": lambda c: c.snapshots.snapshot("alice", "dev", SNAPSHOT),
    "rollback": lambda c: c.snapshots.rollback("alice", "dev", RollbackRequest(snapshot="1")),
    "switch": lambda c: c.container_changes.switch("alice", "dev", SwitchRequest(profile="base", fresh=True)),
    "clone": lambda c: c.clones.clone("alice", "dev", CloneRequest(name="two")),
    "flatten": lambda c: c.snapshots.flatten("alice", "dev"),
    "root": lambda c: c.container_changes.root("alice", "dev"),
    "delete": lambda c: c.sessions.delete("alice", "dev"),
}
