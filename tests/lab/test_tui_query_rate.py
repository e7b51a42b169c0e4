"""slurmctld counts as many requests with 50 terminal interfaces as with none (sdiag(1)).

In `make test`, the interfaces are their workers without screens, and the window is short. `make soak` opens real ones
in terminals for minutes.
"""

from __future__ import annotations

import time
from collections import Counter
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.lab.test_cluster import requests_to_slurm
from tests.pseudo_terminal import PseudoTerminal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractContextManager

    from tests.lab.conftest import User

pytestmark = pytest.mark.waits
INTERFACES = 50
SETTLED_S = 25.0
"""Seconds after the last change from which on the controller asks at its slowest for sessions that move."""
SHORT_S, LONG_S = 30.0, 300.0
ALONE_S = 150.0
"""Seconds without interfaces beside LONG_S: a test may take ten minutes in all."""
JOBS, NODES = "REQUEST_JOB_INFO", "REQUEST_NODE_INFO"
NODES_A_MINUTE = 2
EDGES = 2
"""Requests by which two windows may differ: one at an edge, and one for the queue among the cluster's numbers."""
CROWD = ["/opt/berth/venv/bin/python", "-P", "-m", "tests.load.tui_crowd"]


@contextmanager
def workers(people: Mapping[str, User]) -> Iterator[None]:
    """Have interfaces of three users open during the block; all of them are connected at its end."""
    shares = {user: INTERFACES // len(people) + 1 for user in people.values()}
    with ExitStack() as stack:
        crowds = {
            user: stack.enter_context(user.site.lab.popen([*CROWD, str(count)], user=user.name))
            for user, count in shares.items()
        }
        for crowd in crowds.values():
            assert crowd.stdout is not None
            assert crowd.stdout.readline() == b"open\n"
        yield
        for user, crowd in crowds.items():
            output, errors = crowd.communicate()
            assert output == f"{shares[user]}\n".encode(), errors.decode()


@contextmanager
def terminals(people: Mapping[str, User]) -> Iterator[None]:
    """The same with `berth tui` in real terminals, a fifth of which show the cluster."""
    environment = {"TERM": "xterm-256color", "LC_CTYPE": "C.UTF-8"}
    users = [*people.values()] * (INTERFACES // len(people) + 1)
    with ExitStack() as stack:
        opened = []
        for user in users[:INTERFACES]:
            command = user.site.lab.argv(["berth", "tui"], user=user.name, env=environment)
            opened.append(stack.enter_context(PseudoTerminal(command, {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"})))
        for terminal in opened:
            terminal.wait_for(lambda text: "session" in text and "connecting" not in text)
        looking = opened[::5]
        for terminal in looking:
            terminal.type("F")
            terminal.wait_for_text("CPUs ")
        yield
        for terminal in looking:
            terminal.read()
            assert "CPUs " in terminal.text()
            terminal.type("q")
            terminal.wait_for_text("q quit")
        for terminal in opened:
            terminal.read()
            assert "trying again" not in terminal.text()
            terminal.type("q")
        for terminal in opened:
            assert terminal.wait_for_end() == 0


def count_requests(user: User, seconds: float) -> Counter[str]:
    """Return the numbers of requests for jobs and for nodes in a time, once nothing has changed for a while."""
    time.sleep(SETTLED_S)
    before = requests_to_slurm(user.site.lab)
    time.sleep(seconds)
    counts: Counter[str] = Counter()
    for kind, count in requests_to_slurm(user.site.lab).items():
        counts[JOBS if kind.startswith(JOBS) else kind] += count - before.get(kind, 0)
    return counts


@pytest.mark.soak
@pytest.mark.parametrize(
    ("opened", "alone_s", "seconds"),
    [(workers, SHORT_S, SHORT_S), (terminals, ALONE_S, LONG_S)],
    ids=["workers", "terminals"],
)
def test_fifty_interfaces_cause_no_request_of_jobs(  # noqa: PLR0917 - fixtures
    people: dict[str, User],
    alice: User,
    new_name: Callable[[str], str],
    opened: Callable[[Mapping[str, User]], AbstractContextManager[None]],
    alone_s: float,
    seconds: float,
) -> None:
    """With a session that waits, whose job the controller asks for, and one that runs, whose node it asks for."""
    waiting = new_name("waits")
    alice.ok("start", new_name("runs"), "--profile", "base", "--mem=300M")
    alice.ok("start", waiting, "--profile", "base", "--no-wait", "--begin=now+1hour")
    alice.wait(waiting, "queued")
    none = count_requests(alice, alone_s)
    with opened(people):
        many = count_requests(alice, seconds)
    print(
        f"requests without interfaces in {alone_s:g} s: {dict(none)}, with {INTERFACES} in {seconds:g} s: {dict(many)}"
    )
    assert none[JOBS] > 0
    assert many[JOBS] == pytest.approx(none[JOBS] * seconds / alone_s, rel=0.1, abs=EDGES)
    assert many[NODES] <= NODES_A_MINUTE * seconds / 60 + 1
