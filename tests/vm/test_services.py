"""The shipped units under systemd: checked, restarted, reloaded and killed, with a session and a connection open."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest

from slurm.lab.progress import wait_until
from tests.site import guest_site
from tests.vm.line import line
from tests.vm.person import SECONDS

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


@pytest.mark.short("ext4")
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
            seconds=SECONDS,
            what="new workers of the gateway",
            every=1,
        )
        connection.answers()
        assert alice.inside(dev, "echo new") == "new"
    same_job(alice, dev, before["job_id"])


def test_people_come_in_again_after_a_restart_of_the_gateway(guest: Guest, alice: Person, dev: str) -> None:
    """Connections end with it, sessions do not."""
    job = alice.show(dev)["job_id"]
    guest.sh("systemctl restart berth-gateway")
    assert alice.inside(dev, "echo well") == "well"
    same_job(alice, dev, job)


@pytest.mark.parametrize("process", PROCESSES)
def test_site_serves_again_after_a_process_is_killed(guest: Guest, alice: Person, dev: str, process: str) -> None:
    job = alice.show(dev)["job_id"]
    before = pids(guest, process)
    killed = min(before)
    guest.sh(f"kill -KILL {killed}")

    def replaced() -> bool:
        now = pids(guest, process)
        return killed not in now and len(now) == len(before)

    wait_until(replaced, seconds=SECONDS, what=f"another {process}", every=1)
    guest_site.wait_for_services(guest)
    same_job(alice, dev, job)
    assert alice.inside(dev, "echo well") == "well"


class TestTheJournal:
    def test_warnings_are_found_by_their_priority(self, guest: Guest, alice: Person, dev: str) -> None:
        """The controller warns that Slurm is away, the gateway that a worker has ended."""
        assert alice.show(dev)["state"] == "ready"
        since = guest.sh("date +%s")
        guest.sh("systemctl stop slurmctld")
        try:
            wait_until(
                lambda: ("berth-controller", "Slurm does not answer") in warnings(guest, since),
                seconds=SECONDS,
                what="the controller's warning",
                every=1,
            )
        finally:
            guest.sh("systemctl start slurmctld", seconds=SECONDS)
        guest.sh(f"kill -KILL {min(pids(guest, 'gateway worker'))}")
        wait_until(
            lambda: any(who == "berth-gateway" and "worker process" in text for who, text in warnings(guest, since)),
            seconds=SECONDS,
            what="the gateway's error",
            every=1,
        )
        alice.until(dev, lambda view: view["stale_since"] is None, what="an answer of Slurm's")

    def test_each_line_has_the_name_of_its_process(self, guest: Guest, alice: Person, dev: str) -> None:
        assert alice.inside(dev, "echo well") == "well"
        expected = {"launcher": "berth-launcher", "controller": "berth-controller", "gateway": "berth-gateway"}
        expected["gateway worker"] = "berth-gateway"
        names: dict[str, set[str]] = {}
        for entry in entries(guest):
            names.setdefault(entry["_PID"], set()).add(entry["SYSLOG_IDENTIFIER"])
        for process, name in expected.items():
            for pid in pids(guest, process):
                assert names.get(pid, {name}) == {name}, process
        assert {name for each in names.values() for name in each} >= {"berth-controller", "berth-gateway"}
        assert not any("httpx" in entry["MESSAGE"] for entry in entries(guest))


def entries(guest: Guest, *words: str) -> list[dict[str, Any]]:
    """Return what Berth's processes have written to the journal; what systemd says of them is left out."""
    lines = guest.run(
        ["journalctl", "--no-pager", "-b", "-o", "json", "-u", "berth", "-u", "berth-gateway", *words]
    ).stdout
    found = [json.loads(line) for line in lines.splitlines()]
    return [entry for entry in found if entry["SYSLOG_IDENTIFIER"] not in {"systemd", "(install)"}]


def warnings(guest: Guest, since: str) -> set[tuple[str, str]]:
    """Return the entries of warnings and worse, each with its process; of a text with details what comes before."""
    found = entries(guest, "-p", "warning", f"--since=@{since}")
    return {(entry["SYSLOG_IDENTIFIER"], _beginning(entry["MESSAGE"])) for entry in found}


def _beginning(message: str) -> str:
    return re.sub(r"^[A-Z]+ [\w.]+: ", "", message).split(":")[0]


def pids(guest: Guest, process: str) -> set[str]:
    """Return the ids of the processes of a kind that run."""
    return set(guest.run(["sh", "-c", PROCESSES[process]]).stdout.decode().split()) - {"0"}


def same_job(alice: Person, session: str, job: int) -> None:
    """The session is ready in the very job it had, and no other carries its name."""
    view = alice.until(session, lambda view: bool(view["state"] == "ready"), what=f"{session} to be ready")
    assert view["job_id"] == job
    assert alice.guest.sh(f"squeue -h -o %i --name=berth-{view['id']}").split() == [str(job)]
