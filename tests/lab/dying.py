"""Let services and their child processes die, by `kill -9` at one labelled point after the other, and check what must
be true of a session afterwards.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from tests.lab.kept import Kept
from tests.lab.services import restart
from tests.lab_cluster import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from tests.lab.conftest import User
    from tests.site.deploy import Site

IN_CHILD = frozenset({
    "volumes.frozen", "volumes.before-commit", "volumes.committed", "clone.source-kept", "clone.forked",
    "copy.requested", "copy.signalled", "copy.copied", "commit-root.copied", "flatten.joined", "trash.moved",
    "untrash.moved", "purge.renamed", "collect.removing", "hold.requested", "hold.held", "hold.begun",
})  # fmt: skip
"""Points that a process of the launcher's meets, which acts as the user; the others end launcher and controller."""
MET_AGAIN = frozenset({"volumes.before-commit"})
"""Those of them at which the process dies alone: the operation is repeated, and meets the point again.

At the others, the repeated operation could succeed before the test kills launcher and controller, so the process stops
at the point until all are killed together.
"""
COMING_TRUE = ["volumes.before-commit", "volumes.committed"]
_TOLD = re.compile(r"will be repeated|submission unclear|data not (removed|set aside) yet")
"""The controller's log lines about a child of the launcher that has died."""


def dies_at_each(
    site: Site, points: Iterable[str], ask: Callable[[], object], look: Callable[[str], object] = lambda _: None
) -> None:
    """Send one request to services that die at the first point; after each restart they die at the next one.

    `look` is called with every point after the death there, while nothing runs. At the end all runs again. A point
    that is never met is an AssertionError.
    """
    site.kill("broker")
    asked = False
    for point in points:
        heard = len(site.log("broker"))
        stops = point in IN_CHILD - MET_AGAIN
        begin(site, "" if stops else point, stop_at=point if stops else "")
        if not asked:
            wait_for(site.api_answers, what="the armed controller to answer")
            ask()
            asked = True
        if stops:
            _kill_all_at(site, point)
        elif point in MET_AGAIN:
            wait_for(lambda heard=heard: child_died(site, heard), what=f"a child of the launcher to die at {point}")  # type: ignore[misc]  # mypy cannot infer a lambda with a default
            site.kill("broker", "KILL")
        else:
            wait_for(lambda: site.ended("broker"), what=f"the end at {point}")
        look(point)
    restart(site)


def _kill_all_at(site: Site, point: str) -> None:
    """Kill launcher, controller, and the launcher's process that has stopped at the point, once it has."""

    def stopped() -> list[str]:
        return site.lab.run(["pgrep", "--runstates", "T"]).stdout.decode().split()

    wait_for(lambda: stopped() != [], what=f"a child of the launcher to stop at {point}")
    there = stopped()
    site.kill("broker", "KILL")
    site.lab.run(["kill", "-KILL", *there])
    wait_for(lambda: stopped() == [], what=f"the end of what had stopped at {point}")


def begin(site: Site, crash_at: str, stop_at: str = "") -> None:
    """Start launcher and controller, armed, and return when they run or have run."""
    number = "cat /run/berth-services/broker.pid"
    before = site.lab.sh(number)
    site.start("broker", crash_at=crash_at, stop_at=stop_at)
    wait_for(lambda: site.lab.sh(number) not in {"", before}, what="the launcher to begin")


def child_died(site: Site, since: int) -> bool:
    """Whether the controller has logged it, after so many characters of its log."""
    return _TOLD.search(site.log("broker")[since:]) is not None


def stopped_session(user: User, name: str) -> Kept:
    """A stopped session with the marks `one` in snapshot 1, called `first`, and `two` since."""
    made = Kept(user, name)
    made.start()
    made.mark("one")
    made.stop()
    made.post("snapshots", label="first")
    made.disk().mark("two")
    return made


def points(operation: str, verb: str, *within: str, announced: bool = False) -> list[str]:
    """All that an operation meets on its way through controller, launcher and its child.

    The launcher's last, since the child that it had when it died may have come to its end before.
    """
    told = [f"{operation}.announced"] if announced else []
    launcher = [f"launcher.{verb}-begun", f"launcher.{verb}-done"]
    return [f"{operation}.intent-recorded", *told, *within, *launcher, f"{operation}.done"]


def is_whole(session: Kept, new_name: Callable[[str], str], marks: list[str]) -> None:
    """Nothing of what was acknowledged is lost or torn: every layer is right, every snapshot can be cloned, and the
    session starts, with one job.
    """
    session.verified()
    for number in session.numbers():
        clone = Kept(session.user, new_name("c"))
        session.post("clone", name=clone.name, at=str(number))
        clone.done("clone")
        assert clone.disk().marks()[0] in {"one", "two"}
        clone.send("?purge=true", method="DELETE")
    session.again()
    assert session.marks() == marks
