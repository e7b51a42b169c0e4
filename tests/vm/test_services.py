"""The shipped units under systemd: checked, restarted, reloaded and killed, with a session and a connection open."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from slurm.lab.progress import wait_until
from tests.site import guest_site
from tests.vm.line import line

if TYPE_CHECKING:
    from slurm.vm.guest import Guest
    from tests.vm.person import Person

pytestmark = pytest.mark.vm

UNITS = {"berth": 3.5, "berth-gateway": 1.5}
"""Each unit, and the exposure that `systemd-analyze security` may find at most."""

PROCESSES = {
    "launcher": "systemctl show -P MainPID berth",
    "controller": "pgrep -u berth -f 'berth-cli controller$'",
    "gateway": "systemctl show -P MainPID berth-gateway",
    "gateway worker": "pgrep -u berth-gateway -f -- --worker",
}
"""Each kind of process, and how to find those of it."""


def test_shipped_units_pass_systemds_own_check(guest: Guest) -> None:
    for unit in UNITS:
        done = guest.run(["systemd-analyze", "verify", f"{unit}.service"])
        assert (done.returncode, done.stdout + done.stderr) == (0, b"")


@pytest.mark.parametrize("unit", UNITS)
def test_exposure_is_not_above_the_limit(guest: Guest, unit: str) -> None:
    said = guest.sh(f"systemd-analyze security --no-pager {unit}.service")
    level = re.search(r"exposure level for \S+: ([0-9.]+)", said)
    assert level is not None, said[-500:]
    assert float(level[1]) <= UNITS[unit]


def test_connection_lives_through_restart_of_berth_and_reload_of_the_gateway(
    guest: Guest, alice: Person, dev: str
) -> None:
    before = alice.show(dev)
    with line(alice, dev) as connection:
        guest.sh("systemctl restart berth")
        guest_site.wait_for_services(guest)
        connection.answers()
        workers = pids(guest, "gateway worker")
        guest.sh("systemctl reload berth-gateway")
        wait_until(
            lambda: bool(pids(guest, "gateway worker") - workers),
            seconds=120,
            what="new workers of the gateway",
            every=1,
        )
        connection.answers()
        assert alice.inside(dev, "echo new") == "new"
    same_job(alice, dev, before["job_id"])


@pytest.mark.parametrize("process", PROCESSES)
def test_site_serves_again_after_a_process_is_killed(guest: Guest, alice: Person, dev: str, process: str) -> None:
    job = alice.show(dev)["job_id"]
    before = pids(guest, process)
    killed = min(before)
    guest.sh(f"kill -KILL {killed}")

    def replaced() -> bool:
        now = pids(guest, process)
        return killed not in now and len(now) == len(before)

    wait_until(replaced, seconds=120, what=f"another {process}", every=1)
    guest_site.wait_for_services(guest)
    same_job(alice, dev, job)
    assert alice.inside(dev, "echo well") == "well"


def pids(guest: Guest, process: str) -> set[str]:
    """Return the ids of the processes of a kind that run."""
    return set(guest.run(["sh", "-c", PROCESSES[process]]).stdout.decode().split()) - {"0"}


def same_job(alice: Person, session: str, job: int) -> None:
    """The session is ready in the very job it had, and no other carries its name."""
    view = alice.until(session, lambda view: bool(view["state"] == "ready"), what=f"{session} to be ready")
    assert view["job_id"] == job
    assert alice.guest.sh(f"squeue -h -o %i --name=berth-{view['id']}").split() == [str(job)]
