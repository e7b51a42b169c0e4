"""The long forms: what the short tests show a few times, shown a hundred times in random order."""

from __future__ import annotations

import json
import random
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from typing import TYPE_CHECKING

import pytest

from tests.lab.services import restart
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
            _reach(user, name, "stopped")
            user.berth("start", name, "--no-wait")
            _settled(user, name)
            done = user.laptop.ssh(name, "echo x >>visits; wc -l <visits")
            visits[user] += 1
            assert int(done.stdout) == visits[user]
    finally:
        site.kill("broker")  # which may still be armed
        restart(site)


def test_a_thousand_starts_at_once_never_make_two_jobs(alice: User, name: str) -> None:
    alice.ok("start", name, "--profile", "base", "--no-wait")
    session_id = alice.show(name)["id"]
    for _ in range(20):
        with ThreadPoolExecutor(50) as pool:
            list(pool.map(lambda _: alice.berth("start", name, "--no-wait", seconds=120), range(50)))
        assert len(alice.jobs(session_id)) <= 1
    _settled(alice, name)


def _reach(user: User, name: str, state: str) -> None:
    """Wait until the session is in that state, also if the controller dies once more on the way there."""

    def there() -> bool:
        if user.site.pid("broker") is None:
            restart(user.site)
        status, body = user.request(f"/v1/sessions/{name}")
        return status == HTTPStatus.OK and json.loads(body)["state"] == state

    wait_for(there, what=f"{name} to be {state}", seconds=120)


def _settled(user: User, name: str) -> None:
    """The session becomes ready with its one job, and each of its starts made one job."""
    _reach(user, name, "ready")
    view = user.show(name)
    assert user.jobs(view["id"]) == [str(view["job_id"])]
    submissions = int(view["generation"].partition(".")[0])
    assert len(user.every_job(view["id"])) == submissions
