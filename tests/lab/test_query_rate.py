"""slurmctld is asked as often for 500 sessions with 50 people who watch them as for one.

With `make soak`: on a machine that does other things, each query takes longer, and Slurm is asked less often for that.
"""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

import pytest

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

START = """
xargs -P 8 -I NAME curl -s -o /dev/null -w '%{http_code}\\n' --unix-socket "$0" -H 'Content-Type: application/json' \\
  -d '{"profile": "base", "options": ["--begin=now+1hour", "--mem=100M"]}' http://localhost/v1/sessions/NAME/start
"""
REMOVE = """
xargs -P 8 -I NAME curl -s -o /dev/null --unix-socket "$0" -X DELETE 'http://localhost/v1/sessions/NAME?purge=true'
"""
WATCH = """
for i in $(seq %d); do
  timeout %d curl -s --unix-socket "$1" "http://localhost/v1/sessions/$0?after=1000000&wait=300" >/dev/null &
done
wait
"""


@pytest.fixture
def crowd(alice: User) -> Iterator[bytes]:
    """Names of sessions that there may be, a line each; in the end they go."""
    names = [f"crowd-{number}" for number in range(MANY - 1)]
    listed = "".join(f"{each}\n" for each in names).encode()
    yield listed
    lab = alice.site.lab
    lab.sh("scancel -u alice")
    wait_for(lambda: _queued(alice) == 0, what="the jobs to end", seconds=60)
    lab.run(["bash", "-c", REMOVE, API_SOCKET], user="alice", stdin=listed, seconds=240)
    wait_for(lambda: not set(names) & set(alice.sessions()), what="the sessions to go", seconds=240)


def _queued(user: User) -> int:
    return user.request("/v1/sessions")[1].count('"state":"queued"')


def rpcs(lab: Lab) -> int:
    """Return the number of requests of the service account, by slurmctld's count."""
    found = re.search(r"^\s*berth\s+\(\s*\d+\) count:(\d+)", lab.sh("sdiag"), re.MULTILINE)
    assert found is not None, "sdiag knows nothing of the service account"
    return int(found[1])


def a_minute(lab: Lab) -> float:
    """Requests a minute, once nothing has changed for a while."""
    time.sleep(SETTLED)
    before, began = rpcs(lab), time.monotonic()
    time.sleep(WINDOW)
    return (rpcs(lab) - before) * 60 / (time.monotonic() - began)


@pytest.mark.soak
def test_it_is_asked_no_more_often(alice: User, name: str, crowd: bytes) -> None:
    lab = alice.site.lab
    alice.ok("start", name, "--profile", "base", "--no-wait", "--begin=now+1hour")
    alice.wait(name, "queued")
    one = a_minute(lab)
    done = lab.run(["bash", "-c", START, API_SOCKET], user="alice", stdin=crowd, seconds=300)
    assert set(done.stdout.split()) == {b"202"}
    wait_for(lambda: _queued(alice) == MANY, what="all to be known", seconds=60)
    with lab.popen(
        ["bash", "-c", WATCH % (WATCHERS, SETTLED + WINDOW + 30), name, API_SOCKET], user="alice"
    ) as watching:
        many = a_minute(lab)
        assert watching.poll() is None, "the watchers have gone"
        watching.kill()
    print(f"{one:.1f} requests a minute for one session, {many:.1f} for {MANY} and {WATCHERS} watchers")
    assert many == pytest.approx(one, rel=0.1)
