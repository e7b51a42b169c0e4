"""A day of alice's, with the machine's own OpenSSH as her laptop's."""

from __future__ import annotations

import fcntl
import hashlib
import os
import pty
import struct
import subprocess
import termios
from typing import TYPE_CHECKING

from tests.deadlines import DEADLINE_S
from tests.lab_cluster import wait_for

if TYPE_CHECKING:
    from tests.lab.conftest import User


def test_a_session_keeps_name_host_key_and_files_over_stop_and_start_on_another_node(alice: User, name: str) -> None:
    alice.ok("start", name, "--profile", "base", "--gres=gpu:intel:1", "--nodelist=c1")
    first = alice.show(name)
    done = alice.laptop.ssh(name, "hostname; echo $SLURM_JOB_ID $ZE_AFFINITY_MASK; echo kept >kept.txt")
    assert (done.returncode, done.stderr) == (0, b"")
    node, numbers = done.stdout.decode().splitlines()
    assert node == "c1"
    assert numbers.split() == [str(first["job_id"]), "0"]

    alice.ok("stop", name)
    assert alice.show(name)["state"] == "stopped"
    assert alice.jobs(first["id"]) == []
    alice.ok("start", name, "--nodelist=c2")
    second = alice.show(name)
    assert second["endpoint"]["node"] == "c2"
    assert second["options"] == ["--gres=gpu:intel:1", "--nodelist=c2"]
    assert second["host_key_fingerprint"] == first["host_key_fingerprint"]
    assert second["generation"] != first["generation"]
    done = alice.laptop.ssh(name, "cat kept.txt; hostname")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"kept\nc2\n", b"")


def test_replaced_host_key_is_told_and_then_certified(alice: User, name: str) -> None:
    """The owner replaces the file while the session runs: no client notices, until Slurm starts the job again."""
    alice.ok("start", name, "--profile", "base", "--nodelist=c1")
    first = alice.show(name)
    run = f"/shared/berth/alice/sessions/{first['id']}/run"
    lab = alice.site.lab
    lab.sh(
        f"rm {run}/ssh_host_ed25519_key*; ssh-keygen -q -t ed25519 -N '' -f {run}/ssh_host_ed25519_key", user="alice"
    )
    fingerprint = lab.sh(f"ssh-keygen -lf {run}/ssh_host_ed25519_key.pub").split()[1]
    alice.laptop.ok(name, "true")
    lab.sh(f"scontrol requeue {first['job_id']}")
    view = alice.until(name, lambda now: fingerprint in now["reason"], what="the job to announce its key")
    assert view["state"] == "starting"
    assert "`berth stop" in alice.ok("explain", name)
    alice.ok("stop", name)
    alice.ok("start", name)
    assert alice.show(name)["host_key_fingerprint"] == fingerprint
    done = alice.laptop.ssh(name, "hostname")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"c1\n", b"")


def test_a_terminal_is_one_with_the_size_of_the_users(alice: User, standing: str) -> None:
    near, far = pty.openpty()
    fcntl.ioctl(far, termios.TIOCSWINSZ, struct.pack("HHHH", 37, 119, 0, 0))
    argv = alice.laptop.argv(
        standing, ["tty; stty size; echo TERM=$TERM; test -t 0 && echo interactive"], options=["-tt"]
    )
    process = subprocess.Popen(argv, stdin=far, stdout=far, stderr=far, env=os.environ | {"TERM": "xterm-256color"})
    os.close(far)
    seen = bytearray()
    try:
        while b"interactive" not in seen:
            seen += os.read(near, 4096)
    finally:
        process.wait(timeout=DEADLINE_S)
        os.close(near)
    lines = seen.decode().split()
    assert lines[0].startswith("/dev/pts/")
    assert lines[1:3] == ["37", "119"]
    assert "TERM=xterm-256color" in lines


def test_exec_passes_exit_codes_arguments_and_bytes_unchanged(alice: User, standing: str) -> None:
    for code in (0, 1, 42, 255):
        assert alice.berth("exec", standing, "--", "sh", "-c", f"exit {code}").returncode == code
    words = ["two words", "$HOME", "'quoted'", '"double"', "a\\b", "", "*", "snowman \u2603"]
    done = alice.berth("exec", standing, "--", "printf", "%s\\n", *words)
    assert done.stdout.decode() == "".join(f"{word}\n" for word in words)
    content = bytes(range(256)) * 4096 * 4
    there_and_back = alice.berth("exec", standing, "--", "cat", stdin=content)
    assert there_and_back.stdout == content
    done = alice.berth("exec", standing, "--", "sha256sum", stdin=content)
    assert done.stdout.split()[0].decode() == hashlib.sha256(content).hexdigest()
    assert alice.berth("exec", standing, "--", "sh", "-c", "echo out; echo err >&2").stderr == b"err\n"


def test_the_same_through_the_gateway_from_the_laptop(alice: User, standing: str) -> None:
    content = os.urandom(8 * 2**20)
    done = alice.laptop.ssh(standing, "tee copy | sha256sum; exit 7", stdin=content, seconds=60)
    assert done.returncode == 7
    assert done.stdout.split()[0].decode() == hashlib.sha256(content).hexdigest()
    assert alice.laptop.ok(standing, "cat copy", seconds=60) == content


def test_berth_ssh_runs_a_command_from_the_login_node(alice: User, standing: str) -> None:
    done = alice.berth("ssh", standing, "echo", "$SLURM_JOB_ID")
    assert done.stdout.decode().strip() == str(alice.show(standing)["job_id"])


def test_starting_twice_is_one_job_and_stopping_twice_is_fine(alice: User, name: str) -> None:
    alice.ok("start", name, "--profile", "base")
    alice.ok("start", name)
    assert len(alice.jobs(alice.show(name)["id"])) == 1
    alice.ok("stop", name)
    alice.ok("stop", name)
    alice.ok("delete", name, "--yes")
    wait_for(lambda: not alice.knows(name), what="the session to be gone")


def test_what_slurm_refuses_is_said_and_changes_nothing(alice: User, name: str) -> None:
    for _ in range(2):  # the name is free again at once
        done = alice.berth("start", name, "--profile", "base", "--partition=nowhere")
        assert done.returncode == 4
        assert b"partition" in done.stderr
        assert alice.berth("show", name).returncode == 3
    alice.ok("start", name, "--profile", "base")
    alice.ok("stop", name)
    assert alice.berth("start", name, "--gres=gpu:none:9").returncode == 4
    assert alice.show(name)["state"] == "stopped"
    alice.ok("start", name, "--gres=gpu:intel:1")


def test_queued_sessions_say_why_and_the_gateway_tells_the_terminal(alice: User, name: str) -> None:
    alice.ok("start", name, "--profile", "base", "--no-wait", "--begin=now+1hour")
    view = alice.wait(name, "queued")
    assert view["reason"] == "BeginTime"
    assert view["expected_start_at"] > view["submitted_at"] + 3000
    done = alice.laptop.ssh(name, "true")
    assert done.returncode == 255
    assert b"is queued: BeginTime (its start time has not come)" in done.stderr


def test_the_gateway_says_what_is_wrong(alice: User, bob: User, name: str) -> None:
    assert b"you have no session named nothing" in alice.laptop.ssh("nothing", "true").stderr
    alice.ok("start", name, "--profile", "base")
    refused = bob.laptop.ssh(f"alice.{name}", "true")
    assert refused.returncode == 255
    assert b"alice has no session named" in refused.stderr
    alice.ok("stop", name)
    assert f"{name} is stopped".encode() in alice.laptop.ssh(name, "true").stderr
