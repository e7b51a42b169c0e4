"""The profiles and services that the portal offers."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from broker.controller.launcher_client.errors import LauncherError
from broker.errors import BerthError, NotFoundError, RefusedError
from broker.schema.sessions import StartRequest
from profiles.image.own_store import OwnStore
from tests.fakes.core import publish
from tests.fakes.sif import squashfs_sif

if TYPE_CHECKING:
    from pathlib import Path

    from tests.fakes.core import Core

SERVICES = """
services:
  - name: board
    title: Board
    description: Curves
    icon: chart
    command: board
"""


def _listed(core: Core, user: str = "alice") -> list[tuple[str, str, bool]]:
    profiles = asyncio.run(core.offers.profiles(user)).profiles
    return [(f"{each.owner}/{each.name}", each.version, each.newest) for each in profiles]


def test_versions_of_site_are_listed_oldest_first(core: Core) -> None:
    publish(core.stores.stores[0], version="10")
    publish(core.stores.stores[0], version="9")
    assert _listed(core) == [("site/base", "1", False), ("site/base", "9", False), ("site/base", "10", True)]


def test_newest_versions_of_own_profiles_are_listed_for_their_owner_alone(core: Core, tmp_path: Path) -> None:
    core.launcher.own_storage["alice"] = tmp_path / "alice"
    own = OwnStore(tmp_path / "alice/profiles")
    for name, version in (("mine", "1"), ("mine", "2"), ("other", "1")):
        publish(own, name, version, content=squashfs_sif(f"{name}{version}".encode()))
    assert _listed(core) == [("site/base", "1", True), ("own/mine", "2", True), ("own/other", "1", True)]
    assert _listed(core, "bob") == [("site/base", "1", True)]


def test_damaged_own_profile_is_left_out(core: Core, tmp_path: Path) -> None:
    core.launcher.own_storage["alice"] = tmp_path / "alice"
    own = OwnStore(tmp_path / "alice/profiles")
    for name in ("good", "bad"):
        publish(own, name, content=squashfs_sif(name.encode()))
    (own.path / "bad/1/image.json").write_text("{")
    assert [name for name, _, _ in _listed(core)] == ["site/base", "own/good"]


def test_launcher_that_is_away_leaves_profiles_of_site(core: Core) -> None:
    core.launcher.failures["own_image"] = LauncherError("gone", "the launcher is away")
    assert _listed(core) == [("site/base", "1", True)]


def test_services_are_those_of_the_session_image(core: Core) -> None:
    async def scenario() -> None:
        publish(core.stores.stores[0], version="2", extra=SERVICES)
        await core.start(request=StartRequest(profile="base", version="2"))
        found = (await core.offers.services("alice", "dev")).services
        assert [each.model_dump() for each in found] == [
            {"name": "board", "title": "Board", "description": "Curves", "icon": "chart"}
        ]
        with pytest.raises(NotFoundError):
            await core.offers.services("bob", "dev")

    asyncio.run(scenario())


def test_missing_image_of_session_is_said(core: Core) -> None:
    async def scenario() -> None:
        await core.start()
        (core.stores.stores[0].path / "base").rename(core.stores.stores[0].path / ".gone")
        with pytest.raises(RefusedError):
            await core.offers.services("alice", "dev")
        core.launcher.failures["own_image"] = LauncherError("gone", "the launcher is away")
        with pytest.raises(BerthError, match="could not read the profile of dev"):
            await core.offers.services("alice", "dev")

    asyncio.run(scenario())
