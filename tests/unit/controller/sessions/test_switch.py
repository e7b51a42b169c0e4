"""A switch to another profile, and the persistence policy of a session."""

from __future__ import annotations

import asyncio

import pytest

from broker.errors import ConflictError
from broker.schema.sessions import Persistence, StartRequest
from broker.schema.volumes import SwitchRequest
from profiles.image.store import Store
from tests.fakes.core import Core, publish
from tests.unit.controller.sessions.session_volumes import end_job, read, write


def test_a_switch_keeps_the_home_and_brings_back_the_system_of_before(core: Core) -> None:
    async def scenario() -> None:
        store = Store(core.config.profiles.stores[0])
        extra = "persistence: {home: fresh}\n"
        other = publish(store, "other", "7", extra, content=b"other")
        await core.stopped()
        write(core, "my home")
        write(core, "of base", "system")
        view = await core.container_changes.switch("alice", "dev", SwitchRequest(profile="other"))
        assert (view.profile, view.version, view.digest) == ("other", "7", other.digest)
        assert (core.row().image_path, core.row().image_size) == (str(other.path), other.size)
        assert view.persistence.home == "fresh"
        assert (read(core), read(core, "system")) == ("my home", "")
        assert view.operation is not None
        assert view.operation.undo == "berth rollback dev 1"
        with pytest.raises(ConflictError, match="already"):
            await core.container_changes.switch("alice", "dev", SwitchRequest(profile="other"))
        await core.container_changes.switch("alice", "dev", SwitchRequest(profile="base"))
        assert (read(core), read(core, "system")) == ("my home", "of base")
        assert core.row().policy == Persistence()
        view = await core.container_changes.switch("alice", "dev", SwitchRequest(profile="base", fresh=True))
        assert read(core, "system") == ""
        await core.start()
        files = core.launcher.directories["alice", core.row().id].files
        assert "BERTH_PROFILE=base\n" in files["job.env"]

    asyncio.run(scenario())


def test_the_policy_is_the_profiles_until_its_owner_chooses_one(core: Core) -> None:
    async def scenario() -> None:
        store = Store(core.config.profiles.stores[0])
        publish(store, "kept", "1", "persistence: {system: fresh, keep: [~/x, /opt/y], fresh: [~/z]}\n", b"kept")
        view = await core.start(request=StartRequest(profile="kept"))
        assert view.persistence == Persistence(system="fresh", keep=["~/x", "/opt/y"], fresh=["~/z"])
        env = core.launcher.directories["alice", core.row().id].files["job.env"]
        for line in ("HOME=keep", "SYSTEM=fresh", "KEEP=/home/alice/x,/opt/y", "FRESH=/home/alice/z"):
            assert f"BERTH_{line}\n" in env
        mine = Persistence(home="fresh")
        with pytest.raises(ConflictError, match="with another persistence policy"):
            await core.start(request=StartRequest(persistence=mine))
        end_job(core)
        await core.tick()
        await core.start(request=StartRequest(persistence=mine))
        assert core.row().policy == mine
        end_job(core)
        await core.tick()
        await core.container_changes.switch("alice", "dev", SwitchRequest(profile="base"))
        assert core.row().policy == mine
        await core.container_changes.switch("alice", "dev", SwitchRequest(profile="kept", persistence=Persistence()))
        assert core.row().policy == Persistence()

    asyncio.run(scenario())
