"""The fixtures of all tests on the lab: Berth installed on it, an image, people, and a laptop for each."""

from __future__ import annotations

import itertools
import json
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import pytest

from slurm.lab.progress import ProgressLog
from tests.deadlines import DEADLINE_S
from tests.lab import ways
from tests.lab.browser import chromium_on_login, new_browser
from tests.lab.dying import dies_at_each
from tests.lab.images import ROOM, STORE, published
from tests.lab.services import restart
from tests.lab_cluster import wait_for
from tests.session_job import Bench, SessionJob
from tests.site import deploy
from tests.site.laptop import Laptop

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from playwright.sync_api import Browser, BrowserContext, Page

    from tests.lab.ways import Way
    from tests.lab_cluster import Lab
    from tests.site.deploy import Site

API_SOCKET = "/run/berth/api.sock"
JOB_STATES = ("PD", "R", "S", "RQ", "RV", "CA", "CD", "F", "TO", "NF", "PR", "BF", "DL", "OOM")
"""All that sacct(1) knows, by its short names."""
_names = itertools.count(1)


@pytest.fixture(scope="module", autouse=True)
def _tidy(tidy: None, site: Site) -> None:  # noqa: ARG001 - its end checks what the module leaves
    """Begin every module here with services that answer: what an earlier one broke stays that one's failure."""
    restart(site)


@pytest.fixture(scope="session")
def site(lab: Lab) -> Site:
    """Berth on the lab, its services answering."""
    made = deploy.Site(lab)
    assert made.api_answers(), f"Berth does not answer on the lab:\n{made.log('broker')[-2000:]}"
    return made


@pytest.fixture(params=[False, pytest.param(True, marks=pytest.mark.soak)], ids=["few", "all"])
def dies(request: pytest.FixtureRequest, crashing: Site) -> Callable[..., None]:
    """`dies_at_each` at a few of the points; in `make soak` at all of them."""

    def at(points: Sequence[str], *rest: Callable[..., object]) -> None:
        dies_at_each(crashing, points if request.param else points[::3], *rest)

    return at


@pytest.fixture
def crashing(site: Site) -> Iterator[Site]:
    """The site; whatever a test does to its services, they run again afterwards."""
    yield site
    restart(site)


@pytest.fixture(scope="session")
def image(site: Site) -> str:
    """The profile that tests start sessions from, built."""
    deploy.build_profile(site, "base", ProgressLog(quiet=True))
    return "base"


@pytest.fixture(scope="session")
def other(site: Site, image: str) -> str:
    """A second image, which stands on the first, built; its version is 1."""
    assert image
    deploy.build_profile(site, "other", ProgressLog(quiet=True))
    return "other"


@pytest.fixture(scope="session")
def apart(site: Site, image: str) -> str:
    """A profile that shows no batch job where it was submitted from, built."""
    assert image
    deploy.build_profile(site, "apart", ProgressLog(quiet=True))
    return "apart"


@pytest.fixture(scope="module")
def room(lab: Lab) -> str:
    """A folder of alice's for profiles and their images."""
    lab.sh(f"rm -rf {ROOM}; install -d -m 755 -o alice {ROOM} {STORE}")
    return ROOM


@pytest.fixture(scope="module")
def bench(lab: Lab) -> Bench:
    made = Bench(lab, published(lab, "base"))
    made.set_up()
    return made


@pytest.fixture
def session(bench: Bench) -> Iterator[SessionJob]:
    """A session of alice's that no job carries yet, made without the broker."""
    made = SessionJob(bench)
    made.prepare()
    yield made
    for job in made.jobs:
        bench.run("scancel", str(job))
        made.ended(job)


