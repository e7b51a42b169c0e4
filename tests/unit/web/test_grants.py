"""The file of grants."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.schema.web import EndedVisits
from broker.web.grants import Grant, GrantStore
from tests.unit.web.test_entrances import visit

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_grants_outlive_the_process_and_ended_ones_do_not(tmp_path: Path) -> None:
    store, kept, ended = (
        GrantStore(tmp_path / "grants.json"),
        Grant(key="a", visit=visit()),
        Grant(key="b", visit=visit()),
    )
    store.add(kept)
    store.add(ended)
    store.remove([ended])
    assert list(GrantStore(tmp_path / "grants.json")) == [kept]
    assert [path.name for path in tmp_path.iterdir()] == ["grants.json"]


def test_ended_grants_are_found_by_visit_delegation_and_time(tmp_path: Path) -> None:
    store = GrantStore(tmp_path / "grants.json")
    one, other = Grant(key="a", visit=visit()), Grant(key="b", visit=visit())
    store.add(one)
    store.add(other)
    assert store.ended(EndedVisits(visit_ids=[one.visit.id])) == [one]
    assert store.ended(EndedVisits(delegation_ids=[other.visit.delegation_id])) == [other]
    assert store.ended(EndedVisits()) == [one, other]
    assert store.expired(one.visit.expires_at - 1) == []
    assert store.expired(max(one.visit.expires_at, other.visit.expires_at)) == [one, other]


def test_damaged_file_means_no_grants(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "grants.json"
    path.write_text('[{"key": "secret"}]')
    assert list(GrantStore(path)) == []
    assert "grants not restored" in caplog.text
    assert "secret" not in caplog.text
