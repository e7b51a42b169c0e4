"""The whole machine goes down, in order and by its reset button; the session comes back with its files."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.site import guest_site
from tests.vm.conftest import files_are_kept

if TYPE_CHECKING:
    from collections.abc import Callable

    from slurm.vm.guest import Guest
    from tests.vm.person import Person

pytestmark = pytest.mark.vm


def back(guest: Guest, alice: Person, kept: str, personal: bool, down: Callable[[], None]) -> None:
    """Take the machine down; the session must be ready again by itself, in another run, with its files."""
    before = alice.show(kept)
    run = (before["job_id"], before["generation"])
    down()
    if not personal:
        guest_site.wait_for_services(guest)
    # Controller and node were away together: until slurmd registers anew, Slurm shows the old job as running.
    guest.sh("systemctl restart slurmd")
    alice.until(
        kept,
        lambda view: bool(view["state"] == "ready" and (view["job_id"], view["generation"]) != run),
        what=f"{kept} to be ready in another run",
    )
    assert files_are_kept(alice, kept)


@pytest.mark.short("nfs-ext4")
def test_session_comes_back_after_a_reboot(guest: Guest, alice: Person, kept: str, personal: bool) -> None:
    back(guest, alice, kept, personal, guest.reboot)


def test_session_comes_back_after_a_hard_reset(guest: Guest, alice: Person, saved: str, personal: bool) -> None:
    back(guest, alice, saved, personal, guest.reset)
