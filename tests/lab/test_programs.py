"""Programs in a session that ask where they run: MPI launchers, forwards, agents with many keys, PID files."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.deadlines import DEADLINE_S
from tests.lab_cluster import wait_for
from tests.session_job import ROOM, SessionJob

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.session_job import Bench

MPI_PROGRAMS = ("mpiexec", "hydra_pmi_proxy")
"""MPICH's launcher and its helper, from the wheel that requirements-dev.lock names."""
FAR_APART = 1000
"""Process ids between the beginnings of two runs of a session; a small session has some dozens of processes."""


@pytest.fixture(scope="module")
def running(bench: Bench) -> Iterator[SessionJob]:
    """A session's job with a GPU and two CPUs."""
    made = SessionJob(bench)
    made.prepare()
    made.start("--gres=gpu:intel:1", "--cpus-per-task=2")
    yield made
    made.stop()


def variables(session: SessionJob) -> dict[str, str]:
    return dict(line.split("=", 1) for line in session.says("env").splitlines() if "=" in line)


class TestMpi:
    def test_mpiexec_starts_its_processes_in_the_session(self, running: SessionJob) -> None:
        for name in MPI_PROGRAMS:
            found = shutil.which(name, path=Path(sys.executable).parent)
            assert found is not None, f"the wheel of mpich has no {name}"
            done = running.ssh(f"cat >{name} && chmod 755 {name}", stdin=Path(found).read_bytes())
            assert done.returncode == 0, done.stderr.decode()
        said = running.says("PATH=$HOME:$PATH timeout 20 mpiexec -n 2 sh -c 'echo rank $PMI_RANK of $PMI_SIZE' | sort")
        assert said.splitlines() == ["rank 0 of 2", "rank 1 of 2"]

    def test_a_login_has_no_variable_that_calls_for_srun(self, running: SessionJob) -> None:
        seen = variables(running)
        # SLURM_JOBID: Open MPI. SLURM_NTASKS: PyTorch Lightning. SLURM_STEP_*, SLURM_PROCID: JAX.
        told = {
            name for name in seen if name.startswith(("SLURM_STEP", "HYDRA_", "I_MPI_HYDRA", "OMPI_", "PRTE_", "PMI"))
        }
        told |= seen.keys() & {"SLURM_JOBID", "SLURM_NTASKS", "SLURM_NPROCS", "SLURM_PROCID", "SLURM_LOCALID"}
        told |= seen.keys() & {"SLURM_NODELIST", "SLURM_JOB_NODELIST", "SLURM_NNODES", "SLURM_TASKS_PER_NODE"}
        assert told == set()

    def test_a_login_keeps_the_counts_of_its_job(self, running: SessionJob) -> None:
        seen = variables(running)
        assert seen["SLURM_CPUS_ON_NODE"] == seen["SLURM_CPUS_PER_TASK"] == "2"
        assert seen["SLURM_GPUS_ON_NODE"] == "1"
        assert {"SLURM_JOB_ID", "SLURM_JOB_GPUS", "SLURM_JOB_END_TIME", "SLURMD_NODENAME"} <= seen.keys()


IPV6_PORT = 24601
SERVER = f"""
import socket
with socket.create_server(("::1", {IPV6_PORT}), family=socket.AF_INET6) as server:
    while True:
        client, _ = server.accept()
        client.sendall(b"from [::1]")
        client.close()
"""
READ = "import socket; print(socket.create_connection(({host!r}, {port})).recv(10).decode())"
"""A Python program that shows the first bytes that a service sends."""
SOCKS = f"""
import socket
proxy = socket.create_connection(("127.0.0.1", 24603))
proxy.sendall(bytes.fromhex("050100" "05010004" + "00" * 15 + "01" + "{IPV6_PORT:04x}"))  # SOCKS5, to ::1: RFC 1928
said = b""
while data := proxy.recv(100):
    said += data
print(said[-10:].decode())
"""


