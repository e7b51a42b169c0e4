"""Labs that are begun, broken and taken away, on the real thing: what is refused, and that nothing is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from slurm.lab.enter import exec_argv
from slurm.lab.spec import NODES
from tests.deadlines import DEADLINE_S
from tests.lab.own_lab import cli, free_port, up, wait_for

if TYPE_CHECKING:
    from collections.abc import Sequence

OWN_FILES = Path()
"""The folder of the files of this worker's tests, set by _own_files()."""


@pytest.fixture(scope="module", autouse=True)
def _tidy() -> None:
    """These labs are the tests' own, and go with them."""


@pytest.fixture(scope="module", autouse=True)
def _own_files(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Let leftovers() know the files of this worker's tests."""
    global OWN_FILES  # noqa: PLW0603 - one module's tests
    OWN_FILES = tmp_path_factory.getbasetemp()


def machine() -> set[str]:
    """Return the names of the kernel's interfaces, namespaces, mounts and control groups, and of the present labs."""
    links = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True).stdout
    found = {"link " + line.split(":")[1] for line in links.splitlines()}
    found |= {"netns " + path.name for path in Path("/run/netns").glob("*")}
    found |= {"mount " + line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()}
    found |= {"cgroup " + str(path) for path in Path("/sys/fs/cgroup").glob("*/*") if path.is_dir()}
    found |= {"cgroup " + str(path) for path in Path("/sys/fs/cgroup").glob("*") if path.is_dir()}
    found |= {"lab " + path.name for path in Path("/run/slurmlab").glob("[a-z]*")}
    return found


class Members:
    """The processes in the namespaces of a lab's nodes.

    The kernel gives the number of a namespace that has ended to a new one, for example to that of a lab beside this
    one. So the pid namespaces are held open, which keeps their numbers; nothing keeps a process alive by it. The
    others are not held, because that would keep interfaces and mounts: there, the processes of before are known by
    their ids and start times.
    """

    def __init__(self, inits: Sequence[int]) -> None:
        self.held = [os.open(f"/proc/{pid}/ns/pid", os.O_RDONLY) for pid in inits]
        self.pid_spaces = {f"pid:[{os.fstat(held).st_ino}]" for held in self.held}
        own = set(namespaces_of("self"))
        self.seen = self._found({space for pid in inits for space in namespaces_of(str(pid))} - own)

    def alive(self) -> set[tuple[str, str]]:
        """Return who is in one of the pid namespaces, and who was in any namespace at first and has not ended.

        A killed process leaves its namespaces before it is a zombie: `down` may return between the two.
        """
        still = {(pid, start) for pid, start in self.seen if start_time(pid) == start}
        return still | self._found(self.pid_spaces)

    def close(self) -> None:
        for held in self.held:
            os.close(held)

    def _found(self, spaces: set[str]) -> set[tuple[str, str]]:
        pids = (entry.name for entry in Path("/proc").iterdir() if entry.name.isdigit())
        found = {(pid, start_time(pid)) for pid in pids if set(namespaces_of(pid)) & spaces}
        return {(pid, start) for pid, start in found if start}


def namespaces_of(pid: str) -> list[str]:
    """Return the names of the process's namespaces, none if it has ended."""
    try:
        return [str(path.readlink()) for path in Path(f"/proc/{pid}/ns").iterdir()]
    except OSError:
        return []


