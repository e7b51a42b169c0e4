"""Two jobs never have one session's volumes open: neither by accident nor by hand."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from tests.lab.kept import Disk, Kept
from tests.lab_cluster import wait_for

if TYPE_CHECKING:
    from tests.lab.conftest import User

SUPERSEDED, LOCKED = 73, 68


@pytest.fixture
def kept(alice: User, name: str) -> Kept:
    made = Kept(alice, name)
    made.start()
    made.mark("one")
    return made


def by_hand(disk: Disk, *options: str, submission: int) -> str:
    """The id of a job that runs the session's script under another name, so that it does not count as the session's."""
    log = f"{disk.directory}/run/by-hand.log"
    words = ["sbatch", "--parsable", f"--output={log}", "--export=NIL", "--mem=400", f"--chdir={disk.directory}"]
    return disk.sh(f"{' '.join([*words, *options])} {disk.directory}/run/session.sh {disk.directory} {submission}")


def code(disk: Disk, job: str) -> int:
    """The exit code of a job, once it has ended."""

    def look() -> dict[str, str]:
        words = disk.sh(f"scontrol --oneliner show job {job}").split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    wait_for(lambda: look()["JobState"] in {"FAILED", "COMPLETED", "CANCELLED"}, what=f"job {job} to end", seconds=60)
    return int(look()["ExitCode"].split(":")[0])


def everything(disk: Disk) -> str:
    """Names, sizes, times and inodes of all that lies in the user's layers."""
    return disk.sh(f"find {disk.root}/layers -printf '%i %p %s %T@ %C@\\n' | sort")


def test_a_job_of_an_earlier_submission_and_one_beside_the_sessions_own_write_nothing(kept: Kept) -> None:
    kept.stop()
    kept.again()
    view, disk = kept.view(), kept.disk()
    disk.sh(f"sed -i s/^BERTH_LOCK_WAIT=.*/BERTH_LOCK_WAIT=3/ {disk.directory}/run/job.env")
    before = everything(disk)
    old, beside = by_hand(disk, submission=1), by_hand(disk, submission=2)
    assert code(disk, old) == SUPERSEDED
    assert code(disk, beside) == LOCKED
    assert everything(disk) == before
    after = kept.view()
    assert (after["state"], after["job_id"], after["endpoint"]) == ("ready", view["job_id"], view["endpoint"])
    assert kept.marks() == ["one", "one"]


def test_a_job_of_an_earlier_submission_is_refused_although_no_other_runs(kept: Kept) -> None:
    """Nothing holds the lock then: what refuses it is the number alone."""
    kept.stop()
    kept.snapshot("first")
    kept.again()
    kept.stop()
    disk = kept.disk()
    before = everything(disk)
    assert code(disk, by_hand(disk, submission=1)) == SUPERSEDED
    assert everything(disk) == before


def test_a_requeued_job_goes_on_with_the_same_volumes_and_a_rollback_meanwhile_is_one_of_both(kept: Kept) -> None:
    kept.snapshot("first")
    kept.mark("two")
    view = kept.view()
    disk = kept.disk()
    disk.sh(f"scontrol requeue {view['job_id']}")
    kept.user.until(
        kept.name, lambda now: now["generation"] != view["generation"], what="the requeue to be seen", seconds=150
    )
    kept.user.ok("rollback", kept.name, "first", "--yes", "--timeout", "120", seconds=180)
    after = kept.user.wait(kept.name, "ready")
    assert kept.user.jobs(after["id"]) == [str(after["job_id"])]
    assert after["generation"] != view["generation"]
    assert kept.marks() == ["one", "one"]
    assert len(disk.record()["snapshots"]) == 2
    kept.verified()


def test_of_two_who_start_it_and_one_who_rolls_it_back_all_get_a_true_answer(kept: Kept) -> None:
    kept.stop()
    kept.snapshot("first")
    kept.disk().mark("two")
    barrier = threading.Barrier(3)

    def ask(*words: str) -> int:
        barrier.wait()
        return kept.user.berth(*words, seconds=120).returncode

    commands = [("start", kept.name), ("start", kept.name), ("rollback", kept.name, "first", "--yes")]
    with ThreadPoolExecutor(3) as pool:
        codes = [each.result() for each in [pool.submit(ask, *words) for words in commands]]
    assert set(codes[:2]) <= {0, 5}
    assert codes[2] in {0, 5}
    kept.again()
    assert kept.marks() == (["one", "one"] if codes[2] == 0 else ["two", "two"])
    view = kept.view()
    assert kept.user.jobs(view["id"]) == [str(view["job_id"])]
    kept.verified()
