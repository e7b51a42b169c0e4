"""Large uploads and downloads through berth-web, which no process on their way keeps in memory."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from slurm.lab.progress import ProgressLog
from slurm.lab.spec import LOGIN
from tests.site import deploy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.lab.conftest import User
    from tests.lab_cluster import Lab
    from tests.site.deploy import Site

VISITOR = "/opt/berth/src/tests/site/web_visitor.py"
SERVICE = "page"
MAX_GROWTH_MB = 50
PROCESSES = {"haproxy", "ssh", "berth-cli", "sshd-session"}
"""Names that are among those of the processes."""
FORGET_PEAK = "5"
"""Written to clear_refs, it sets the peak to the present size: proc_pid_clear_refs(5)."""


@pytest.fixture(scope="module")
def session(people: dict[str, User], site: Site, image: str) -> Iterator[str]:
    assert image
    deploy.build_profile(site, "web", ProgressLog(quiet=True))
    alice = people["alice"]
    alice.ok("start", "bodies", "--profile", "web", "--mem=1G")
    yield "bodies"
    alice.remove("bodies")


@pytest.mark.parametrize("megabytes", [64, pytest.param(2048, marks=pytest.mark.soak)])
def test_no_process_keeps_what_passes(alice: User, session: str, megabytes: int) -> None:
    lab, node = alice.site.lab, alice.show(session)["endpoint"]["node"]
    argv = lab.argv(["python3", VISITOR, "transfer", session, SERVICE, str(megabytes)], user=alice.name)
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as visitor:
        assert visitor.stdin is not None
        assert visitor.stdout is not None
        assert visitor.stdout.readline() == b"entered\n", visitor.communicate()
        before = {place: _forget_peaks(lab, *place) for place in _places(node)}
        assert {name for found in before.values() for name, _ in found.values()} >= PROCESSES
        said, errors = visitor.communicate(b"go\n", timeout=60 + megabytes)
    assert said == b"transferred\n", errors.decode()
    for place, processes in before.items():
        peaks = _sizes(lab, *place, "VmHWM")
        for pid, (name, size) in processes.items():
            assert pid in peaks, f"{name} has ended"
            growth = (peaks[pid][1] - size) / 1024
            assert growth < MAX_GROWTH_MB, f"{name} has grown by {growth:.0f} MB"


def _places(node: str) -> list[tuple[str, str]]:
    """The node of each process on the way, and how pgrep(1) finds it there."""
    return [
        (LOGIN, f"-u {deploy.WEB_ACCOUNT}"),
        (LOGIN, f"-u {deploy.SERVICE_ACCOUNT}"),
        (node, "-u alice -x sshd.*"),
    ]


def _forget_peaks(lab: Lab, node: str, found_by: str) -> dict[str, tuple[str, int]]:
    """Set the peak of these processes to their present size; name and size by process id."""
    lab.sh(f"for p in $(pgrep {found_by}); do echo {FORGET_PEAK} >/proc/$p/clear_refs || true; done", node=node)
    return _sizes(lab, node, found_by, "VmHWM")


def _sizes(lab: Lab, node: str, found_by: str, field: str) -> dict[str, tuple[str, int]]:
    """Name and kilobytes of these processes, by process id."""
    script = f"for p in $(pgrep {found_by}); do echo $p $(cat /proc/$p/comm) $(grep {field}: /proc/$p/status); done"
    rows = [line.split() for line in lab.sh(script, node=node).splitlines()]
    return {row[0]: (row[1], int(row[3])) for row in rows if len(row) > 3}
