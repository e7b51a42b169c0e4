"""The table in which all workers count what each user has."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from broker.gateway import usage
from broker.gateway.usage import Resource, Usage, UsageTable

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def table() -> Iterator[UsageTable]:
    made = UsageTable.create()
    yield made
    made.memory.close()
    os.close(made.descriptor)


def test_two_workers_count_the_same_user_together(table: UsageTable) -> None:
    one, other = Usage(table), Usage(UsageTable(table.descriptor))
    assert one.take("alice", Resource.FORWARDS, 2, 3)
    assert other.take("alice", Resource.FORWARDS, 1, 3)
    assert not one.take("alice", Resource.FORWARDS, 1, 3)
    assert not other.take("alice", Resource.FORWARDS, 1, 3)
    assert other.take("bob", Resource.FORWARDS, 3, 3)
    assert other.take("alice", Resource.CONNECTIONS, 1, 1)
    assert one.total("alice", Resource.FORWARDS) == other.total("alice", Resource.FORWARDS) == 3
    one.give_back("alice", Resource.FORWARDS, 1)
    assert other.take("alice", Resource.FORWARDS, 1, 3)


def test_ended_worker_counts_no_more_and_leaves_its_place(table: UsageTable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage, "MAX_WORKERS", 2)
    one = Usage(table)
    child = os.fork()
    if not child:
        Usage(UsageTable(table.descriptor)).take("alice", Resource.FORWARDS, 5, 9)
        os._exit(0)
    os.waitpid(child, 0)
    assert one.total("alice", Resource.FORWARDS) == 5
    table.release(child)
    assert one.total("alice", Resource.FORWARDS) == 0
    other = Usage(table)
    assert other.take("alice", Resource.FORWARDS, 1, 1)
    assert one.total("alice", Resource.FORWARDS) == 1


def test_worker_that_ended_unseen_counts_no_more_after_reload(table: UsageTable) -> None:
    one = Usage(table)
    assert one.take("alice", Resource.FORWARDS, 1, 9)
    child = os.fork()
    if not child:
        Usage(UsageTable(table.descriptor)).take("alice", Resource.FORWARDS, 5, 9)
        os._exit(0)
    os.waitpid(child, 0)
    table.keep_only([os.getpid()])
    assert one.total("alice", Resource.FORWARDS) == 1
    assert [pid for _, pid in table.sections()] == [os.getpid()]


def test_users_who_have_nothing_take_no_place(table: UsageTable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage, "MAX_USERS_PER_WORKER", 3)
    one, other = Usage(table), Usage(table)
    for number in range(20):
        assert one.take(f"user{number}", Resource.CONNECTIONS, 1, 1)
        one.give_back(f"user{number}", Resource.CONNECTIONS, 1)
    for number in range(5):
        assert one.take(f"user{number}", Resource.CONNECTIONS, 1, 1)
        assert not one.take(f"user{number}", Resource.CONNECTIONS, 1, 1), (
            "those beyond the table are counted here alone"
        )
    assert [other.total(f"user{number}", Resource.CONNECTIONS) for number in range(5)] == [1, 1, 1, 0, 0]


def test_worker_without_a_section_counts_by_itself(
    table: UsageTable, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(usage, "MAX_WORKERS", 1)
    Usage(table)
    alone = Usage(table)
    assert "counts what its users have by itself" in caplog.text
    assert alone.take("alice", Resource.FORWARDS, 1, 1)
    assert not alone.take("alice", Resource.FORWARDS, 1, 1)


def test_what_is_no_table_is_refused() -> None:
    reading, writing = os.pipe()
    for descriptor in (reading, writing, 9999):
        with pytest.raises(ValueError, match="is no table"):
            UsageTable(descriptor)
    os.close(reading)
    os.close(writing)
