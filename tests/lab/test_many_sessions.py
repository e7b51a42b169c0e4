"""Twenty sessions of three users on three nodes share the GPUs, and all are reachable at once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.lab.conftest import User


def test_twenty_sessions_at_once(people: dict[str, User], new_name: Callable[[str], str]) -> None:
    owners = [list(people.values())[index % 3] for index in range(20)]
    sessions = [(owner, new_name("many")) for owner in owners]

    def start(session: tuple[User, str]) -> None:
        user, name = session
        user.ok("start", name, "--profile", "base", "--gres=shard:1", "--mem=300M", seconds=180)

    def visit(session: tuple[User, str]) -> list[str]:
        user, name = session
        done = user.laptop.ssh(name, "hostname; echo $SLURM_JOB_ID; id -un", seconds=60)
        assert (done.returncode, done.stderr) == (0, b""), name
        return done.stdout.decode().split()

    with ThreadPoolExecutor(20) as pool:
        list(pool.map(start, sessions))
        answers = list(pool.map(visit, sessions))
    assert {node for node, _, _ in answers} == {"c1", "c2", "c3"}
    assert len({job for _, job, _ in answers}) == 20
    assert [user for _, _, user in answers] == [owner.name for owner in owners]
