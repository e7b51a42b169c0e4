"""`kill -9` at labelled points: after the restart there is no orphan job, no duplicate, and no lost session."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.lab.services import died_and_restarted
from tests.lab_cluster import wait_for

if TYPE_CHECKING:
    from tests.lab.conftest import User
    from tests.site.deploy import Site

START_POINTS = [
    "start.intent-recorded",
    "launcher.prepare-begun",
    "launcher.prepare-done",
    "start.prepared",
    "launcher.submit-begun",
    "launcher.submit-done",
    "start.submitted",
]


def _arm(site: Site, point: str) -> None:
    site.kill("broker")
    site.start("broker", crash_at=point)
    wait_for(site.api_answers, what="the armed controller to answer")


@pytest.mark.parametrize("point", START_POINTS)
def test_a_start_goes_on_after_a_crash_and_makes_one_job(crashing: Site, alice: User, name: str, point: str) -> None:
    _arm(crashing, point)
    alice.berth("start", name, "--profile", "base", "--no-wait")
    died_and_restarted(crashing)
    view = alice.wait(name, "ready")
    assert alice.jobs(view["id"]) == [str(view["job_id"])]
    alice.laptop.ok(name, "true")
    alice.ok("stop", name)
    assert alice.jobs(view["id"]) == []
    assert alice.every_job(view["id"]) == [str(view["job_id"])]


@pytest.mark.parametrize("point", ["stop.intent-recorded", "stop.cancelled"])
def test_a_stop_goes_on_after_a_crash(crashing: Site, alice: User, name: str, point: str) -> None:
    alice.ok("start", name, "--profile", "base")
    session_id = alice.show(name)["id"]
    _arm(crashing, point)
    alice.berth("stop", name, "--no-wait")
    died_and_restarted(crashing)
    alice.wait(name, "stopped")
    assert alice.jobs(session_id) == []


@pytest.mark.parametrize("point", ["delete.intent-recorded", "delete.removed"])
def test_a_deletion_goes_on_after_a_crash(crashing: Site, alice: User, name: str, point: str) -> None:
    alice.ok("start", name, "--profile", "base")
    session_id = alice.show(name)["id"]
    alice.ok("stop", name)
    _arm(crashing, point)
    alice.berth("delete", name, "--yes", "--no-wait")
    died_and_restarted(crashing)
    wait_for(lambda: not alice.knows(name), what="the session to be gone")
    assert alice.site.lab.run(["ls", f"/shared/berth/alice/sessions/{session_id}"]).returncode != 0
