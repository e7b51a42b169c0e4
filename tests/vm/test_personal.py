"""Personal mode: a killed process of the user's own controller is replaced by the next command."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from slurm.vm.guest import Guest
    from tests.vm.person import Person

pytestmark = pytest.mark.vm

PROCESSES = {
    "controller": "pgrep -u alice -o -f '^/opt/berth/.* controller'",
    "launcher": "pgrep -u alice -o -f '^/opt/berth/.*broker[.]launcher'",
}


@pytest.mark.parametrize("process", PROCESSES)
def test_next_command_works_after_a_process_is_killed(guest: Guest, alice: Person, dev: str, process: str) -> None:
    job = alice.show(dev)["job_id"]
    guest.sh(f"kill -KILL $({PROCESSES[process]})")
    view = alice.until(dev, lambda view: bool(view["state"] == "ready"), what=f"{dev} to be ready")
    assert view["job_id"] == job
    assert alice.inside(dev, "echo well") == "well"
    assert guest.sh(f"squeue -h -o %i --name=berth-{view['id']}") == str(job)
