"""Default deny: every user, session and permission, from the one function that everything asks."""

from __future__ import annotations

import asyncio
import itertools
import json
from typing import TYPE_CHECKING

import pytest

from broker.config.settings import WatchSettings
from broker.controller.open_connections import OpenConnections
from broker.controller.reconcile.observed_slurm import ObservedSlurm
from broker.controller.registry.async_registry import AsyncRegistry
from broker.controller.registry.database import open_registry
from broker.controller.registry.registry import EventEntry
from broker.controller.sessions.access import allowed, resolve
from broker.controller.sessions.watch import SessionWatches
from broker.controller.wakeup import ChangeNotifier
from broker.errors import NotFoundError
from broker.schema.permissions import Permission
from broker.schema.states import SessionState
from tests.fakes.rows import make_session as session

if TYPE_CHECKING:
    from pathlib import Path

USERS = ("alice", "bob", "carol")


@pytest.fixture
def registry(tmp_path: Path) -> AsyncRegistry:
    made = open_registry(f"sqlite:///{tmp_path / 'registry.db'}")
    for owner in USERS[:2]:
        made.create(session(owner), EventEntry(owner, "start"))
    return AsyncRegistry(made)


@pytest.mark.parametrize(("user", "owner", "permission"), list(itertools.product(USERS, USERS[:2], Permission)))
def test_the_owner_may_and_nobody_else(registry: AsyncRegistry, user: str, owner: str, permission: Permission) -> None:
    assert allowed(user, session(owner), permission) is (user == owner)
    if user == owner:
        assert asyncio.run(resolve(registry, user, owner, "dev", permission)).owner == owner
    else:
        with pytest.raises(NotFoundError):
            asyncio.run(resolve(registry, user, owner, "dev", permission))


@pytest.mark.parametrize("user", USERS)
def test_a_watch_has_the_sessions_of_its_user_only(registry: AsyncRegistry, user: str) -> None:
    """Also if another user's session is reported as changed: a user may give a job any session's name."""

    async def scenario() -> None:
        for owner in USERS[:2]:
            row = (await registry.sessions_of(owner))[0]
            await registry.update(row.id, lambda _: ({"state": SessionState.STOPPED}, None))
        changes = ChangeNotifier()
        watches = SessionWatches(
            settings=WatchSettings(),
            registry=registry,
            observed=ObservedSlurm(changes, OpenConnections(changes)),
            changes=changes,
        )
        stream = await watches.open(user, "")
        stopping = asyncio.Event()
        events = stream.events(stopping)
        owners = {view["owner"] for view in json.loads((await anext(events)).split(b"data: ")[1])["sessions"]}
        assert owners == {user} & set(USERS[:2])
        for owner in USERS[:2]:
            changes.recorded((await registry.sessions_of(owner))[0].id, user)
        stopping.set()
        assert [part async for part in events] == []
        stream.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("permission", list(Permission))
def test_a_refusal_does_not_tell_whether_the_session_exists(registry: AsyncRegistry, permission: Permission) -> None:
    with pytest.raises(NotFoundError) as there:
        asyncio.run(resolve(registry, "carol", "alice", "dev", permission))
    with pytest.raises(NotFoundError) as nowhere:
        asyncio.run(resolve(registry, "carol", "alice", "nowhere", permission))
    assert there.value.message.replace("dev", "NAME") == nowhere.value.message.replace("nowhere", "NAME")
    assert there.value.hint == nowhere.value.hint
