"""A lab that is up, on the real thing: it fences, answers, can be hurt, and carries connections to their end."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import secrets
import select
import signal
import socket
import struct
import subprocess
import sys
import termios
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from slurm.lab.enter import exec_argv
from slurm.lab.spec import NODES
from tests.deadlines import DEADLINE_S
from tests.lab.own_lab import Cluster, cli, free_port, up, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NAME = "labtest"


@pytest.fixture(scope="module", autouse=True)
def _tidy() -> None:
    """This lab is the tests' own, and goes with them."""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    state = tmp_path_factory.mktemp("lab") / "state"
    shown = tmp_path_factory.mktemp("bound")
    shown.chmod(0o755)
    (shown / "file").write_text("from the machine\n")
    cluster = up(NAME, state, "--operator", "service", "--bind", f"{shown}:/bound:ro")
    yield cluster
    done = cli("down", "--name", NAME)
    assert done.returncode == 0, done.stderr


def test_up_again_says_so_and_changes_nothing(lab: Cluster) -> None:
    before = lab.status()
    again = cli("up", "--name", NAME, *options(lab), seconds=20)
    assert again.returncode == 0, again.stderr
    assert f"lab {NAME} is already up" in again.stderr
    assert lab.status() == before


def test_up_starts_daemons_that_died(lab: Cluster) -> None:
    os.kill(lab.status()["nodes"]["c1"]["daemons"]["slurmd"]["pid"], signal.SIGKILL)
    wait_for(lambda: not lab.status()["healthy"], "the death is told")
    done = cli("up", "--name", NAME, *options(lab))
    assert "already up; restarted: slurmd on c1" in done.stderr
    assert lab.status()["healthy"]


def options(lab: Cluster) -> list[str]:
    """Return the options with which the module's lab was brought up."""
    bind = json.loads(lab.place.spec_file.read_text())["binds"][0]
    return ["--operator", "service", "--bind", f"{bind['source']}:/bound:ro"]


def test_daemons_that_were_reconfigured_are_known(lab: Cluster) -> None:
    """They execute their files again, under the names of these files."""
    before = slurm_daemons(lab)
    lab.text("scontrol", "reconfigure", user="root")
    wait_for(lambda: all(serves for _, serves in slurm_daemons(lab).values()), "the daemons serve")
    assert slurm_daemons(lab) == before


def slurm_daemons(lab: Cluster) -> dict[tuple[str, str], tuple[int | None, bool]]:
    """Return process id and state of slurmctld and of each slurmd, by node and name."""
    return {
        (node, name): (daemon["pid"], daemon["serves"])
        for node, found in lab.status()["nodes"].items()
        for name, daemon in found["daemons"].items()
        if name in {"slurmctld", "slurmd"}
    }


def test_up_with_other_settings_is_refused_with_the_remedy(lab: Cluster) -> None:
    refused = cli("up", "--name", NAME, "--users", "dave", seconds=20)
    assert refused.returncode == 1
    assert "users, operators, binds" in refused.stderr
    assert f"down --name {NAME}" in refused.stderr
    assert lab.status()["healthy"]


def test_up_with_pyslurm_is_refused_for_a_slurm_that_has_none(tmp_path: Path) -> None:
    refused = cli("up", "--name", "labtest2", "--state", str(tmp_path), "--suite", "trixie", "--pyslurm", seconds=20)
    assert refused.returncode == 1
    assert "there is no pyslurm for Debian trixie" in refused.stderr
    assert "remedy: without --pyslurm" in refused.stderr
    assert list(tmp_path.iterdir()) == []


def test_up_in_another_directory_is_refused(lab: Cluster, tmp_path: Path) -> None:
    refused = cli("up", "--name", NAME, "--state", str(tmp_path), seconds=20)
    assert refused.returncode == 1
    assert str(lab.place.state) in refused.stderr
    assert list(tmp_path.iterdir()) == []


