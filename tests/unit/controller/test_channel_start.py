"""Sessions start from channels, and keep the version that they have got."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from broker.errors import BerthError, ConflictError, NotFoundError, RefusedError
from broker.launcher.arguments import OwnImageArguments
from broker.schema.environments import EnvironmentRequest
from broker.schema.sessions import SessionState, StartRequest
from broker.schema.volumes import CloneRequest, SwitchRequest
from profiles.image.channel_changes import ChannelAuthor, ProfileChannels
from profiles.image.channels_file import CHANNELS_FILE, VersionState
from profiles.image.own_store import OwnStore
from profiles.image.store import Store
from tests.fakes.core import BASE, Core, publish
from tests.fakes.sif import squashfs_sif

if TYPE_CHECKING:
    from profiles.image.store import Image

TEAM = ChannelAuthor("alice", 5.0, "tested")


def site_store(core: Core) -> Store:
    """The site's store, with base in the versions 1, 2 and 3."""
    store = Store(Path(core.config.profiles.stores[0]))
    for version in ("2", "3"):
        publish(store, version=version, content=version.encode())
    return store


def promote(store: Store, version: str, channel: str = "stable", name: str = "base") -> None:
    ProfileChannels.read(store, name).promote(version, channel, TEAM)


def mark(store: Store, version: str, state: str, instead: str = "") -> None:
    ProfileChannels.read(store, "base").set_state(version, VersionState(state, 5.0, "a fault", instead), "retire", TEAM)


def of(version: str | None = None, profile: str = "base") -> StartRequest:
    return StartRequest(profile=profile, version=version)


async def stop(core: Core, name: str = "dev") -> None:
    job = core.row(name).job.job_id
    assert job is not None
    core.scheduler.end(job)
    await core.tick()
    assert core.row(name).state is SessionState.STOPPED


def test_each_reference_starts_its_version(core: Core) -> None:
    async def scenario() -> None:
        store = site_store(core)
        await core.start("newest")
        promote(store, "1")
        promote(store, "2")
        promote(store, "3", "candidate")
        for name, version in (("plain", None), *((each, each) for each in ("stable", "candidate", "previous"))):
            await core.start(name, request=of(version))
        await core.start("exact", request=of("1"))
        names = ("newest", "plain", "stable", "candidate", "previous", "exact")
        assert [core.row(name).version for name in names] == ["3", "2", "2", "3", "1", "1"]

    asyncio.run(scenario())


def test_session_keeps_its_version_when_stable_moves(core: Core) -> None:
    async def scenario() -> None:
        store = site_store(core)
        promote(store, "1")
        await core.start()
        promote(store, "2")
        for request in (BASE, of("stable"), of("candidate")):  # what the channel means now is for new sessions
            view = await core.start(request=request)
            assert view.version == "1"
        await stop(core)
        assert (await core.start(request=of("stable"))).version == "1"
        with pytest.raises(ConflictError, match="was created from base@1"):
            await core.start(request=of("2"))

    asyncio.run(scenario())


def test_channel_that_names_nothing_is_told(core: Core) -> None:
    async def scenario() -> None:
        site_store(core)
        with pytest.raises(NotFoundError, match="has no candidate version"):
            await core.start(request=of("candidate"))
        assert core.registry.find("alice", "dev") is None

    asyncio.run(scenario())


def test_retired_version_starts_nothing_new_and_keeps_what_it_has(core: Core) -> None:
    async def scenario() -> None:
        store = site_store(core)
        await core.start(request=of("1"))
        await core.start("other", request=of("2"))
        await stop(core, "other")
        mark(store, "1", "retired")
        with pytest.raises(RefusedError, match=r"base@1 is retired since .*: a fault") as caught:
            await core.start("new", request=of("1"))
        assert "use base@3; sessions that have it keep working" in caught.value.hint
        with pytest.raises(RefusedError, match="is retired"):
            await core.container_changes.switch("alice", "other", SwitchRequest(profile="base", version="1"))
        with pytest.raises(RefusedError, match="is retired"):
            await core.clones.clone("alice", "other", CloneRequest(name="new", profile="base", version="1"))
        with pytest.raises(RefusedError, match="is retired"):
            await core.environments.make("alice", EnvironmentRequest(of="base@1"))
        assert core.registry.find("alice", "new") is None
        await stop(core)
        assert (await core.start()).version == "1"
        listed = (await core.offers.profiles("alice")).profiles
        assert [(each.version, each.newest) for each in listed] == [("2", False), ("3", True)]

    asyncio.run(scenario())


