"""The profiles and services that the portal offers."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from broker.client.published_port import published_service
from broker.controller.launcher_client.errors import LauncherError
from broker.errors import BerthError, NotFoundError, RefusedError
from broker.schema.sessions import StartRequest
from profiles.image.own_store import OwnStore
from profiles.recipe.service import format_services
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
            {"name": "board", "title": "Board", "description": "Curves", "icon": "chart", "added": False}
        ]
        with pytest.raises(NotFoundError):
            await core.offers.services("bob", "dev")

    asyncio.run(scenario())


def report(*pieces: tuple[str, str, str], run: str = "1.0") -> str:
    """Return run/listed, as the session's job writes it."""
    text = f"{run}\nberth-services 1\n"
    return text + "".join(f"{kind} {len(content.encode())} {name}\n{content}" for kind, name, content in pieces)


MINE = ("file", "mine.yaml", "services: [{name: mine, title: Mine, command: exec mine}]")
PORT = ("published", "-", format_services([published_service(8000, "My page").service]))


def test_services_that_the_user_has_added_are_listed_before_they_are_opened(core: Core) -> None:
    async def scenario() -> None:
        session = await core.ready()
        files = core.launcher.directories["alice", session.id].files

        async def names(text: str) -> list[str]:
            files["listed"] = text
            return [f"{each.name}: {each.title}" for each in (await core.offers.services("alice", "dev")).services]

        assert await names(report(MINE, PORT, run=session.generation)) == ["mine: Mine", "port-8000: My page"]
        assert await names(report(MINE, PORT, run="9.9")) == ["mine: Mine"]  # ports end with the run
        assert await names(report(("file", "bad.yaml", "services: 7"), MINE)) == ["mine: Mine"]
        for wrong in ("", "1.0\n", "no list\n", report(MINE)[:-1], report(("file", "x", "services: ["))):
            assert await names(wrong) == []
        files["listed"] = report(MINE)
        core.launcher.failures["listed_services"] = LauncherError("files", "no such disk")
        assert (await core.offers.services("alice", "dev")).services == []

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