def start_time(pid: str) -> str:
    """Return when the process began, in clock ticks since the boot (proc(5)); empty if it has ended or is a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else fields[19]


def leftovers(before: set[str], name: str) -> set[str]:
    """Return what has appeared since `before`, without what belongs to another lab or to tests that run beside these.

    Those mount below a folder for temporary files of their own.
    """
    others = f"mount {tempfile.gettempdir()}/"
    found = {item for item in machine() - before if "slurmlab." not in item or f"slurmlab.{name}." in item}
    found -= {item for item in found if item.startswith("lab ") and item != f"lab {name}"}
    return {item for item in found if not item.startswith(others) or item.startswith(f"mount {OWN_FILES}/")}


def test_down_leaves_nothing(tmp_path: Path) -> None:
    name, before = "labtest-gone", machine()
    lab = up(name, tmp_path / "state", "--publish", f"127.0.0.1:{free_port()}:login:22")
    script = "--wrap=setsid sleep 300 & wait"
    job = lab.text("sbatch", "--parsable", "--gres=gpu:intel:1", "--output=/dev/null", script)
    wait_for(lambda: " R " in lab.text("squeue", "--noheader", f"--jobs={job.strip()}"), "the job runs")
    inside = subprocess.Popen(exec_argv("c2", ["sleep", "300"], user="bob", lab=lab.place))
    outside = subprocess.Popen(exec_argv("c2", ["sleep", "300"], user="bob", lab=lab.place, host_network=True))
    assert leftovers(before, name)
    members = Members([node["pid"] for node in lab.status()["nodes"].values()])
    assert {str(inside.pid), str(outside.pid)} <= {pid for pid, _ in members.alive()}

    done = cli("down", "--name", name)

    assert done.returncode == 0, done.stderr
    assert leftovers(before, name) == set()
    assert inside.wait(timeout=DEADLINE_S) != 0
    assert outside.wait(timeout=DEADLINE_S) != 0
    wait_for(lambda: not members.alive(), "the end of the lab's processes")
    members.close()
    assert not (tmp_path / "state").exists()
    assert cli("down", "--name", name).returncode == 0


def test_down_after_half_of_it_was_killed(tmp_path: Path) -> None:
    name, before = "labtest-half", machine()
    lab = up(name, tmp_path / "state")
    nodes = lab.status()["nodes"]
    members = Members([node["pid"] for node in nodes.values()])
    daemons = nodes["login"]["daemons"]
    for victim in (nodes["c1"]["pid"], daemons["slurmctld"]["pid"], daemons["munged"]["pid"]):
        os.kill(victim, signal.SIGKILL)
    os.kill(nodes["c2"]["daemons"]["slurmd"]["pid"], signal.SIGSTOP)
    (lab.place.node_dir("c3") / "init.pid").unlink()

    done = cli("down", "--name", name)

    assert done.returncode == 0, done.stderr
    assert leftovers(before, name) == set()
    wait_for(lambda: not members.alive(), "the end of the lab's processes")
    members.close()


def test_up_mends_a_lab_that_lost_a_node_and_keeps_its_data(tmp_path: Path) -> None:
    name = "labtest-mend"
    lab = up(name, tmp_path / "state")
    lab.text("sh", "-c", "echo kept > file")
    os.kill(lab.status()["nodes"]["login"]["pid"], signal.SIGKILL)
    lab = up(name, tmp_path / "state")
    try:
        assert lab.text("cat", "file") == "kept\n"
        assert lab.text("srun", "hostname").strip() in NODES
        assert cli("down", "--name", name, "--keep").returncode == 0
        lab = up(name, tmp_path / "state")
        assert lab.text("cat", "file") == "kept\n"
        assert "COMPLETED" in lab.text("sacct", "-nX", "-o", "State")
    finally:
        assert cli("down", "--name", name).returncode == 0


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_up_takes_down_what_it_began(tmp_path: Path, signum: signal.Signals) -> None:
    name, before = "labtest-int", machine()
    argv = [sys.executable, "-m", "slurm.lab", "up", "--name", name, "--state", str(tmp_path / "state")]
    with subprocess.Popen(argv, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert any("nodes booted" in line for line in process.stderr)
        process.send_signal(signum)
        assert process.wait(timeout=DEADLINE_S) == 130
    assert leftovers(before, name) == set()


def test_a_failed_step_names_itself_its_log_and_leaves_nothing(tmp_path: Path) -> None:
    name, before = "labtest-fail", machine()
    broken = tmp_path / "layer/usr/sbin"
    broken.mkdir(parents=True)
    (broken / "slurmdbd").write_text("#!/bin/sh\necho out of order >&2\nsleep 1\nexit 1\n")
    (broken / "slurmdbd").chmod(0o755)
    done = cli("up", "--name", name, "--state", str(tmp_path / "state"), "--layer", str(tmp_path / "layer"))
    assert done.returncode == 1
    assert "slurmdbd on login ended" in done.stderr
    log = Path(next(line for line in done.stderr.splitlines() if "log:" in line).split()[1])
    assert "out of order" in log.read_text()
    assert leftovers(before, name) == set()


@pytest.mark.parametrize(
    ("prefix", "options", "said"),
    [
        (["unshare", "--user"], [], "the lab needs root"),
        ([], ["--min-free-gib", "1000000"], "GiB of free disk space"),
        ([], ["--bind", "/no/such/directory:/x"], "does not exist"),
        ([], ["--publish", "0.0.0.0:22:login:22"], "only loopback addresses"),
        (
            ["unshare", "--mount", "--propagation=private", "sh", "-c", 'umount -Rl /sys/fs/cgroup; exec "$@"', "sh"],
            [],
            "cgroup",
        ),
    ],
)
def test_refusals_are_one_clear_message_and_nothing_half_done(
    tmp_path: Path, prefix: Sequence[str], options: Sequence[str], said: str
) -> None:
    argv = [
        *prefix,
        sys.executable,
        "-m",
        "slurm.lab",
        "up",
        "--name",
        "labtest-no",
        "--state",
        str(tmp_path / "no"),
        *options,
    ]
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    done = subprocess.run(argv, capture_output=True, text=True, timeout=DEADLINE_S, check=False, env=environment)
    assert done.returncode == 1, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "no").exists()


def test_a_directory_with_other_things_in_it_is_never_taken(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("x")
    done = cli("up", "--name", "labtest-dir", "--state", str(tmp_path))
    assert done.returncode == 1
    assert "is not empty" in done.stderr
    assert cli("down", "--name", "labtest-dir", "--state", str(tmp_path)).returncode == 0
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]
