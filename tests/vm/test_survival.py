"""The whole machine goes down, in order and by its reset button; the session comes back with its files."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.site import guest_site

if TYPE_CHECKING:
    from collections.abc import Callable

    from slurm.vm.guest import Guest
    from tests.vm.person import Person

pytestmark = pytest.mark.vm


def back(guest: Guest, alice: Person, dev: str, personal: bool, down: Callable[[], None]) -> None:
    """Take the machine down; the session must be ready again by itself, in another run, with its files."""
    before = alice.show(dev)
    run = (before["job_id"], before["generation"])
    alice.inside(dev, "echo kept >~/kept; echo kept >/opt/kept; sync")
    down()
    if not personal:
        guest_site.wait_for_services(guest)
    # Controller and node were away together: until slurmd registers anew, Slurm shows the old job as running.
    guest.sh("systemctl restart slurmd")
    alice.until(
        dev,
        lambda view: bool(view["state"] == "ready" and (view["job_id"], view["generation"]) != run),
        what=f"{dev} to be ready in another run",
    )
    assert alice.inside(dev, "cat ~/kept /opt/kept").split() == ["kept", "kept"]


@pytest.mark.short("nfs-ext4")
def test_session_comes_back_after_a_reboot(guest: Guest, alice: Person, dev: str, personal: bool) -> None:
    back(guest, alice, dev, personal, guest.reboot)


def test_session_comes_back_after_a_hard_reset(guest: Guest, alice: Person, dev: str, personal: bool) -> None:
    back(guest, alice, dev, personal, guest.reset)
