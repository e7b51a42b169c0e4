"""The long forms: what the short tests show a few times, shown a hundred times in random order."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from tests.lab.test_crashes import START_POINTS
from tests.lab_cluster import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.lab.conftest import User
    from tests.site.deploy import Site

pytestmark = pytest.mark.soak


def test_a_hundred_rounds_of_crashes_leave_every_session_with_its_files(
    site: Site, people: dict[str, User], new_name: Callable[[str], str]
) -> None:
    """Random start, stop and crash; after each round every session has the job that it should have, and its counter."""
    chance = random.Random(20)  # noqa: S311 - repeatable, not secret
    sessions = {user: new_name("soak") for user in people.values()}
    visits = dict.fromkeys(sessions, 0)
    for user, name in sessions.items():
        user.ok("start", name, "--profile", "base", "--mem=300M")
    try:
        for _ in range(100):
            user = chance.choice(list(sessions))
            name = sessions[user]
            site.kill("broker", chance.choice(["TERM", "KILL"]))
            site.start("broker", crash_at=chance.choice([*START_POINTS, "stop.intent-recorded", "stop.cancelled", ""]))
            wait_for(site.api_answers, what="the controller to answer")
            user.berth("stop", name, "--no-wait")
            _revive(site)
            user.wait(name, "stopped", seconds=90)
            user.berth("start", name, "--no-wait")
            _revive(site)
            _settled(user, name)
            done = user.laptop.ssh(name, "echo x >>visits; wc -l <visits")
            visits[user] += 1
            assert int(done.stdout) == visits[user]
    finally:
        _revive(site)


def test_a_thousand_starts_at_once_never_make_two_jobs(alice: User, name: str) -> None:
    alice.ok("start", name, "--profile", "base", "--no-wait")
    session_id = alice.show(name)["id"]
    for _ in range(20):
        with ThreadPoolExecutor(50) as pool:
            list(pool.map(lambda _: alice.berth("start", name, "--no-wait", seconds=120), range(50)))
        assert len(alice.jobs(session_id)) <= 1
    _settled(alice, name)


def _revive(site: Site) -> None:
    if site.pid("broker") is None:
        site.start("broker")
    wait_for(site.api_answers, what="the controller to answer again")


def _settled(user: User, name: str) -> None:
    """The session is ready, also if the controller dies once more on the way there."""

    def ready() -> bool:
        if user.site.pid("broker") is None:
            _revive(user.site)
        done = user.berth("show", name, "--json")
        return done.returncode == 0 and b'"state": "ready"' in done.stdout.replace(b'":"', b'": "')

    wait_for(ready, what=f"{name} to be ready", seconds=120)
    view = user.show(name)
    assert user.jobs(view["id"]) == [str(view["job_id"])]