@dataclass(frozen=True)
class User:
    """A person on the login node and at a laptop."""

    name: str
    site: Site
    laptop: Laptop

    def berth(
        self, *arguments: str, seconds: float = DEADLINE_S, stdin: bytes = b""
    ) -> subprocess.CompletedProcess[bytes]:
        """`berth …` on the login node."""
        return self.site.lab.run(["berth", *arguments], user=self.name, seconds=seconds, stdin=stdin)

    def ok(self, *arguments: str, seconds: float = DEADLINE_S, stdin: bytes = b"") -> str:
        """The same, which must succeed; its standard output."""
        done = self.berth(*arguments, seconds=seconds, stdin=stdin)
        assert done.returncode == 0, f"berth {' '.join(arguments)} ended with {done.returncode}: {done.stderr.decode()}"
        return done.stdout.decode()

    def request(self, path: str, *options: str) -> tuple[int, str]:
        """Send one request to the API's socket, without the command line's start of a tenth of a second.

        Return the HTTP status and the body; status 0 without an answer.
        """
        command = ["curl", "-s", "--unix-socket", API_SOCKET, "-w", "\n%{http_code}", *options]
        done = self.site.lab.run([*command, f"http://localhost{path}"], user=self.name)
        body, _, status = done.stdout.decode().rpartition("\n")
        return int(status), body

    def show(self, session: str, query: str = "") -> dict[str, Any]:
        """The session as the API gives it."""
        status, body = self.request(f"/v1/sessions/{session}{query}")
        assert status == HTTPStatus.OK, body
        view: dict[str, Any] = json.loads(body)
        return view

    def until(
        self, session: str, holds: Callable[[dict[str, Any]], bool], *, what: str, seconds: float = DEADLINE_S
    ) -> dict[str, Any]:
        """The session, once the condition holds of it; the API tells of each change."""
        deadline = time.monotonic() + seconds
        view = self.show(session)
        while not holds(view):
            assert time.monotonic() < deadline, f"waited {seconds:g} s in vain for {what}; it is {view}"
            view = self.show(session, f"?after={view['revision']}&wait=5")
        return view

    def wait(self, session: str, *states: str, seconds: float = DEADLINE_S) -> dict[str, Any]:
        """The session, once it is in one of these states."""
        what = f"{session} to be {' or '.join(states)}"
        return self.until(session, lambda view: view["state"] in states, what=what, seconds=seconds)

    def runs_again(self, session: str, before: dict[str, Any], seconds: float) -> dict[str, Any]:
        """The session, once it is ready in another run than in `before`: in another job, or in the same one."""

        def holds(view: dict[str, Any]) -> bool:
            return bool(view["state"] == "ready" and view["generation"] != before["generation"])

        return self.until(session, holds, what=f"{session} to run again", seconds=seconds)

    def carried_on(self, session: str, before: dict[str, Any], seconds: float) -> dict[str, Any]:
        """The session, once another job than in `before` has made it ready."""

        def holds(view: dict[str, Any]) -> bool:
            return bool(view["state"] == "ready" and view["job_id"] != before["job_id"])

        return self.until(session, holds, what=f"{session} to be carried on", seconds=seconds)

    def knows(self, session: str) -> bool:
        """Whether there is a session of that name."""
        status, body = self.request(f"/v1/sessions/{session}")
        assert status in {HTTPStatus.OK, HTTPStatus.NOT_FOUND}, body
        return status == HTTPStatus.OK

    def sessions(self) -> list[str]:
        """The names of all the user's sessions."""
        status, body = self.request("/v1/sessions")
        assert status == HTTPStatus.OK, body
        return [view["name"] for view in json.loads(body)["sessions"]]

    def remove(self, session: str) -> None:
        """Stop a session, delete it, and wait until it has gone."""
        status, body = self.request(f"/v1/sessions/{session}/stop", "-X", "POST")
        assert status == HTTPStatus.ACCEPTED, body
        self.wait(session, "stopped", seconds=120)
        status, body = self.request(f"/v1/sessions/{session}", "-X", "DELETE")
        assert status == HTTPStatus.ACCEPTED, body
        deadline = time.monotonic() + 120
        while status != HTTPStatus.NOT_FOUND:
            assert time.monotonic() < deadline, f"{session} does not go: {body}"
            status, body = self.request(f"/v1/sessions/{session}?after={json.loads(body)['revision']}&wait=5")
            assert status in {HTTPStatus.OK, HTTPStatus.NOT_FOUND}, body

    def jobs(self, session_id: str) -> list[str]:
        """The ids of the live jobs in Slurm that carry the session's name."""
        return self.site.lab.sh(f"squeue -h -o %i --name=berth-{session_id}").split()

    def every_job(self, session_id: str) -> list[str]:
        """The ids of all jobs that ever carried the session's name, by accounting: also of those that were cancelled.

        A job that never became eligible gets into accounting as it ends, so together with `jobs` none is missed. A
        job that Slurm has requeued has several records of one id, and is one job.
        """
        lab = self.site.lab
        # slurmctld takes what it has to say off this queue when slurmdbd has written it down.
        wait_for(lambda: "DBD Agent queue size: 0" in lab.sh("sdiag"), what="slurmdbd to have heard of all jobs")
        # Asked without states, sacct leaves out jobs that never became eligible, as a second one of a session.
        window = f"--starttime=now-1day --endtime=now+1day --state={','.join(JOB_STATES)}"
        records = lab.sh(f"sacct --allusers -D -n -X -P -o jobid --name=berth-{session_id} {window}").split()
        return list(dict.fromkeys(records))