def test_one_gpu_of_two_is_visible_and_the_other_refused(lab: Cluster) -> None:
    look = (
        "echo mask=$ZE_AFFINITY_MASK; for d in 128 129; do head -c1 /dev/dri/renderD$d >/dev/null && echo $d; done; :"
    )
    done = lab.run("srun", "--gres=gpu:intel:1", "bash", "-c", look)
    assert done.stdout.split() == [b"mask=0", b"128"]
    assert b"renderD129' for reading: Operation not permitted" in done.stderr
    assert lab.text("srun", "--gres=gpu:intel:2", "bash", "-c", look).split() == ["mask=0,1", "128", "129"]
    assert lab.text("srun", "bash", "-c", look).split() == ["mask="]


def test_memory_overrun_ends_as_out_of_memory(lab: Cluster) -> None:
    hog = "x = bytearray(400 << 20)"
    job = lab.text("sbatch", "--parsable", "--mem=100", "--output=/dev/null", f"--wrap=python3 -c '{hog}'").strip()
    wait_for(lambda: "OUT_OF_MEMORY" in lab.text("sacct", "-nXP", "-j", job, "-o", "State"), "OUT_OF_MEMORY in sacct")


def test_shards_let_many_jobs_share_the_gpus_of_a_node(lab: Cluster) -> None:
    jobs = lab.text(
        "sbatch", "--parsable", "--nodelist=c2", "--gres=shard:1", "--mem=50", "--output=/dev/null",
        "--array=1-8", "--wrap=sleep 60",
    ).strip()  # fmt: skip
    running = ["squeue", "--noheader", "--array", "--states=RUNNING", f"--jobs={jobs}"]
    wait_for(lambda: lab.text(*running).count(" c2") == 8, "eight jobs with a shard each on one node")
    lab.text("scancel", jobs)


def test_accounting_knows_jobs_users_and_operators(lab: Cluster) -> None:
    job = lab.text("sbatch", "--parsable", "--output=/dev/null", "--comment=hello", "--wrap=exit 3").strip()
    fields = ["sacct", "-nXP", "-j", job, "-o", "User,Account,State,ExitCode,Comment"]
    wait_for(lambda: lab.text(*fields).strip() == "alice|lab|FAILED|3:0|hello", "the job in sacct")
    levels = lab.text("sacctmgr", "-nP", "show", "user", "format=user,adminlevel")
    assert "service|Operator" in levels
    assert "bob|None" in levels


def test_urgent_jobs_requeue_those_that_are_in_their_way(lab: Cluster) -> None:
    whole = ["--nodelist=c3", "--gres=gpu:intel:2", "--output=/dev/null", "--wrap=sleep 60"]
    first = lab.text("sbatch", "--parsable", *whole).strip()
    state = ["squeue", "--noheader", "--format=%T", "--jobs"]
    wait_for(lambda: lab.text(*state, first).strip() == "RUNNING", "the first job runs")
    second = lab.text("sbatch", "--parsable", "--partition=urgent", *whole).strip()
    wait_for(lambda: lab.text(*state, second).strip() == "RUNNING", "the urgent job runs")
    assert "Restarts=1" in lab.text("scontrol", "show", "job", first)
    lab.text("scancel", first, second)


def test_exec_passes_exit_codes_signals_and_bytes_on(lab: Cluster) -> None:
    assert lab.run("bash", "-c", "exit 42").returncode == 42
    assert lab.run("bash", "-c", "kill -TERM $$").returncode == -signal.SIGTERM
    data = secrets.token_bytes(3_000_000)
    assert lab.run("cat", stdin=data).stdout == data


def test_exec_gives_a_login_of_the_user(lab: Cluster) -> None:
    script = 'id -un; id -gn; pwd; echo "$HOME $USER $SHELL"; hostname; umask; cat /bound/file; touch /bound/no 2>&1; :'
    lines = lab.text("bash", "-c", script, node="c1").splitlines()
    assert lines[:3] == ["alice", "alice", "/shared/home/alice"]
    assert lines[3] == "/shared/home/alice alice /bin/bash"
    assert lines[4] == "c1"
    assert lines[6] == "from the machine"
    assert "Read-only file system" in lines[7]
    assert lab.run("ls", "/shared/home/alice", user="bob").returncode != 0


