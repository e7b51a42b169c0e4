"""A session's life while programs write in it.

Snapshots each second, rollback, clones, a switch there and back, and services that are killed in the middle of any of
them.
"""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.lab.dying import dies_at_each
from tests.lab.kept import Kept
from tests.lab.test_volume_commands import unnamed
from tests.lab_cluster import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.lab.workloads.trees import QuietTrees
    from tests.lab.workloads.workload import Workloads
    from tests.site.deploy import Site

PROFILE, OTHER_PROFILE = "workloads", "base"
PERIOD_S = 1.0
"""Time from one snapshot to the next."""
EACH_KILL = 3
"""Of so many snapshots, the services are killed in one."""
POINTS = {
    "snapshot": ("snapshot.intent-recorded", "copy.requested", "launcher.copy-begun", "copy.copied",
                 "volumes.committed", "launcher.copy-done", "snapshot.done"),
    "clone": ("clone.forked", "launcher.clone-begun", "clone.intent-recorded", "launcher.clone-done", "clone.done"),
    "clone-running": ("launcher.copy-done", "copy.copied", "clone.copied", "copy.requested", "clone.source-kept"),
    "rollback": ("launcher.rollback-begun", "volumes.committed", "rollback.intent-recorded", "hold.answered",
                 "volumes.frozen", "volumes.before-commit", "launcher.rollback-done", "rollback.done",
                 "start.prepared"),
    "switch": ("switch.announced", "launcher.switch-begun", "volumes.committed", "switch.intent-recorded",
               "volumes.before-commit", "hold.answered", "launcher.switch-done", "switch.done", "start.prepared"),
}  # fmt: skip
"""The points at which the controller, the launcher or its child is killed, in turn.

A short course takes the first ones.
"""


@dataclass(slots=True)
class Course:
    """One session with its workloads."""

    site: Site
    session: Kept
    new_name: Callable[[str], str]
    workloads: Workloads
    trees: QuietTrees
    acknowledged: dict[int, dict[str, int]] = field(default_factory=dict)
    """The least progress that each snapshot must have."""
    points: dict[str, Iterator[str]] = field(init=False)

    def __post_init__(self) -> None:
        self.points = {operation: itertools.cycle(points) for operation, points in POINTS.items()}

    def begin(self) -> None:
        """Start the session, lay everything out, and let the workloads begin."""
        self.session.start(profile=PROFILE)
        self.trees.make(self.session)
        self.workloads.install(self.session)
        self.workloads.prepare(self.session)
        self.workloads.start(self.session)

    def round(self, snapshots: int) -> None:
        """Everything once. The workloads work on at its end."""
        numbers = self.snapshot_each_second(snapshots)
        self.judge_clone(numbers[EACH_KILL - 1])
        self.roll_back(numbers[len(numbers) // 2])
        self.switch_there_and_back()
        self.tidy()

    def snapshot_each_second(self, count: int) -> list[int]:
        """Take snapshots while all workloads run; return their numbers. Services are killed during some (EACH_KILL)."""
        progress, due, numbers = dict.fromkeys(self.workloads.names, 0), 0.0, []
        for number in range(1, count + 1):
            progress = self.workloads.wait_for_more(self.session, progress)
            wait_for(lambda due=due: time.monotonic() >= due, what="the next snapshot's time")  # type: ignore[misc]  # mypy cannot infer a lambda with a default
            due = time.monotonic() + PERIOD_S
            if number % EACH_KILL == 0:
                self.kill_during("snapshot", "snapshots", label=f"killed{len(self.acknowledged)}")
            else:
                self.session.snapshot()
            taken = self.session.snapshots()[-1]
            assert taken["consistency"] == "frozen", taken
            assert taken["number"] not in self.acknowledged, "a snapshot of its own"
            self.acknowledged[taken["number"]] = progress
            numbers.append(taken["number"])
        return numbers

    def judge_clone(self, number: int) -> None:
        """Clone at a snapshot; all judges must accept the clone, and none of them one wrong byte."""
        clone = Kept(self.session.user, self.new_name("c"))
        self.kill_during("clone", "clone", of=clone, name=clone.name, at=str(number))
        clone.again()
        self._judge(clone, self.acknowledged[number])
        self.workloads.damage(clone)
        self.trees.damage(clone)
        self._purge(clone)

    def clone_running(self) -> None:
        """Clone the session as it is, while all work."""
        progress = self.workloads.progress(self.session)
        clone = Kept(self.session.user, self.new_name("c"))
        self.kill_during("clone-running", "clone", of=clone, name=clone.name)
        clone.again()
        self._judge(clone, progress)
        self._purge(clone)
        self.workloads.wait_for_more(self.session, progress)

    def roll_back(self, number: int) -> None:
        """Go back to a snapshot while all work; then they continue from there."""
        before = self.session.view()
        self.kill_during("rollback", "rollback", snapshot=str(number))
        self._carried_by_one_job(before)
        self._judge(self.session, self.acknowledged[number])
        self.workloads.start(self.session)

    def switch_there_and_back(self) -> None:
        """Switch to another image while all work, and back: home and system are as they were when they were ended."""
        progress, before = self.workloads.progress(self.session), self.session.view()
        self.kill_during("switch", "switch", profile=OTHER_PROFILE)
        self._carried_by_one_job(before)
        assert self.session.view()["profile"] == OTHER_PROFILE
        assert self.session.says("ls /opt") == "", "a fresh system"
        self.session.user.ok("switch", self.session.name, PROFILE, "--yes", "--timeout", "60", seconds=90)
        self._judge(self.session, progress)
        self.workloads.start(self.session)

    def tidy(self) -> None:
        """Delete all snapshots, and collect: every layer is right, and none is left that nothing names."""
        self.session.verified()
        for number in self.session.numbers():
            self.session.send(f"snapshots/{number}", method="DELETE")
        assert self.session.numbers() == []
        self.session.user.ok("gc")
        disk = self.session.disk()
        wait_for(lambda: unnamed(disk.layers(), self.session) == set(), what="the layers of all snapshots to be gone")
        self.acknowledged.clear()

    def kill_during(self, operation: str, path: str, *, of: Kept | None = None, **body: str) -> None:
        """Have it done by services that are killed in the middle of it; it is done nevertheless, and once."""
        dies_at_each(self.site, [next(self.points[operation])], lambda: self.session.send(path, body=dict(body)))
        (of or self.session).done(path.removesuffix("s"))

    def _carried_by_one_job(self, before: dict[str, object]) -> None:
        view = self.session.user.runs_again(self.session.name, before, seconds=90)
        assert self.session.user.jobs(view["id"]) == [str(view["job_id"])]

    def _judge(self, session: Kept, acknowledged: dict[str, int]) -> None:
        self.workloads.install(session)
        self.trees.judge(session)
        self.workloads.judge(session, acknowledged)

    def _purge(self, session: Kept) -> None:
        session.stop()
        session.user.ok("delete", session.name, "--purge", "--yes", "--timeout", "60", seconds=90)
