"""The suite on a guest that runs: `make vm-test`, or by hand with VM_STATE (docs/howto/vm.md).

One session of alice's serves almost all tests, since starting one takes ten seconds under emulation.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from slurm.lab.errors import LabError
from tests.site import guest_site, vm
from tests.vm.person import WAIT, Person

if TYPE_CHECKING:
    from slurm.vm.guest import Guest

HERE = Path(__file__).parent
SESSION = "dev"
LIMIT = "makes no folder without write permission"
"""The words of the doctor and the driver's promises for the faults of fuse-overlayfs on a file server."""
PRICE = "loses those since the last save"
"""The words of the doctor and the driver's promises for the cost of a system volume on the node's disk (ADR 120)."""
IDLE, CONTINUED = "1m", "always"
"""Policies that tests give to the session, and that no default is."""
FIRST, LAST = "test_quickstart.py", "test_survival.py"
"""The files with what a site is in any case, and with what reboots the guest."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Order the files; leave out what the site has not, and in the short form what its other site shows.

    That is, the tests of the services in personal mode, and those of personal mode elsewhere. `short` may have a site:
    the two sites of the short form share its tests. On any other site, all of them run.
    """
    items.sort(key=lambda item: (item.path != HERE / FIRST, item.path == HERE / LAST))
    file = _state() / "site"
    if not file.exists():
        return
    site = file.read_text()
    without = "test_services.py" if guest_site.SITES[site].personal else "test_personal.py"
    is_short = "short" in config.option.markexpr

    def elsewhere(item: pytest.Item) -> bool:
        mark = item.get_closest_marker("short")
        return is_short and site in guest_site.SHORT and mark is not None and site not in (mark.args or (site,))

    left_out = [item for item in items if item.path == HERE / without or elsewhere(item)]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


def _state() -> Path:
    return Path(os.environ.get("VM_STATE") or vm.TEST)


@pytest.fixture(scope="session")
def state() -> Path:
    return _state()


@pytest.fixture(scope="session")
def site(state: Path) -> str:
    """The name of the guest's site. Without a guest the tests fail, and are not skipped."""
    try:
        return vm.site_of(state)
    except LabError as error:
        pytest.fail(error.render(), pytrace=False)


@pytest.fixture(scope="session")
def guest(state: Path, site: str) -> Guest:
    assert site in guest_site.SITES
    return vm.guest(state)


@pytest.fixture(scope="session")
def personal(site: str) -> bool:
    """Whether Berth is each user's own there, without services."""
    return guest_site.SITES[site].personal


@pytest.fixture(scope="session")
def alice(guest: Guest, personal: bool, tmp_path_factory: pytest.TempPathFactory) -> Person:
    return Person.of(guest, "alice", tmp_path_factory.mktemp("laptop"), personal=personal)


@pytest.fixture(scope="session")
def doctor(alice: Person) -> str:
    """The output of `berth doctor` for alice before she has a session."""
    return alice.ok("doctor")


@pytest.fixture(scope="session")
def limited(doctor: str) -> bool:
    """Whether the doctor announces that sessions cannot do everything in their system volume."""
    return LIMIT in doctor


@pytest.fixture(scope="session")
def on_node(doctor: str) -> bool:
    """Whether the doctor announces that a kill costs what has changed in the system volume since the last save."""
    return PRICE in doctor


@pytest.fixture(scope="session")
def started() -> list[int]:
    """The number of failed tests when the session was last seen to be ready, in a list; empty before that."""
    return []


@pytest.fixture
def dev(request: pytest.FixtureRequest, alice: Person, started: list[int]) -> str:
    """A session with one of the two GPUs, ready. A job that an earlier test run has left is continued.

    Tests leave it ready. After one that failed it is started again, so that the others can show something. Policies
    that a killed test has left are reset.
    """
    failed = request.session.testsfailed
    if started != [failed]:
        options = ("--profile", "base", "--gres=gpu:intel:1", "--mem=600M")
        view = json.loads(alice.ok("start", SESSION, *options, "--json", *WAIT))
        if view["idle"] == IDLE or view["continuation"] == CONTINUED:
            alice.ok("set", SESSION, "--idle", "default", "--continue", "default")
        started[:] = [failed]
    return SESSION


FILES = "~/kept /opt/kept"


@pytest.fixture
def kept(alice: Person, dev: str) -> str:
    """The session, with a file in each volume."""
    alice.inside(dev, f"for f in {FILES}; do echo kept >$f; done; sync")
    return dev


@pytest.fixture
def saved(alice: Person, kept: str, on_node: bool) -> str:
    """The same. Where a kill costs what was not saved, a snapshot has saved them."""
    if on_node:
        alice.ok("snapshot", kept, *WAIT)
    return kept


def files_are_kept(alice: Person, session: str) -> bool:
    """Whether the files that `kept` has made are there, and are whole."""
    return alice.inside(session, f"cat {FILES}").split() == ["kept", "kept"]
