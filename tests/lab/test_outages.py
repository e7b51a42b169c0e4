"""Everything that Berth stands on goes away in turn, while sessions of three people run and each starts another one.

No session is wrongly dead, none has two jobs, what is known no better is shown as such, and what was asked for in the
meantime comes true once it can.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from broker.errors import ExitCode
from slurm.lab import daemons
from slurm.lab.spec import COMPUTE, LOGIN, NODES
from tests.lab.services import restart
from tests.lab.test_lost_jobs import plug, serves
from tests.lab_cluster import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from tests.lab.conftest import User
    from tests.lab_cluster import Lab
    from tests.site.deploy import Site

pytestmark = pytest.mark.waits

SMALL = ("--mem=200M", "-t", "60")


@dataclass(frozen=True)
class Running:
    """One user's session as it was before anything happened."""

    user: User
    name: str
    view: dict[str, Any]


@pytest.fixture(scope="module")
def running(people: dict[str, User]) -> Iterator[list[Running]]:
    """A ready session of each of three people, with a file in it, all on nodes that stay up."""
    found: list[Running] = []
    try:
        for user in people.values():
            name = f"lives-{user.name}"
            user.ok("start", name, "--profile", "base", "--exclude=c3", *SMALL, seconds=120)
            found.append(Running(user, name, user.show(name)))
            user.laptop.ok(name, "echo kept >file")
        found[0].user.site.lab.wait_until_saved(found[-1].view["endpoint"]["fingerprint"])
        yield found
    finally:
        for each in found:
            each.user.remove(each.name)


@dataclass(frozen=True)
class Outage:
    """A part that is away for a time, and the visible effects."""

    begin: Callable[[Lab], AbstractContextManager[object]]
    stale: bool
    """Slurm cannot be asked, which is to be seen."""


@contextlib.contextmanager
def _without_on_nodes(lab: Lab, daemon: str) -> Iterator[None]:
    with lab.without(daemon, node="c1"), lab.without(daemon, node="c2"):
        yield


@contextlib.contextmanager
def _node_down(lab: Lab, node: str) -> Iterator[None]:
    plug(lab, node, "down")
    try:
        yield
    finally:
        plug(lab, node, "up")
        wait_for(lambda: serves(lab, node), what=f"{node} to serve again", seconds=90)


OUTAGES = {
    "slurmctld hangs": Outage(lambda lab: lab.paused("slurmctld"), stale=True),
    "slurmctld is dead": Outage(lambda lab: lab.without("slurmctld"), stale=True),
    "slurmdbd is gone": Outage(lambda lab: lab.without("slurmdbd"), stale=False),
    "MUNGE is gone on the login node": Outage(lambda lab: lab.without("munged"), stale=True),
    "MUNGE is gone on the nodes": Outage(lambda lab: _without_on_nodes(lab, "munged"), stale=False),
    "slurmd is gone on the nodes": Outage(lambda lab: _without_on_nodes(lab, "slurmd"), stale=False),
    "a node is down": Outage(lambda lab: _node_down(lab, "c3"), stale=False),
}


@pytest.mark.parametrize("which", OUTAGES)
def test_sessions_live_through_it_and_starts_come_true(
    running: list[Running], new_name: Callable[[str], str], which: str
) -> None:
    outage, lab = OUTAGES[which], running[0].user.site.lab
    new = new_name("meanwhile")
    with outage.begin(lab):
        if outage.stale:
            for each in running:
                wait_for(lambda each=each: _stale(each), what="stale data to be shown as stale", seconds=60)  # type: ignore[misc]  # mypy cannot infer a lambda with a default
        with ThreadPoolExecutor(3) as pool:
            asked = list(pool.map(lambda each: _start(each.user, new), running))
        assert asked == [0, 0, 0]
        for each in running:
            assert each.user.show(each.name)["state"] == "ready"
            assert each.user.laptop.ok(each.name, "cat file") == b"kept\n"
            assert each.user.show(new)["state"] in {"submitting", "queued", "starting", "ready"}
    for each in running:
        wait_for(lambda each=each: not _stale(each), what="fresh data", seconds=90)  # type: ignore[misc]  # as above
        ready = each.user.wait(new, "ready", seconds=180)
        assert each.user.every_job(ready["id"]) == [str(ready["job_id"])]
        each.user.laptop.ok(new, "true")
    assert_untouched(running)


