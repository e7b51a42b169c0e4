"""The file of grants."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from pydantic import ValidationError

from broker.errors import TooManyError
from broker.schema.web import EndedVisits
from broker.web import grants
from broker.web.grants import Grant, GrantStore
from tests.deadlines import DEADLINE_S
from tests.unit.web.test_entrances import visit

if TYPE_CHECKING:
    from pathlib import Path


def test_grants_outlive_the_process_and_ended_ones_do_not(tmp_path: Path) -> None:
    async def whole() -> None:
        kept, ended = Grant(key="a", visit=visit()), Grant(key="b", visit=visit())
        async with GrantStore(tmp_path / "grants.json") as store:
            store.add(kept)
            store.add(ended)
            store.remove([ended])
        assert list(GrantStore(tmp_path / "grants.json")) == [kept]

    asyncio.run(whole())
    assert [path.name for path in tmp_path.iterdir()] == ["grants.json"]


def test_file_that_cannot_be_written_is_written_later(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def whole() -> None:
        (tmp_path / "grants.new").mkdir()
        async with GrantStore(tmp_path / "grants.json") as store, asyncio.timeout(DEADLINE_S):
            store.add(Grant(key="a", visit=visit()))
            while "grants not saved" not in caplog.text:  # noqa: ASYNC110 - it is a thread that writes
                await asyncio.sleep(0.01)
            (tmp_path / "grants.new").rmdir()
            store.add(Grant(key="b", visit=visit()))
        assert [grant.key for grant in GrantStore(tmp_path / "grants.json")] == ["a", "b"]

    asyncio.run(whole())


def test_ended_grants_are_found_by_visit_delegation_and_time(tmp_path: Path) -> None:
    store = GrantStore(tmp_path / "grants.json")
    one, other = Grant(key="a", visit=visit()), Grant(key="b", visit=visit())
    store.add(one)
    store.add(other)
    assert store.find_ended(EndedVisits(visit_ids=[one.visit.id])) == [one]
    assert store.find_ended(EndedVisits(delegation_ids=[other.visit.delegation_id])) == [other]
    assert store.find_expired(one.visit.expires_at - 1) == []
    assert store.find_expired(max(one.visit.expires_at, other.visit.expires_at)) == [one, other]


def test_message_without_names_is_invalid() -> None:
    with pytest.raises(ValidationError, match="name a delegation or a visit"):
        EndedVisits()


@pytest.mark.parametrize("limit", ["MAX_GRANTS", "MAX_GRANTS_PER_USER"])
def test_number_of_grants_is_limited(limit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grants, limit, 1)
    store, bobs = GrantStore(tmp_path / "grants.json"), visit().model_copy(update={"user": "bob"})
    store.add(Grant(key="a", visit=visit()))
    with pytest.raises(TooManyError):
        store.add(Grant(key="b", visit=visit()))
    if limit == "MAX_GRANTS_PER_USER":
        store.add(Grant(key="c", visit=bobs))


def test_damaged_file_means_no_grants(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "grants.json"
    path.write_text('[{"key": "secret"}]')
    assert list(GrantStore(path)) == []
    assert "grants not restored" in caplog.text
    assert "secret" not in caplog.text


def test_file_that_is_too_long_is_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grants, "MAX_FILE_BYTES", 10)
    path = tmp_path / "grants.json"
    path.write_text(" " * 11)
    assert list(GrantStore(path)) == []
    assert "longer than 10 bytes" in caplog.text
