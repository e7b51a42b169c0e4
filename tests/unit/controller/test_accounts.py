"""Names of accounts while the name service is well, slow or away."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

from broker.controller import accounts
from broker.controller.accounts import AccountCache
from tests.deadlines import DEADLINE_S

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection

    import pytest

SUBORDINATE = 2_000_000
"""The first of some uids that no account of this machine has."""


class NameService:
    """Stands in for getpwuid(3), which cannot be made slow or broken here."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.names: dict[int, str] = {1000: "alice"}
        self.asked: list[int] = []
        self.unanswered: Collection[int] = ()
        """Questions about these wait for `answer`."""
        self.answer = threading.Event()
        monkeypatch.setattr(accounts, "_name_of", self)

    def __call__(self, uid: int) -> str | None:
        self.asked.append(uid)
        if uid in self.unanswered:
            assert self.answer.wait(DEADLINE_S)
        return self.names.get(uid)


def with_cache(scene: Callable[[AccountCache], Awaitable[None]]) -> None:
    async def whole() -> None:
        async with AccountCache() as cache, asyncio.timeout(DEADLINE_S):
            await scene(cache)

    asyncio.run(whole())


def test_an_account_is_looked_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    service = NameService(monkeypatch)

    async def scene(cache: AccountCache) -> None:
        found = await asyncio.gather(*(cache.name(uid) for uid in [1000, SUBORDINATE] * 50))
        assert found == ["alice", None] * 50
        assert sorted(service.asked) == [1000, SUBORDINATE]
        assert cache.is_known(1000)
        assert cache.is_missing(SUBORDINATE)

    with_cache(scene)


def test_an_outage_of_the_name_service_locks_out_no_known_user(monkeypatch: pytest.MonkeyPatch) -> None:
    service = NameService(monkeypatch)
    monkeypatch.setattr(accounts, "FRESH_S", 0.0)
    monkeypatch.setattr(accounts, "RETRY_S", 0.0)
    monkeypatch.setattr(accounts, "PATIENCE_S", 0.05)

    async def scene(cache: AccountCache) -> None:
        assert await cache.name(1000) == "alice"
        service.names.clear()
        assert await cache.name(1000) == "alice", "it answers that there is none, as for any uid in an outage"
        service.unanswered = {1000}
        assert await cache.name(1000) == "alice", "it does not answer"
        service.answer.set()
        monkeypatch.setattr(accounts, "GRACE_S", 0.0)
        assert await cache.name(1000) is None, "the account was deleted long ago"

    with_cache(scene)


def test_a_uid_that_changes_hands_has_its_new_name(monkeypatch: pytest.MonkeyPatch) -> None:
    service = NameService(monkeypatch)
    monkeypatch.setattr(accounts, "FRESH_S", 0.0)

    async def scene(cache: AccountCache) -> None:
        assert await cache.name(1000) == "alice"
        service.names[1000] = "bob"
        assert await cache.name(1000) == "bob"

    with_cache(scene)


def test_uids_without_accounts_are_forgotten_beyond_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    NameService(monkeypatch)
    monkeypatch.setattr(accounts, "MAX_MISSING", 100)

    async def scene(cache: AccountCache) -> None:
        for uid in range(SUBORDINATE, SUBORDINATE + 250):
            assert await cache.name(uid) is None
        assert len(cache._missing) == 100
        assert cache._known == {}

    with_cache(scene)