BACKUP = "c3"
_WITH_BACKUP = f"""
cp /etc/slurm/slurm.conf /etc/slurm/slurm.conf.alone
sed -i 's|^SlurmctldHost=.*|&\\nSlurmctldHost={BACKUP}\\nSlurmctldTimeout=10|
  s|^StateSaveLocation=.*|StateSaveLocation=/shared/slurmctld|' /etc/slurm/slurm.conf"""
_ALONE = "mv /etc/slurm/slurm.conf.alone /etc/slurm/slurm.conf"
_SLURMCTLD = "install -d -o slurm /run/slurm; exec setpriv --reuid=slurm --regid=slurm --init-groups slurmctld -D -i"


@contextlib.contextmanager
def _two_slurmctlds(site: Site) -> Iterator[None]:
    """Slurm as sites have it that fail over: a second slurmctld, and the state where both can reach it."""
    lab = site.lab
    own = lab.sh("scontrol show config | sed -n 's/^StateSaveLocation *= //p'")
    with lab.without("slurmctld"):
        lab.sh(f"rm -rf /shared/slurmctld; cp -a {own} /shared/slurmctld")
        _configure(lab, _WITH_BACKUP)
    backup = lab.popen(["sh", "-c", f"{_SLURMCTLD} >/dev/null 2>&1"], node=BACKUP)
    try:
        wait_for(lambda: _serving(lab) == {"primary", "backup"}, what="both slurmctlds to serve", seconds=60)
        restart_anew(site)
        yield
    finally:
        backup.kill()
        backup.communicate()
        with lab.without("slurmctld"):
            lab.sh(f"rm -rf {own}; cp -a /shared/slurmctld {own}; rm -rf /shared/slurmctld")
            _configure(lab, _ALONE)
        restart_anew(site)


@contextlib.contextmanager
def _failed_over(lab: Lab) -> Iterator[None]:
    """Have the second slurmctld in charge, and the first one dead. At the end the first one is in charge again.

    The second one ends before the first one starts: it has saved its state then. Where the first one asked it for the
    control, slurmctld 26.05 has once come up without any job (seen on a busy machine), which no site would survive.
    """
    first = daemons.daemon_named("slurmctld", LOGIN)
    pid = daemons.daemon_pid(lab.place, LOGIN, first)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: daemons.daemon_pid(lab.place, LOGIN, first) is None, what="the end of the first slurmctld")
    try:
        lab.run(["scontrol", "takeover", "1"], seconds=60)
        wait_for(lambda: _serving(lab) == {"backup"}, what="the second slurmctld to take over", seconds=60)
        yield
    finally:
        lab.run(["scontrol", "shutdown", "slurmctld"], seconds=60)
        wait_for(lambda: not _serving(lab), what="the end of the second slurmctld", seconds=60)
        daemons.start_daemon(lab.place, LOGIN, first)
        wait_for(lambda: "primary" in _serving(lab), what="the first slurmctld to be back", seconds=120)


def _configure(lab: Lab, change: str) -> None:
    """Change every node's slurm.conf while slurmctld is away, and have each slurmd read it."""
    for node in NODES:
        lab.sh(change, node=node)
    for node in COMPUTE:
        with lab.without("slurmd", node=node):
            pass


def _serving(lab: Lab) -> set[str]:
    said = lab.run(["scontrol", "ping"], seconds=60).stdout.decode()
    return set(re.findall(r"Slurmctld\((\w+)\) at \w+ is UP", said))


