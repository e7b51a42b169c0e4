"""A new controller migrates the registry under running sessions: they and their jobs stay as they were."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import pytest

from tests.lab.kept import Kept
from tests.lab.services import restart
from tests.site.deploy import SERVICE_ACCOUNT

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.lab.conftest import User
    from tests.lab_cluster import Lab
    from tests.site.deploy import Site

pytestmark = pytest.mark.waits

BEFORE_JOB_ROWS = "0008"
"""The last revision in which the session's row has the facts about its job."""
PYTHON = "/opt/berth/venv/bin/python"
REGISTRY = """
import sys
import sqlalchemy
from alembic import command
from alembic.config import Config
from broker.controller.registry.database import MIGRATIONS
config = Config()
config.set_main_option("script_location", str(MIGRATIONS))
engine = sqlalchemy.create_engine("sqlite:////var/lib/berth/registry.db")
with engine.begin() as connection:
    config.attributes["connection"] = connection
    for revision in sys.argv[1:]:
        command.downgrade(config, revision)
    print(connection.execute(sqlalchemy.text("SELECT version_num FROM alembic_version")).scalar_one())
"""
"""Migrates the registry down to the given revision, if there is one, and prints the revision that it has then."""
CHANGES_ALONE = {"used_at", "idle_since", "gpu_idle_since", "stale_since", "revision", "next_job_reason", "clients"}
"""Fields of a session that change without a request or an event of its job."""


@pytest.mark.soak
def test_a_migration_changes_neither_sessions_nor_their_jobs(
    crashing: Site, alice: User, new_name: Callable[[str], str]
) -> None:
    """The running session has a successor in the queue already, which then takes over."""
    running, stopped = Kept(alice, new_name("running")), Kept(alice, new_name("stopped"))
    stopped.start("--mem=200M")
    stopped.mark("stopped")
    stopped.stop()
    running.start("--mem=200M", "--time=4")  # the successor is asked for after 2 min, and takes over after 4
    running.mark("before")
    alice.ok("set", running.name, "--continue", "always")
    view = alice.until(running.name, _has_successor, what="a successor in the queue", seconds=200)
    before = [_facts(alice, each.name) for each in (running, stopped)]

    _migrate_again(crashing)

    for each, facts in zip((running, stopped), before, strict=True):
        assert _facts(alice, each.name) == facts
    assert view["state"] == "ready"
    assert running.marks() == ["before"] * 2
    assert running.snapshot("live")["consistency"] == "frozen"
    running.mark("after")

    now = alice.carried_on(running.name, view, 300)
    assert (now["job_id"], now["generation"]) == (view["next_job_id"], "2.0")
    assert now["host_key_fingerprint"] == view["host_key_fingerprint"]
    assert running.marks() == ["after"] * 2
    assert set(alice.every_job(now["id"])) == {str(view["job_id"]), str(now["job_id"])}
    assert [job["job_id"] for job in _jobs(alice, running.name)] == [now["job_id"], view["job_id"]]
    running.stop()
    assert alice.jobs(now["id"]) == []
    stopped.again()
    assert (stopped.view()["generation"], stopped.marks()) == ("2.0", ["stopped"] * 2)
    stopped.stop()


def _has_successor(view: dict[str, Any]) -> bool:
    return view["state"] == "ready" and view["next_job_id"] is not None


def _migrate_again(site: Site) -> None:
    """Stop the controller, give it the registry of a version without jobs' rows, and start it."""
    site.kill("broker")
    newest = _revision(site.lab)
    assert _revision(site.lab, BEFORE_JOB_ROWS) == BEFORE_JOB_ROWS
    restart(site)
    assert _revision(site.lab) == newest > BEFORE_JOB_ROWS


def _revision(lab: Lab, *downgrade_to: str) -> str:
    done = lab.run([PYTHON, "-", *downgrade_to], user=SERVICE_ACCOUNT, stdin=REGISTRY.encode())
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode().strip()


def _facts(user: User, session: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the session and its jobs from the API, without the fields that time alone changes."""
    view = user.show(session)
    return {name: value for name, value in view.items() if name not in CHANGES_ALONE}, _jobs(user, session)


def _jobs(user: User, session: str) -> list[dict[str, Any]]:
    status, body = user.request(f"/v1/sessions/{session}/jobs")
    assert status == HTTPStatus.OK, body
    jobs: list[dict[str, Any]] = json.loads(body)["jobs"]
    return jobs
