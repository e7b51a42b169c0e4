"""Fixtures that all tests share."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from slurm.lab.errors import LabError
from slurm.lab.releases import RELEASES, SID, TRIXIE
from tests.deadlines import DEADLINE_S
from tests.durations import Durations, sort_by_duration
from tests.failures import FailuresAtOnce
from tests.lab_cluster import Lab, older_name, wait_for
from tests.postgresql import PostgreSQL, running
from tests.scheduling import make_scheduler

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Protocol

    from xdist.remote import Producer

    class SupportsFileno(Protocol):
        def fileno(self) -> int: ...


settings.register_profile("order", deadline=None)  # a busy machine is no fault: tests check order, not times
settings.load_profile("order")


def pytest_configure(config: pytest.Config) -> None:
    """Take a lab in a worker; record durations, and report failures at once, where all workers' reports arrive.

    Whatever the environment says, programs keep their bytecode: tests start thousands, and each would compile Berth.
    """
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False
    if hasattr(config, "workerinput") and "LAB_NAME" in os.environ:
        _lab_name()
    if not hasattr(config, "workerinput") and config.getoption("numprocesses", None):
        config.pluginmanager.register(Durations())
        config.pluginmanager.register(FailuresAtOnce(config))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> object:
    """Share single tests of the longest files among the workers."""
    return make_scheduler(config, log)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Begin with the longest files where several workers share the tests: the short ones fill the end.

    With TEST_ORDER=shortest, begin with the shortest, so that most failures are reported early.
    """
    if hasattr(config, "workerinput"):
        sort_by_duration(items, shortest_first=os.environ.get("TEST_ORDER") == "shortest")


@pytest.fixture(scope="session", autouse=True)
def nfs_locks() -> Iterator[None]:
    """Refuse, in this process, what NFS refuses: a lock on a descriptor that is not open for it (flock(2))."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("flock", "lockf"):
            patch.setattr(fcntl, name, _as_on_nfs(getattr(fcntl, name)))
        yield


def _as_on_nfs(real: Callable[..., None]) -> Callable[..., None]:
    def lock(descriptor: int | SupportsFileno, operation: int, *rest: int) -> None:
        access = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE
        refused = {fcntl.LOCK_SH: os.O_WRONLY, fcntl.LOCK_EX: os.O_RDONLY}
        if access == refused.get(operation & ~fcntl.LOCK_NB):
            raise OSError(errno.EBADF, "this lock fails on NFS")
        real(descriptor, operation, *rest)

    return lock


@pytest.fixture(autouse=True)
def own_umask() -> Iterator[None]:
    """Restore the umask: later tests of this process would make files that other accounts cannot read."""
    before = _umask()
    yield
    os.umask(before)


def _umask() -> int:
    """Return the umask without changing it (proc_pid_status(5))."""
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    return int(status.partition("\nUmask:")[2].split()[0], 8)


@pytest.fixture
def place() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="berth-"))  # short: a socket's path has at most 107 bytes
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[PostgreSQL]:
    """A server for all tests; each leaves it running."""
    with running() as server:
        yield server


@pytest.fixture
def postgresql(postgresql_server: PostgreSQL) -> PostgreSQL:
    """The server, with an empty database: what an earlier test started has ended by now."""
    postgresql_server.clear()
    return postgresql_server


@functools.cache
def _lab_name() -> str:
    """Return $LAB_NAME, or `lab`; with several pytest workers, the first of theirs that no other worker has.

    The lock ends with the worker: one that replaces a crashed worker takes its lab.
    """
    name, worker = os.environ.get("LAB_NAME", "lab"), os.environ.get("PYTEST_XDIST_WORKER", "")
    if not worker:
        return name
    labs = [f"{name}-gw{index}" for index in range(int(os.environ["PYTEST_XDIST_WORKER_COUNT"]))]
    for each in sorted(labs, key=lambda lab: lab != f"{name}-{worker}"):
        lock = os.open(Path(tempfile.gettempdir()) / f"{each}.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
        else:
            return each
    pytest.fail(f"other workers have all labs: {', '.join(labs)}", pytrace=False)


@pytest.fixture(scope="session")
def lab() -> Lab:
    """The lab called $LAB_NAME, or `lab`; with several pytest workers, this worker's own.

    It must be up: a test that needs it fails otherwise, and is not skipped.
    """
    try:
        return Lab.find(_lab_name())
    except (AssertionError, LabError) as error:
        pytest.fail(str(error), pytrace=False)


@pytest.fixture(scope="module")
def older_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A lab of the module's own, whose nodes have Slurm 24.11, and neither pyslurm nor Apptainer nor Berth.

    A test that needs it fails if it cannot be made, and is not skipped.
    """
    name = older_name(_lab_name())
    state = tmp_path_factory.mktemp("older") / "state"
    _lab_command("up", "--name", name, "--state", str(state), "--suite", TRIXIE, "--operator", "berth")
    yield Lab.find(name)
    _lab_command("down", "--name", name)


@pytest.fixture(scope="module", params=RELEASES, ids=[release.slurm for release in RELEASES.values()])
def each_lab(request: pytest.FixtureRequest) -> Lab:
    """The lab, and then the one with an older Slurm."""
    found = request.getfixturevalue("lab" if request.param == SID else "older_lab")
    assert isinstance(found, Lab)
    return found


def _lab_command(*argv: str) -> None:
    command = [sys.executable, "-m", "slurm.lab", *argv]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    if done.returncode != 0:
        pytest.fail(done.stderr, pytrace=False)


@pytest.fixture(scope="module")
def tidy(lab: Lab) -> Iterator[None]:
    """A module leaves no jobs behind, and every node in service: the next one's would wait for them."""
    yield

    def left() -> str:
        jobs = lab.sh("squeue -h -o 'job %i, %j of %u: %T'")
        return "\n".join(filter(None, [jobs, lab.sh("sinfo -h -N -t drain,down,fail -o '%N: %T, %E'")]))

    with contextlib.suppress(AssertionError):
        wait_for(lambda: not left(), what="an empty queue")
    assert not left(), f"what the module has left on the lab:\n{left()}"
