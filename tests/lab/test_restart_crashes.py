"""`kill -9` while a session is rolled back or switched in its job: of the services, the job, and its batch script.

At each labelled point the session ends in one of its two states. No data is lost, one job at most has the volumes open,
and no process that takes the port of the former container hears a client.
"""

from __future__ import annotations

import contextlib
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from slurm.lab.progress import ProgressLog
from slurm.lab.spec import COMPUTE
from tests.deadlines import DEADLINE_S
from tests.lab.dying import COMING_TRUE, dies_at_each, is_whole, stopped_session
from tests.lab.test_impostor import ASKING, RECORDER
from tests.lab_cluster import wait_for
from tests.site import deploy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.lab.conftest import User
    from tests.lab.kept import Kept
    from tests.site.deploy import Site

HOLD = ["launcher.hold-begun", "hold.requested", "hold.held", "hold.answered"]
BEGIN = ["start.prepared", "hold.begun", "start.submitted"]
POINTS = [
    *("rollback.intent-recorded", *HOLD, "rollback.announced", "launcher.rollback-begun"),
    *(*COMING_TRUE, "launcher.rollback-done", "rollback.done", *BEGIN),
]
KILLS = {
    "all": "scancel --full --signal=KILL",
    "script": "scancel --batch --signal=KILL",
    "scancel": "scancel",
}
UNDONE = [
    *("switch.intent-recorded", "hold.held", "switch.done", "start.submitted", *HOLD, "reversal.announced"),
    *("launcher.rollback-begun", *COMING_TRUE, "reversal.done", "start.prepared", "hold.begun"),
]
"""The points of a switch to an image that does not start, and of its reversal."""
SWITCH_POINTS = [
    *("switch.intent-recorded", *HOLD, "switch.announced", "launcher.switch-begun", *COMING_TRUE),
    *("launcher.switch-done", "switch.done", *BEGIN),
]
UNDONE_POINTS = [
    *("switch.intent-recorded", *HOLD, "switch.done", "start.submitted", "reversal.announced"),
    *("launcher.rollback-begun", "launcher.rollback-done", "reversal.done"),
]
FEW_UNDONE = ["switch.done", "launcher.hold-begun", "hold.held", "volumes.committed", "reversal.done", "hold.begun"]
SHORT_SWITCH = [("volumes.committed", "all")]
SHORT_UNDONE = [("reversal.announced", "script")]
SHORT = [("hold.requested", "script"), ("volumes.committed", "all"), ("hold.begun", "scancel")]


@pytest.fixture
def kept(alice: User, name: str) -> Kept:
    return stopped_session(alice, name)


@pytest.mark.soak
def test_kills_of_the_job(crashing: Site, kept: Kept, bob: User) -> None:
    for point, kill in SHORT:
        rollback_is_killed(crashing, kept, bob, point, kill)


@pytest.mark.soak
@pytest.mark.parametrize("kill", KILLS)
def test_each_kill_of_the_job_at_each_point(
    crashing: Site, kept: Kept, bob: User, new_name: Callable[[str], str], kill: str
) -> None:
    for point in POINTS:
        rollback_is_killed(crashing, kept, bob, point, kill)
    is_whole(kept, new_name, ["one", "one"])


def test_kills_of_the_job_in_a_switch(crashing: Site, kept: Kept, bob: User, other: str) -> None:
    for point, kill in SHORT_SWITCH:
        switch_is_killed(crashing, kept, bob, point, kill, other=other)


@pytest.mark.soak
@pytest.mark.parametrize("kill", KILLS)
def test_each_kill_of_the_job_at_each_point_of_a_switch(
    crashing: Site, kept: Kept, bob: User, other: str, kill: str
) -> None:
    for point in SWITCH_POINTS:
        switch_is_killed(crashing, kept, bob, point, kill, other=other)


def test_kills_of_the_job_while_a_switch_is_undone(crashing: Site, kept: Kept, bob: User) -> None:
    for point, kill in SHORT_UNDONE:
        undone_switch_is_killed(crashing, kept, bob, point, kill)


@pytest.mark.soak
@pytest.mark.parametrize("kill", KILLS)
def test_each_kill_of_the_job_at_each_point_of_an_undone_switch(
    crashing: Site, kept: Kept, bob: User, kill: str
) -> None:
    for point in UNDONE_POINTS:
        undone_switch_is_killed(crashing, kept, bob, point, kill)


def rollback_is_killed(site: Site, kept: Kept, bob: User, point: str, kill: str) -> None:
    """Roll back a running session; services and job die at that point. It is as in the snapshot, in one job."""
    kept.again()
    kept.mark("two")
    view = job_is_killed(site, kept, bob, point, kill, verb="rollback", snapshot="first")
    assert (view["operation"]["verb"], view["operation"]["status"]) == ("rollback", "done"), point
    assert kept.marks() == ["one", "one"], point


def switch_is_killed(site: Site, kept: Kept, bob: User, point: str, kill: str, *, other: str) -> None:
    """Switch a running session between two images; services and job die at that point. It has one of the images, with
    the system of that image, and its home.
    """
    kept.again()
    before = kept.view()["profile"]
    kept.mark(before)
    wanted = other if before == "base" else "base"
    view = job_is_killed(site, kept, bob, point, kill, verb="switch", profile=wanted)
    is_done = view["operation"]["status"] == "done"
    assert view["profile"] == (wanted if is_done else before), point
    home, system = kept.marks()
    assert home == before, point
    assert system in ({wanted, "-"} if is_done else {before}), point


