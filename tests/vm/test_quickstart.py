"""A site as the quickstart leaves it: what a user does on the first day, on systemd and cgroup v2."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest

from tests.site import quickstart
from tests.vm.person import WAIT

if TYPE_CHECKING:
    from slurm.vm.guest import Guest
    from tests.vm.person import Person

pytestmark = pytest.mark.vm

DRIVERS = {"ext4": "overlay", "nfs-ext4": "plain", "nfs-xfs": "reflink", "personal-nfs": "plain"}
"""The driver that the doctor promises on each site."""

OPEN_EACH = (
    "for d in /dev/dri/renderD*; do "
    "if dd if=$d of=/dev/null bs=1 count=1 2>/dev/null; then echo open; else echo refused; fi; done"
)
MARKS = ("~/mark", "/opt/mark")


def mark(alice: Person, session: str, text: str) -> None:
    """Leave a mark in home and system."""
    alice.inside(session, "".join(f"echo {text} >{path}; " for path in MARKS))


def marks(alice: Person, session: str) -> list[str]:
    return alice.inside(session, f"cat {' '.join(MARKS)}").split()


class TestTheSite:
    @pytest.mark.short
    def test_guest_has_systemd_and_cgroup_v2_only(self, guest: Guest) -> None:
        script = "cat /proc/1/comm; findmnt -n -o FSTYPE /sys/fs/cgroup; findmnt -t cgroup || true"
        assert guest.sh(script).split() == ["systemd", "cgroup2"]

    @pytest.mark.short
    def test_shared_files_lie_where_the_site_says(self, guest: Guest, site: str) -> None:
        expected = "ext4" if site == "ext4" else "nfs4"
        assert guest.sh("findmnt -n -o FSTYPE /shared; findmnt -n -o FSTYPE /home").split() == [expected] * 2

    @pytest.mark.short
    def test_doctor_finds_nothing_to_mend(self, doctor: str, site: str) -> None:
        assert quickstart.commands(7)[0] == "berth doctor"
        assert not re.search(r"^(fail|warn)", doctor, re.MULTILINE), doctor
        driver = re.search(r"new sessions get the driver (\w+)", doctor)
        assert driver is not None
        assert driver[1] == DRIVERS[site]


class TestTheSession:
    @pytest.mark.short
    def test_session_starts_with_the_promised_driver(self, alice: Person, dev: str, site: str) -> None:
        view = alice.show(dev)
        assert (view["state"], view["endpoint"]["node"]) == ("ready", "vm")
        assert view["volumes"]["driver"] == DRIVERS[site]

    def test_job_runs_in_a_scope_of_systemd(self, alice: Person, dev: str) -> None:
        assert "slurmstepd.scope/" in alice.inside(dev, "cat /proc/self/cgroup")

    @pytest.mark.short("ext4")
    def test_laptop_enters_the_session(self, guest: Guest, alice: Person, dev: str, personal: bool) -> None:
        assert alice.inside(dev, "id -un; hostname") == "alice\nvm"
        if not personal:
            assert "alice" in guest.sh("journalctl --no-pager -u berth-gateway")

    @pytest.mark.short("ext4")
    def test_one_gpu_of_two_can_be_opened(self, alice: Person, dev: str) -> None:
        assert sorted(alice.inside(dev, OPEN_EACH).split()) == ["open", "refused"]
        assert alice.inside(dev, "echo $ZE_AFFINITY_MASK") == "0"


class TestTheVolumes:
    @pytest.mark.short("nfs-ext4")
    def test_live_snapshot_is_frozen_and_rollback_brings_it_back(self, alice: Person, dev: str) -> None:
        mark(alice, dev, "one")
        made = json.loads(alice.ok("snapshot", dev, "first", "--json", *WAIT))
        assert made["consistency"] == "frozen", made
        mark(alice, dev, "two")
        alice.ok("rollback", dev, "first", "--yes", *WAIT)
        assert alice.show(dev)["state"] == "ready"
        assert marks(alice, dev) == ["one", "one"]

    def test_clone_of_a_running_session_is_apart_from_it(self, alice: Person, dev: str) -> None:
        mark(alice, dev, "one")
        alice.ok("clone", dev, "trial", "--start", *WAIT)
        mark(alice, "trial", "other")
        assert marks(alice, dev) == ["one", "one"]
        assert marks(alice, "trial") == ["other", "other"]
        alice.ok("stop", "trial", *WAIT)
        alice.ok("delete", "trial", "--purge", "--yes", *WAIT)

    def test_stopped_session_is_snapshotted_and_switched_and_keeps_its_home(self, alice: Person, dev: str) -> None:
        mark(alice, dev, "one")
        alice.ok("stop", dev, *WAIT)
        made = json.loads(alice.ok("snapshot", dev, "second", "--json", *WAIT))
        assert made["consistency"] == "stopped", made
        alice.ok("switch", dev, "other", *WAIT)
        alice.ok("start", dev, *WAIT)
        said = alice.inside(dev, "cat /opt/other ~/mark; [ -e /opt/mark ] || echo gone")
        assert said.splitlines() == ["only in other", "one", "gone"]
        alice.ok("rollback", dev, "second", "--yes", *WAIT)
        assert marks(alice, dev) == ["one", "one"]