@pytest.fixture(scope="session")
def people(site: Site, image: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, User]:
    """Alice, bob and carol, each with a key that is let in and a configuration that leads to the gateway."""
    assert image
    port = _free_port()
    entry = f"127.0.0.1:{port}:login:{deploy.GATEWAY_PORT}"
    publish = [sys.executable, "-m", "slurm.lab", "publish", "--name", site.lab.place.name, entry]
    subprocess.run(publish, check=True, timeout=DEADLINE_S)
    directory: Path = tmp_path_factory.mktemp("laptops")
    return {name: User(name, site, Laptop.of(site, name, directory / name, port)) for name in ("alice", "bob", "carol")}


@pytest.fixture
def alice(people: dict[str, User]) -> User:
    return people["alice"]


@pytest.fixture
def bob(people: dict[str, User]) -> User:
    return people["bob"]


@pytest.fixture
def carol(people: dict[str, User]) -> User:
    return people["carol"]


@pytest.fixture(params=ways.ALL)
def way(request: pytest.FixtureRequest, alice: User, session: str, tmp_path: Path) -> Way:
    """One of the ways in, to the session of the module's own fixture `session`."""
    return ways.ALL[request.param](alice, session, tmp_path / "room")


@pytest.fixture
def new_name(people: dict[str, User]) -> Iterator[Callable[[str], str]]:
    """Makes names of sessions that are stopped and deleted after the test, whichever user owns them."""
    made: list[str] = []

    def name(stem: str = "s") -> str:
        made.append(f"{stem}{next(_names)}")
        return made[-1]

    yield name
    left = [(user, session) for user in people.values() for session in user.sessions() if session in made]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda each: each[0].remove(each[1]), left))


@pytest.fixture
def name(new_name: Callable[[str], str]) -> str:
    """One such name."""
    return new_name("s")


@pytest.fixture(scope="module")
def standing(people: dict[str, User]) -> Iterator[str]:
    """A ready session of alice's, for all tests of a module that only look at it."""
    alice, name = people["alice"], "standing"
    alice.ok("start", name, "--profile", "base")
    yield name
    alice.remove(name)


@pytest.fixture(scope="module")
def chromium(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Chromium in the login node's network. It ends with the module: other modules run event loops of their own."""
    with chromium_on_login(site.lab, tmp_path_factory.mktemp("chromium")) as browser:
        yield browser


@pytest.fixture
def context(chromium: Browser) -> Iterator[BrowserContext]:
    """A browser without cookies."""
    with new_browser(chromium) as made:
        yield made


@pytest.fixture
def page(context: BrowserContext) -> Page:
    """A page of that browser."""
    return context.new_page()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