def test_exec_command_line_takes_options_before_and_after_the_node(lab: Cluster) -> None:
    assert lab.place.name == NAME
    for order in (["login", "--user", "bob"], ["--user", "bob", "login"]):
        done = cli(
            "exec", "--name", NAME, *order, "--env", "A=b c", "--cwd", "/usr", "--", "sh", "-c", "id -un; echo $A; pwd"
        )
        assert done.stdout == "bob\nb c\n/usr\n"
    assert cli("exec", "--name", NAME, "login", "--user", "nobody-here", "--", "true").returncode == 1


def test_a_killed_exec_takes_its_command_along_and_an_interrupt_reaches_it(lab: Cluster) -> None:
    marker = f"marker{os.getpid()}"
    argv = exec_argv("login", ["bash", "-c", f"exec -a {marker} sleep 300"], user="alice", lab=lab.place)
    process = subprocess.Popen(argv)
    wait_for(lambda: lab.run("pgrep", "-f", f"^{marker}").returncode == 0, "the command runs")
    process.kill()
    process.wait()
    wait_for(lambda: lab.run("pgrep", "-f", f"^{marker}").returncode == 1, "the command is gone")

    script = "trap 'echo caught; exit 9' INT; echo ready; while :; do sleep 0.1; done"
    argv = exec_argv("login", ["bash", "-c", script], user="alice", lab=lab.place)
    with subprocess.Popen(argv, stdout=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        os.killpg(process.pid, signal.SIGINT)
        assert process.stdout.read() == b"caught\n"
        assert process.wait(timeout=DEADLINE_S) == 9


def test_terminal_belongs_to_the_node_and_follows_the_window(lab: Cluster) -> None:
    assert lab.place.name == NAME
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 99, 0, 0))
    script = "tty; stat -c %U $(tty); stty size; read -r line; stty size; exit 7"
    argv = [sys.executable, "-m", "slurm.lab", "exec", "--name", NAME, "--tty", "--user", "alice", "login"]
    # A session of its own, so that the change of the window's size reaches it as it would from a terminal.
    process = subprocess.Popen(
        ["setsid", "--ctty", "--wait", *argv, "--", "sh", "-c", script], stdin=slave, stdout=slave, stderr=slave
    )
    os.close(slave)
    first = read_until(master, b"33 99")
    assert b"/dev/pts/" in first
    assert b"alice" in first
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 120, 0, 0))
    size = ["stty", "-F", "/dev/pts/0", "size"]
    wait_for(lambda: lab.run(*size, user="root").stdout == b"50 120\n", "the new size in the node")
    os.write(master, b"go\r")
    read_until(master, b"50 120")
    assert process.wait(timeout=DEADLINE_S) == 7
    os.close(master)


def read_until(fd: int, what: bytes, seconds: float = DEADLINE_S) -> bytes:
    seen = b""
    deadline = time.monotonic() + seconds
    while what not in seen:
        ready, _, _ = select.select([fd], [], [], max(0, deadline - time.monotonic()))
        assert ready, f"no {what!r} within {seconds} s, only {seen!r}"
        seen += os.read(fd, 65536)
    return seen


def test_published_port_carries_many_connections_to_their_end(lab: Cluster) -> None:
    port = free_port()
    argv = exec_argv("c1", ["socat", "TCP-LISTEN:7007,fork,reuseaddr,backlog=500", "EXEC:cat"], lab=lab.place)
    with subprocess.Popen(argv) as server:
        try:
            assert cli("publish", "--name", NAME, f"127.0.0.1:{port}:c1:7007").returncode == 0
            wait_for(lambda: echo(port, b"x") == b"x", "the echo answers")
            data = secrets.token_bytes(200_000)
            with ThreadPoolExecutor(50) as pool:
                answers = list(pool.map(lambda _: echo(port, data), range(100)))
            assert answers == [data] * 100
            [entry] = lab.status()["published"]
            assert (entry["port"], entry["node"], entry["node_port"]) == (port, "c1", 7007)
            busy = cli("publish", "--name", NAME, f"127.0.0.1:{port}:c2:7007")
            assert busy.returncode == 1
            assert "is published as" in busy.stderr
            assert cli("unpublish", "--name", NAME, str(port)).returncode == 0
            wait_for(lambda: echo(port, b"x") is None, "nothing listens any more")
        finally:
            server.kill()


