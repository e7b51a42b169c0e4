"""The keys that open a user's sessions: read as that user, cached briefly, never more than the user gave."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import asyncssh
import pytest

import broker.controller.credentials.authorized_keys
from broker.controller.credentials.authorized_keys import AuthorizedKeys
from broker.controller.launcher_client.errors import LauncherError
from broker.controller.registry.async_registry import AsyncRegistry
from broker.controller.registry.database import open_registry
from broker.errors import ConflictError, InvalidInputError, NotFoundError, RefusedError
from tests.fakes.launcher import FakeLauncher
from tests.fakes.scheduler import FakeScheduler

if TYPE_CHECKING:
    from pathlib import Path

    from broker.controller.registry.registry import Registry
    from tests.fakes.core import Clock


def key(comment: str = "") -> str:
    made = asyncssh.generate_private_key("ssh-ed25519", comment=comment)
    return made.export_public_key().decode().strip()


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return open_registry(f"sqlite:///{tmp_path / 'registry.db'}")


def make(registry: Registry) -> tuple[AuthorizedKeys, FakeLauncher]:
    launcher = FakeLauncher(FakeScheduler())
    return AuthorizedKeys(AsyncRegistry(registry), launcher), launcher


def test_the_file_and_what_was_added_count_each_key_once(registry: Registry) -> None:
    async def scenario() -> None:
        keys, launcher = make(registry)
        in_file, added = key("laptop"), key("desk")
        launcher.authorized_keys["alice"] = f"# mine\n{in_file}\nrestrict {key()}\n"
        assert (await keys.add("alice", added)).source == "berth"
        await keys.add("alice", in_file)
        assert await keys.lines("alice") == [in_file, added]
        views = {view.comment: view.source for view in await keys.views("alice")}
        assert views == {"laptop": "berth", "desk": "berth"}
        assert await keys.lines("bob") == []

    asyncio.run(scenario())


def test_a_key_is_added_and_removed_by_its_owner_alone(registry: Registry) -> None:
    async def scenario() -> None:
        keys, _ = make(registry)
        added = await keys.add("alice", key())
        with pytest.raises(ConflictError):
            await keys.add("alice", (await keys.lines("alice"))[0])
        with pytest.raises(NotFoundError):
            await keys.remove("bob", added.fingerprint)
        assert await keys.remove("alice", added.fingerprint) == added
        assert await keys.lines("alice") == []
        for text in ("", "ssh-ed25519 AAAA", "two\nlines"):
            with pytest.raises(InvalidInputError):
                await keys.add("alice", text)

    asyncio.run(scenario())


def test_the_number_of_added_keys_has_a_bound(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        monkeypatch.setattr(broker.controller.credentials.authorized_keys, "MAX_ADDED", 2)
        keys, _ = make(registry)
        await keys.add("alice", key())
        await keys.add("alice", key())
        with pytest.raises(RefusedError, match="2 keys"):
            await keys.add("alice", key())
        await keys.add("bob", key())

    asyncio.run(scenario())


def test_a_burst_of_logins_costs_one_look(registry: Registry, clock: Clock) -> None:
    async def scenario() -> None:
        keys, launcher = make(registry)
        launcher.authorized_keys["alice"] = key()
        await asyncio.gather(*(keys.lines("alice") for _ in range(20)))
        assert launcher.asked == ["keys alice"]
        launcher.authorized_keys["alice"] = ""
        clock.now += broker.controller.credentials.authorized_keys.CACHE_TTL_S - 0.1
        assert len(await keys.lines("alice")) == 1
        clock.now += 0.2
        assert await keys.lines("alice") == []

    asyncio.run(scenario())


def test_a_machine_that_has_just_booted_reads_the_file_too(registry: Registry, clock: Clock) -> None:
    async def scenario() -> None:
        clock.now = 1.0
        keys, launcher = make(registry)
        launcher.authorized_keys["alice"] = key()
        assert len(await keys.lines("alice")) == 1

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("kind", "left"), [("timed-out", 1), ("gone", 1), ("files", 1), ("missing", 0), ("refused", 0)]
)
def test_a_file_that_cannot_be_read_now_is_taken_as_it_was_and_one_that_is_gone_is_not(
    registry: Registry, clock: Clock, kind: str, left: int
) -> None:
    async def scenario() -> None:
        keys, launcher = make(registry)
        launcher.authorized_keys["alice"] = key()
        await keys.lines("alice")
        clock.now += 60
        launcher.failures["keys"] = LauncherError(kind, "no")
        assert len(await keys.lines("alice")) == left

    asyncio.run(scenario())


def test_no_answer_at_the_first_look_is_not_an_empty_file(registry: Registry) -> None:
    async def scenario() -> None:
        keys, launcher = make(registry)
        launcher.authorized_keys["alice"] = key()
        launcher.failures["keys"] = LauncherError("timed-out", "no")
        with pytest.raises(LauncherError):
            await keys.lines("alice")
        launcher.failures.clear()
        assert len(await keys.lines("alice")) == 1

    asyncio.run(scenario())


def test_made_up_names_do_not_fill_the_memory(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        monkeypatch.setattr(broker.controller.credentials.authorized_keys, "MAX_USERS", 10)
        keys, launcher = make(registry)
        launcher.failures["keys"] = LauncherError("missing", "there is no such user")
        for number in range(50):
            assert await keys.lines(f"user{number}") == []
        assert len(keys._files) <= 10
        assert len(keys._reading) == 0

    asyncio.run(scenario())