def test_deprecated_version_starts_and_says_so_in_the_list(core: Core) -> None:
    async def scenario() -> None:
        store = site_store(core)
        promote(store, "2")
        mark(store, "1", "deprecated", "2")
        assert (await core.start(request=of("1"))).version == "1"
        old, stable, newest = (await core.offers.profiles("alice")).profiles
        assert old.note.startswith("base@1 is deprecated since ")
        assert old.note.endswith(": a fault; use base@2 instead")
        assert (stable.channels, stable.newest, newest.channels, newest.newest) == (["stable"], True, [], False)

    asyncio.run(scenario())


def test_switch_takes_a_channel(core: Core) -> None:
    async def scenario() -> None:
        store = site_store(core)
        promote(store, "3", "candidate")
        await core.start(request=of("1"))
        await stop(core)
        await core.container_changes.switch("alice", "dev", SwitchRequest(profile="base", version="candidate"))
        await core.settle()
        assert core.row().version == "3"

    asyncio.run(scenario())


def test_damaged_channels_block_no_version(core: Core) -> None:
    async def scenario() -> None:
        store = site_store(core)
        (store.path / "base" / CHANNELS_FILE).write_text('{"format": 1, "channels": []}')
        with pytest.raises(RefusedError, match=r"channels\.json is damaged: `channels` is no object"):
            await core.start()
        assert (await core.start(request=of("1"))).version == "1"

    asyncio.run(scenario())


@pytest.fixture
def own(core: Core, tmp_path: Path) -> OwnStore:
    """Alice's own store with mine@1 and mine@2."""
    core.launcher.own_storage["alice"] = tmp_path / "alice"
    store = OwnStore(tmp_path / "alice/profiles")
    for version in ("1", "2"):
        _publish_own(store, version)
    return store


def _publish_own(store: OwnStore, version: str) -> Image:
    return publish(store, "mine", version, content=squashfs_sif(version.encode()))


def test_own_channels_come_through_the_launcher(core: Core, own: OwnStore) -> None:
    async def scenario() -> None:
        promote(own, "1", name="mine")
        promote(own, "2", "candidate", name="mine")
        for name, version in (("plain", None), ("stable", "stable"), ("candidate", "candidate"), ("exact", "2")):
            await core.start(name, request=of(version, "own/mine"))
        assert [core.row(each).version for each in ("plain", "stable", "candidate", "exact")] == ["1", "1", "2", "2"]
        listed = [each for each in (await core.offers.profiles("alice")).profiles if each.owner == "own"]
        assert [(each.version, each.channels, each.newest) for each in listed] == [("1", ["stable"], True)]
        with pytest.raises(NotFoundError, match="has no previous version"):
            await core.start("previous", request=of("previous", "mine"))

    asyncio.run(scenario())


OWN_FAULTS = {
    "link": lambda file: file.symlink_to("/etc/passwd"),
    "pipe": os.mkfifo,
    "directory": lambda file: file.mkdir(),
    "large": lambda file: file.write_bytes(b" " * 2**20),
    "text": lambda file: file.write_text("\x1b[2J"),
    "path": lambda file: file.write_text('{"format": 1, "channels": {"stable": "../../bob"}}'),
    "gone": lambda file: file.write_text('{"format": 1, "channels": {"stable": "9", "candidate": "9"}}'),
}


@pytest.mark.parametrize("spoil", OWN_FAULTS.values(), ids=OWN_FAULTS)
def test_hostile_own_channels_are_named_and_block_no_version(core: Core, own: OwnStore, spoil: object) -> None:
    async def scenario() -> None:
        assert callable(spoil)
        spoil(own.path / "mine" / CHANNELS_FILE)
        for version in (None, "candidate"):
            with pytest.raises(RefusedError) as caught:
                await core.start(request=of(version, "mine"))
            assert CHANNELS_FILE in caught.value.message or "there is no such version" in caught.value.message
            assert caught.value.message.isprintable()
            assert "root:" not in caught.value.message
        assert (await core.start(request=of("1", "mine"))).version == "1"

    asyncio.run(scenario())


def test_launcher_reads_the_version_that_a_channel_means(core: Core, own: OwnStore) -> None:
    async def scenario() -> None:
        promote(own, "1", name="mine")
        said = [
            (await core.launcher.own_image("alice", OwnImageArguments(profile="mine", version=version))).version
            for version in (None, "stable", "previous", "2", "7")
        ]
        assert said == ["1", "1", "", "2", ""]

    asyncio.run(scenario())


def test_refusals_are_berths_own(core: Core) -> None:
    async def scenario() -> None:
        site_store(core)
        for version in ("candidate", "9"):
            with pytest.raises(BerthError) as caught:
                await core.start(request=of(version))
            assert caught.value.hint

    asyncio.run(scenario())