def restart_anew(site: Site) -> None:
    """Services that read slurm.conf read it once more."""
    site.kill("broker")
    wait_for(lambda: site.ended("broker"), what="the controller's end")
    restart(site)


def test_slurmctld_fails_over(crashing: Site, running: list[Running], new_name: Callable[[str], str]) -> None:
    """The second one takes over, and what is asked of Berth meanwhile is done by it; then the first one is back."""
    lab, new, later = crashing.lab, new_name("meanwhile"), new_name("afterwards")
    with _two_slurmctlds(crashing):
        with _failed_over(lab):
            for each in running:
                assert _start(each.user, new) == 0
            for each in running:
                ready = each.user.wait(new, "ready", seconds=120)
                assert each.user.jobs(ready["id"]) == [str(ready["job_id"])]
                assert each.user.show(each.name)["state"] == "ready"
                assert each.user.laptop.ok(each.name, "cat file") == b"kept\n"
        for each in running:
            assert _start(each.user, later) == 0
            ready = each.user.wait(later, "ready", seconds=120)
            assert each.user.every_job(ready["id"]) == [str(ready["job_id"])]
            lab.wait_until_saved(ready["endpoint"]["fingerprint"])  # before the way back, by which it is killed
    for each in running:
        wait_for(lambda each=each: not _stale(each), what="fresh data", seconds=90)  # type: ignore[misc]  # as above
        assert each.user.wait(new, "ready")["generation"] == "1.0"
    assert_untouched(running)


def test_a_controller_from_last_weeks_backup(
    crashing: Site, running: list[Running], new_name: Callable[[str], str]
) -> None:
    """The registry knows none of what has happened since: nothing is ended for that, and a rebuild brings all of it."""
    lab = crashing.lab
    crashing.kill("broker")
    wait_for(lambda: crashing.ended("broker"), what="the controller's end")
    lab.sh("cp /var/lib/berth/registry.db /root/backup.db")
    restart(crashing)
    since = new_name("since")
    for each in running:
        each.user.ok("start", since, "--profile", "base", *SMALL, seconds=120)
        each.user.ok("stop", each.name)
        each.user.ok("start", each.name, seconds=120)
    after = [Running(each.user, each.name, each.user.show(each.name)) for each in running]
    added = [Running(each.user, since, each.user.show(since)) for each in running]
    crashing.kill("broker", "KILL")
    wait_for(lambda: crashing.ended("broker"), what="the controller's end")
    lab.sh("rm -f /var/lib/berth/registry.db*; install -o berth -m 600 /root/backup.db /var/lib/berth/registry.db")
    restart(crashing)
    for each in running:  # what the old registry knows of is taken for ended at most, and no job is touched
        assert each.user.berth("show", since).returncode == ExitCode.NOT_FOUND
    done = lab.run(["berth", "registry", "rebuild"])
    assert done.returncode == 0, done.stderr.decode()
    for each in [*after, *added]:
        now = each.user.wait(each.name, "ready", seconds=60)
        assert (now["job_id"], now["host_key_fingerprint"]) == (each.view["job_id"], each.view["host_key_fingerprint"])
        assert each.user.jobs(now["id"]) == [str(now["job_id"])]
    for each in after:
        assert each.user.laptop.ok(each.name, "cat file") == b"kept\n"


def assert_untouched(running: list[Running]) -> None:
    """Each session runs in the very job that it had, and in no other."""
    for each in running:
        now = each.user.show(each.name)
        assert (now["state"], now["job_id"], now["generation"]) == ("ready", each.view["job_id"], "1.0"), now
        assert each.user.every_job(now["id"]) == [str(now["job_id"])]
        assert each.user.laptop.ok(each.name, "cat file") == b"kept\n"


def _start(user: User, name: str) -> int:
    return user.berth("start", name, "--profile", "base", "--no-wait", *SMALL, seconds=90).returncode


def _stale(each: Running) -> bool:
    return json.loads(each.user.request(f"/v1/sessions/{each.name}")[1])["stale_since"] is not None
