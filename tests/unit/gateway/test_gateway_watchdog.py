"""The detection of workers that hang, by the beats that they count in the shared table."""

from __future__ import annotations

import os

from broker.gateway.usage import Usage, UsageTable
from broker.gateway.watchdog import LOOKS, Watchdog

ME = os.getpid()
"""The only worker of these tests."""


def test_worker_that_stands_still_hangs_after_so_many_looks() -> None:
    table = UsageTable.create()
    usage, watchdog = Usage(table), Watchdog(table, 1.0)
    usage.beat()
    assert [watchdog.look([ME]) for _ in range(LOOKS)] == [[]] * LOOKS
    assert watchdog.look([ME]) == [ME]


def test_worker_that_beats_in_time_does_not_hang() -> None:
    table = UsageTable.create()
    usage, watchdog = Usage(table), Watchdog(table, 1.0)
    for _ in range(3):
        usage.beat()
        assert [watchdog.look([ME]) for _ in range(LOOKS)] == [[]] * LOOKS


def test_worker_that_has_not_begun_is_left_alone() -> None:
    table = UsageTable.create()
    assert Usage(table)
    watchdog = Watchdog(table, 1.0)
    assert [watchdog.look([ME]) for _ in range(3 * LOOKS)] == [[]] * 3 * LOOKS


def test_section_of_an_ended_worker_begins_anew() -> None:
    table = UsageTable.create()
    Usage(table).beat()
    table.release(ME)
    assert Usage(table)
    ((index, pid),) = table.sections()
    assert pid == ME
    assert table.beats(index) == 0


def test_processes_that_are_no_workers_of_the_master_are_not_looked_at() -> None:
    table = UsageTable.create()
    usage, watchdog = Usage(table), Watchdog(table, 1.0)
    usage.beat()
    assert [watchdog.look([]) for _ in range(3 * LOOKS)] == [[]] * 3 * LOOKS