def echo(port: int, data: bytes) -> bytes | None:
    """Send `data`, end the sending side, read to the end, or until the listener has gone; None without a listener."""
    try:
        connection = socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S)
    except ConnectionRefusedError:
        return None
    with connection:
        answer = b""
        with ThreadPoolExecutor(1) as pool:

            def send() -> None:
                connection.sendall(data)
                connection.shutdown(socket.SHUT_WR)

            sent = pool.submit(send)
            with contextlib.suppress(ConnectionResetError):
                while chunk := connection.recv(65536):
                    answer += chunk
                sent.result()
        return answer


def test_ssh_with_a_key_through_a_published_port(lab: Cluster, tmp_path: Path) -> None:
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    script = "mkdir -pm 700 .ssh; cat > .ssh/authorized_keys; chmod 600 .ssh/authorized_keys"
    assert lab.run("sh", "-c", script, stdin=key.with_suffix(".pub").read_bytes()).returncode == 0
    port = free_port()
    assert cli("publish", "--name", NAME, f"127.0.0.1:{port}:login:22").returncode == 0
    options = ["-F", "none", "-i", str(key), "-p", str(port), "-o", "StrictHostKeyChecking=no", "-o", "BatchMode=yes"]
    known = ["-o", f"UserKnownHostsFile={tmp_path / 'known'}", "-o", "ConnectTimeout=10"]
    done = subprocess.run(
        ["ssh", *options, *known, "alice@127.0.0.1", "hostname; id -un; sinfo -ho %P"],
        capture_output=True, text=True, timeout=DEADLINE_S, check=False,
    )  # fmt: skip
    assert done.stdout.split() == ["login", "alice", "gpu*", "urgent"], done.stderr
    assert cli("unpublish", "--name", NAME, str(port)).returncode == 0


def test_a_stopped_controller_is_told_and_a_dead_one_started_again(lab: Cluster) -> None:
    pid = lab.status()["nodes"]["login"]["daemons"]["slurmctld"]["pid"]
    os.kill(pid, signal.SIGSTOP)
    try:
        status = lab.status()
        assert not status["slurm_answers"]
        assert not status["healthy"]
    finally:
        os.kill(pid, signal.SIGCONT)
    wait_for(lambda: bool(lab.status()["healthy"]), "the controller answers again")
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not lab.status()["healthy"], "the death is told")
    assert cli("restart", "--name", NAME, "login", "slurmctld").returncode == 0
    assert lab.status()["nodes"]["login"]["daemons"]["slurmctld"]["pid"] not in {None, pid}
    assert lab.text("srun", "hostname").strip() in NODES


@pytest.mark.parametrize("daemon", ["munged", "mariadbd", "slurmdbd"])
def test_every_daemon_survives_a_restart(lab: Cluster, daemon: str) -> None:
    done = cli("restart", "--name", NAME, "login", daemon)
    assert done.returncode == 0, done.stderr
    wait_for(lambda: lab.run("sacct", "-n").returncode == 0, "sacct answers")
    assert lab.status()["healthy"]


def test_a_node_can_be_unplugged_and_booted_again(lab: Cluster) -> None:
    lab.text("touch", "/opt/kept", node="c3", user="root")
    assert cli("node", "--name", NAME, "c3", "down").returncode == 0
    assert lab.status()["nodes"]["c3"]["pid"] is None
    refused = cli("exec", "--name", NAME, "c3", "--", "true")
    assert (refused.returncode, "node c3 of lab labtest is not up" in refused.stderr) == (1, True)
    done = cli("node", "--name", NAME, "c3", "up")
    assert done.returncode == 0, done.stderr
    wait_for(lambda: lab.run("srun", "--nodelist=c3", "test", "-e", "/opt/kept").returncode == 0, "a job on c3")


def test_logs_show_a_daemon(lab: Cluster) -> None:
    assert lab.place.name == NAME
    shown = cli("logs", "--name", NAME, "login", "slurmctld", "-n", "1000").stdout
    assert "slurmctld version" in shown
    assert cli("logs", "--name", NAME, "c1", "slurmctld").returncode == 1
