"""Programs that write much, in a session that is snapshotted each second, cloned, rolled back and switched, while the
services are killed: their own judges accept all that comes back, and so do git and rsync.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from slurm.lab.progress import ProgressLog
from tests.lab.kept import Kept
from tests.lab.services import restart
from tests.lab.workloads.course import PROFILE, Course
from tests.lab.workloads.database import POSTGRESQL
from tests.lab.workloads.files import FIO, RANDOM_WRITER, RANDOM_WRITER_IN_SYSTEM, STRESS
from tests.lab.workloads.trees import QuietTrees, repository
from tests.lab.workloads.workload import Workload, Workloads
from tests.site import deploy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.lab.conftest import User
    from tests.site.deploy import Site

SNAPSHOTS, LONG_SNAPSHOTS, LONG_ROUNDS = 3, 12, 10
SCALE, LONG_SCALE = 1, 10
SHORT = (RANDOM_WRITER, POSTGRESQL)
"""Programs that leave the processor to other tests now and then."""
ALL = (RANDOM_WRITER, RANDOM_WRITER_IN_SYSTEM, FIO, STRESS, POSTGRESQL)
LONG = {
    "random-writers": (RANDOM_WRITER, RANDOM_WRITER_IN_SYSTEM),
    "fio": (FIO,),
    "stress-ng": (STRESS,),
    "git": (repository(LONG_SCALE),),
    "postgresql": (POSTGRESQL,),
    "all": (*ALL, repository(LONG_SCALE)),
}


@pytest.fixture
def course(
    crashing: Site, alice: User, new_name: Callable[[str], str], tmp_path: Path
) -> Iterator[Callable[..., Course]]:
    """Begins a course of some workloads."""
    deploy.build_profile(crashing, PROFILE, ProgressLog(quiet=True))

    def begin(members: tuple[Workload, ...], scale: int) -> Course:
        session = Kept(alice, new_name("w"))
        made = Course(crashing, session, new_name, Workloads(members), QuietTrees(tmp_path, scale))
        made.begin()
        return made

    yield begin
    crashing.kill("broker")  # which may still be armed
    restart(crashing)


@pytest.mark.soak
def test_what_comes_back_of_working_programs_is_right(course: Callable[..., Course]) -> None:
    course((*SHORT, repository(SCALE)), SCALE).round(SNAPSHOTS)


@pytest.mark.soak
@pytest.mark.parametrize("names", LONG)
def test_what_comes_back_of_programs_that_work_long_is_right(course: Callable[..., Course], names: str) -> None:
    made = course(LONG[names], LONG_SCALE)
    for _ in range(LONG_ROUNDS):
        made.round(LONG_SNAPSHOTS)
        made.clone_running()
