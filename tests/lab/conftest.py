"""What the tests on the lab share: Berth installed on it, an image, people, and a laptop for each."""

from __future__ import annotations

import itertools
import json
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from slurm.lab.progress import Progress
from tests.lab_cluster import wait_for
from tests.site import deploy
from tests.site.laptop import Laptop

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.lab_cluster import Lab
    from tests.site.deploy import Site

_names = itertools.count(1)


@pytest.fixture(scope="session")
def site(lab: Lab) -> Site:
    """Berth on the lab, its services answering."""
    made = deploy.Site(lab)
    assert made.api_answers(), f"Berth does not answer on the lab:\n{made.log('broker')[-2000:]}"
    return made


@pytest.fixture(scope="session")
def image(site: Site) -> str:
    """The profile that tests start sessions from, built."""
    deploy.build_profile(site, "base", Progress(quiet=True))
    return "base"


@dataclass(frozen=True)
class User:
    """Somebody on the login node and at a laptop."""

    name: str
    site: Site
    laptop: Laptop

    def berth(self, *arguments: str, seconds: float = 60, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        """`berth …` on the login node."""
        return self.site.lab.run(["berth", *arguments], user=self.name, seconds=seconds, stdin=stdin)

    def ok(self, *arguments: str, seconds: float = 60, stdin: bytes = b"") -> str:
        """The same, which must succeed; its standard output."""
        done = self.berth(*arguments, seconds=seconds, stdin=stdin)
        assert done.returncode == 0, f"berth {' '.join(arguments)} ended with {done.returncode}: {done.stderr.decode()}"
        return done.stdout.decode()

    def show(self, session: str) -> dict[str, Any]:
        """The session as the API gives it."""
        view: dict[str, Any] = json.loads(self.ok("show", session, "--json"))
        return view

    def wait(self, session: str, *states: str, seconds: float = 60) -> dict[str, Any]:
        """The session, once it is in one of these states."""
        wait_for(
            lambda: self.show(session)["state"] in states,
            what=f"{session} to be {' or '.join(states)}",
            seconds=seconds,
        )
        return self.show(session)

    def jobs(self, session_id: str) -> list[str]:
        """The ids of the live jobs in Slurm that carry the session's name."""
        return self.site.lab.sh(f"squeue -h -o %i --name=berth-{session_id}").split()


@pytest.fixture(scope="session")
def people(site: Site, image: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, User]:
    """Alice, bob and carol, each with a key that is let in and a configuration that leads to the gateway."""
    assert image
    port = _free_port()
    entry = f"127.0.0.1:{port}:login:{deploy.GATEWAY_PORT}"
    publish = [sys.executable, "-m", "slurm.lab", "publish", "--name", site.lab.place.name, entry]
    subprocess.run(publish, check=True, timeout=30)
    directory: Path = tmp_path_factory.mktemp("laptops")
    return {name: User(name, site, Laptop.of(site, name, directory / name, port)) for name in ("alice", "bob", "carol")}


@pytest.fixture
def alice(people: dict[str, User]) -> User:
    return people["alice"]


@pytest.fixture
def bob(people: dict[str, User]) -> User:
    return people["bob"]


@pytest.fixture
def new_name(people: dict[str, User]) -> Iterator[Callable[[str], str]]:
    """Makes names of sessions that are stopped and deleted after the test, whoever owns them."""
    made: list[str] = []

    def name(stem: str = "s") -> str:
        made.append(f"{stem}{next(_names)}")
        return made[-1]

    yield name
    left = [
        (user, session["name"])
        for user in people.values()
        for session in json.loads(user.ok("list", "--json"))["sessions"]
        if session["name"] in made
    ]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(_end, left))


@pytest.fixture
def name(new_name: Callable[[str], str]) -> str:
    """One such name."""
    return new_name("s")


def _end(what: tuple[User, str]) -> None:
    user, session = what
    user.ok("stop", session, seconds=120)
    user.ok("delete", session, "--yes", seconds=120)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