def undone_switch_is_killed(site: Site, kept: Kept, bob: User, point: str, kill: str) -> None:
    """Switch to an image that does not start; services and job die at that point. The session has the old image with
    its system, or the new one and says why it does not start; then another switch leads back. The home is kept.
    """
    deploy.build_profile(site, "broken", ProgressLog(quiet=True))
    kept.again()
    kept.mark("two")
    view = job_is_killed(site, kept, bob, point, kill, verb="switch", profile="broken")
    if view["profile"] == "broken":
        assert view["state"] == "failed", point
        assert "sshd: no hostkeys available" in kept.user.ok("logs", kept.name), point
        kept.post("switch", profile="base")
        kept.done("switch")
        kept.again()
        assert kept.marks()[0] == "two", point
    else:
        assert view["profile"] == "base", point
        assert kept.marks() == ["two", "two"], point


def job_is_killed(
    site: Site, kept: Kept, bob: User, point: str, kill: str, *, verb: str, **body: str
) -> dict[str, Any]:
    """Request the operation of a running session, and let services and job die at that point; return its state when it
    runs again, in one job, or has failed.

    No process that takes the former container's port hears a client, and no client reaches the former container.
    """
    kept.says("touch /tmp/former")
    before = kept.view()
    with contextlib.ExitStack() as stack:
        clients: list[subprocess.Popen[bytes]] = []

        def look(_: str) -> None:
            site.lab.sh(f"{KILLS[kill]} {before['job_id']}", user=kept.user.name)
            wait_for(lambda: containers(site, before) == 0, what="the former container to end")
            stack.enter_context(hears_nobody(bob, before))
            argv = kept.user.laptop.argv(kept.name, ["test ! -e /tmp/former || echo former"])
            clients.append(subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL))

        dies_at_each(site, [point], lambda: kept.send(verb, body=body), look)
        view = settled(kept, point)
        if view["state"] != "ready":
            kept.user.berth("start", kept.name, "--timeout", "60", seconds=90)
            view = settled(kept, point)
        out, _ = clients[0].communicate(timeout=DEADLINE_S)
        assert b"former" not in out, point
    assert view["generation"] != before["generation"]
    running = view["state"] == "ready"
    assert kept.user.jobs(view["id"]) == [str(view["job_id"])] * running, point
    assert containers(site, view) == running, point
    kept.verified()
    return view


def settled(kept: Kept, point: str) -> dict[str, Any]:
    """Return the session when its operation is over and it runs, has failed or is stopped."""
    return kept.user.until(
        kept.name,
        lambda view: view["state"] in {"ready", "failed", "stopped"} and view["operation"]["status"] != "pending",
        what=f"the session to settle after {point}",
        seconds=90,
    )


@pytest.mark.parametrize("points", [FEW_UNDONE, pytest.param(UNDONE, marks=pytest.mark.soak)], ids=["few", "all"])
def test_of_the_services_while_a_switch_is_undone(
    crashing: Site, kept: Kept, bob: User, new_name: Callable[[str], str], points: list[str]
) -> None:
    """An image whose sshd ends at once: after each death the services undo the switch, in the same job."""
    deploy.build_profile(crashing, "broken", ProgressLog(quiet=True))
    kept.again()
    before = kept.view()
    with contextlib.ExitStack() as stack:

        def look(point: str) -> None:
            if point == "switch.done":
                assert containers(crashing, before) == 0
                stack.enter_context(hears_nobody(bob, before))

        dies_at_each(crashing, points, lambda: kept.send("switch", body={"profile": "broken"}), look)
        view = kept.user.wait(kept.name, "ready")
    assert (view["job_id"], view["profile"]) == (before["job_id"], "base")
    assert view["operation"]["reversed"]
    assert "sshd: no hostkeys available" in view["operation"]["message"]
    assert kept.user.every_job(view["id"])[-1] == str(view["job_id"])
    assert containers(crashing, view) == 1
    is_whole(kept, new_name, ["two", "two"])


def containers(site: Site, view: dict[str, Any]) -> int:
    """The number of the session's containers that run, on all nodes."""
    count = f"pgrep -fc '[/]run/job.sh namespace .*-{view['id']}' || :"
    return sum(int(site.lab.sh(count, node=node)) for node in COMPUTE)


@contextlib.contextmanager
def hears_nobody(bob: User, view: dict[str, Any]) -> Iterator[None]:
    """Bob listens where the session did in `view`; he hears the gateway's own question at most, and no client."""
    node, port = view["endpoint"]["node"], view["endpoint"]["port"]
    recorder = bob.site.lab.popen(["python3", "-c", RECORDER, str(port)], user=bob.name, node=node)
    try:
        assert recorder.stdout is not None
        assert recorder.stdout.readline() == b"taken\n"
        yield
        out, _ = recorder.communicate(b"\n", timeout=DEADLINE_S)
    finally:
        recorder.kill()
        recorder.wait()
    heard = [bytes.fromhex(line) for line in out.decode().split()]
    assert [each for each in heard if not each.startswith(ASKING)] == []
