"""slurmctld is asked as often for 500 sessions with 50 people who watch them as for one."""

from __future__ import annotations

import json
import re
import time
from typing import TYPE_CHECKING

import pytest

from broker.identifiers import new_id
from broker.manifest import Manifest
from tests.fakes.rows import make_session
from tests.lab.conftest import API_SOCKET
from tests.lab_cluster import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.lab.conftest import User
    from tests.lab_cluster import Lab

MANY, WATCHERS = 500, 50
SETTLED = 25.0
"""Seconds after the last change from which on the loop asks at its slowest for sessions that move."""
WINDOW = 60.0
"""Seconds that are counted."""
SESSIONS = "/shared/berth/alice/sessions"

SUBMIT = """
cd /tmp
while read -r id; do
  sbatch --quiet --begin=now+1hour --mem=100M --job-name=berth-$id --comment=berth:$id:1 --output=/dev/null --wrap true
done
"""
REMOVE = """
while read -r name; do
  curl -s --unix-socket "$0" -X DELETE "http://localhost/v1/sessions/$name?purge=true" >/dev/null
done
"""
WATCH = """
for i in $(seq %d); do
  timeout %d curl -s --unix-socket "$1" "http://localhost/v1/sessions/$0?after=1000000&wait=300" >/dev/null &
done
wait
"""


@pytest.fixture
def crowd(alice: User) -> Iterator[list[str]]:
    """Ids of sessions that there may be, each of which goes in the end; their names are their ids with an s before."""
    ids = [new_id() for _ in range(MANY - 1)]
    yield ids
    lab = alice.site.lab
    lab.run(["xargs", "-n", "50", "scancel"], user="alice", stdin=_jobs(lab, ids), seconds=120)
    names = "".join(f"s{each}\n" for each in ids).encode()
    wait_for(lambda: "queued" not in alice.request("/v1/sessions")[1], what="the jobs to end", seconds=60)
    lab.run(["bash", "-c", REMOVE, API_SOCKET], user="alice", stdin=names, seconds=240)
    wait_for(lambda: len(alice.sessions()) <= 1, what="the sessions to go", seconds=240)


def _jobs(lab: Lab, ids: list[str]) -> bytes:
    """The ids of their jobs, a line each."""
    wanted = {f"berth-{each}" for each in ids}
    listed = [line.split() for line in lab.sh("squeue -h -u alice -o '%i %j'").splitlines()]
    return "".join(f"{job}\n" for job, name in listed if name in wanted).encode()


def rpcs(lab: Lab) -> int:
    """How many requests of the service account slurmctld has counted."""
    found = re.search(r"^\s*berth\s+\(\s*\d+\) count:(\d+)", lab.sh("sdiag"), re.MULTILINE)
    assert found is not None, "sdiag knows nothing of the service account"
    return int(found[1])


def a_minute(lab: Lab) -> float:
    """Requests a minute, once nothing has changed for a while."""
    time.sleep(SETTLED)
    before, began = rpcs(lab), time.monotonic()
    time.sleep(WINDOW)
    return (rpcs(lab) - before) * 60 / (time.monotonic() - began)


def test_it_is_asked_no_more_often(alice: User, name: str, crowd: list[str]) -> None:
    lab = alice.site.lab
    alice.ok("start", name, "--profile", "base", "--no-wait", "--begin=now+1hour")
    alice.wait(name, "queued")
    one = a_minute(lab)
    image = json.loads(alice.ok("profile", "show", "base", "--json"))
    for each in crowd:
        row = make_session("alice", f"s{each}", id=each, digest=image["digest"], host_key="")
        lab.run(
            ["sh", "-c", f"mkdir -m 700 -p {SESSIONS}/{each} && cat >{SESSIONS}/{each}/manifest.json"],
            user="alice",
            stdin=Manifest.of(row).text.encode(),
        )
    lab.run(["bash", "-c", SUBMIT], user="alice", stdin="".join(f"{each}\n" for each in crowd).encode(), seconds=300)
    lab.sh("berth registry rebuild", seconds=120)
    wait_for(lambda: alice.request("/v1/sessions")[1].count('"queued"') == MANY, what="all to be known", seconds=60)
    with lab.popen(
        ["bash", "-c", WATCH % (WATCHERS, SETTLED + WINDOW + 30), name, API_SOCKET], user="alice"
    ) as watching:
        many = a_minute(lab)
        assert watching.poll() is None, "the watchers have gone"
        watching.kill()
    print(f"{one:.1f} requests a minute for one session, {many:.1f} for {MANY} and {WATCHERS} watchers")
    assert many == pytest.approx(one, rel=0.1)