@pytest.fixture(scope="module")
def _service(running: SessionJob) -> None:
    """A service in the session that listens on IPv6 loopback only."""
    running.says(f"setsid python3 -c {shlex.quote(SERVER)} >/dev/null 2>&1 </dev/null &")
    read = shlex.quote(READ.format(host="::1", port=IPV6_PORT))
    wait_for(lambda: running.ssh(f"python3 -c {read}").stdout == b"from [::1]\n", what="the service")


@pytest.mark.usefixtures("_service")
class TestForwards:
    def test_a_forward_of_standard_input_reaches_it(self, running: SessionJob) -> None:
        argv = running.ssh_argv("-W", f"[::1]:{IPV6_PORT}")
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=DEADLINE_S, check=False)
        assert done.stdout == b"from [::1]"

    @pytest.mark.parametrize(
        ("options", "program"),
        [
            (["-L", f"24602:[::1]:{IPV6_PORT}"], READ.format(host="127.0.0.1", port=24602)),
            (["-D", "24603"], SOCKS),
        ],
    )
    def test_local_and_dynamic_forwards_reach_it(self, running: SessionJob, options: list[str], program: str) -> None:
        with forwarding(running, *options):
            read = ["python3", "-c", program]
            wait_for(
                lambda: running.bench.run(*read, user="alice").stdout == b"from [::1]\n", what=f"the forward {options}"
            )

    def test_a_remote_forward_listens_on_ipv6_loopback_of_the_session(self, running: SessionJob) -> None:
        read = shlex.quote(READ.format(host="::1", port=24604))
        with forwarding(running, "-R", "[::1]:24604:127.0.0.1:22"):
            wait_for(lambda: running.ssh(f"python3 -c {read}").stdout.startswith(b"SSH-2.0"), what="the remote forward")


@contextmanager
def forwarding(session: SessionJob, *options: str) -> Iterator[None]:
    """Keep an ssh client of alice's open that only forwards."""
    argv = session.ssh_argv("-N", "-o", "ExitOnForwardFailure=yes", *options)
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as client:
        try:
            yield
        finally:
            client.terminate()


def test_an_agent_with_many_keys_is_let_in(running: SessionJob) -> None:
    right = f"{ROOM}/alice/id"
    script = (
        "eval $(ssh-agent) >/dev/null; trap 'kill $SSH_AGENT_PID' EXIT; d=$(mktemp -d); "
        "for i in $(seq 18); do ssh-keygen -q -t ed25519 -N '' -f $d/$i; ssh-add -q $d/$i; done; "
        f'ssh-add -q {right}; "$@"; rm -r $d'
    )
    argv = ["ssh", "-F", "none", *options_of(running, "IdentitiesOnly=no", "IdentityFile=none")]
    target = f"alice@{running.job().node}"
    done = running.bench.run("bash", "-c", script, "agent", *argv, target, "echo in", user="alice")
    assert done.stdout == b"in\n", done.stderr.decode()


def options_of(session: SessionJob, *changes: str) -> list[str]:
    """The `-o` options of the session's own ssh command, after these changes: OpenSSH takes the first of each."""
    own = session.ssh_argv()
    options = [own[place + 1] for place, word in enumerate(own) if word == "-o"]
    kept = [option for option in options if not option.startswith(("IdentitiesOnly=", "IdentityFile="))]
    return [word for option in (*changes, *kept) for word in ("-o", option)]


def test_each_run_of_a_session_has_process_ids_of_its_own(session: SessionJob) -> None:
    session.start()
    first = int(session.says("echo $$"))
    session.bench.sh(f"scontrol requeue {session.jobs[-1]}", user="alice")
    wait_for(lambda: session.job().state == "PENDING", what="the requeued job")
    session.bench.sh(f"scontrol update JobId={session.jobs[-1]} StartTime=now")
    session.announced(restarts=1)
    assert abs(int(session.says("echo $$")) - first) > FAR_APART


def test_the_session_user_is_a_user_that_sudo_takes(running: SessionJob) -> None:
    for words in ("-u alice", "-H -S -n -u alice", "-ualice", "--user=alice", "-u '#5001'"):
        assert running.says(f"sudo {words} sh -c 'id -un; echo $HOME'") == "alice\n/home/alice"
    assert running.says("cd /; sudo -i -u alice pwd") == "/home/alice"
