"""The end of the session script: out of memory, without its slurmstepd, and with nothing left behind."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from tests.component.job.session_script import bash
from tests.deadlines import DEADLINE_S
from tests.job_scripts import SESSION
from tests.lab_cluster import wait_for


class TestMemoryCounter:
    @pytest.mark.parametrize(
        ("text", "code"),
        [
            ("low 0\nhigh 3\nmax 9\noom 0\noom_kill 0\n", 0),
            ("low 0\nhigh 0\nmax 9\noom 1\noom_kill 1\noom_group_kill 0\n", 72),
            ("oom_kill_disable 0\nunder_oom 0\noom_kill 0\n", 0),
            ("oom_kill_disable 0\nunder_oom 0\noom_kill 2\n", 72),
        ],
    )
    def test_a_kill_ends_the_session_whatever_the_version_of_cgroups(
        self, tmp_path: Path, text: str, code: int
    ) -> None:
        counter = tmp_path / "counter"
        counter.write_text(text)
        assert bash("OOM_COUNTER=$1; check_memory", str(counter)).returncode == code


SLUID = "s5KQ2M8Z7V3TXR"
V2 = "system.slice/{scope}/{job}/step_batch/user/{task}"
CGROUPS = {
    "v1": ("4:memory:/slurm/uid_1000/job_7/step_batch/task_0", "memory/slurm/uid_1000/job_7/step_batch/task_0"),
    "v1 without tasks": ("4:memory:/slurm/uid_1000/job_7/step_batch", "memory/slurm/uid_1000/job_7/step_batch"),
    "v1 with node names": (
        "7:cpu,memory:/slurm_c1/uid_1000/job_7/step_batch/task_0",
        "memory/slurm_c1/uid_1000/job_7",
    ),
    "v2 of 22.05": (
        "0::/" + V2.format(scope="slurmstepd.scope", job="job_7", task="task_0"),
        V2.format(scope="slurmstepd.scope", job="job_7", task="task_0"),
    ),
    "v2, its leaf without the controller": (
        "0::/" + V2.format(scope="slurmstepd.scope", job="job_7", task="task_special"),
        "system.slice/slurmstepd.scope/job_7/step_batch/user",
    ),
    "v2 with node names": (
        "0::/" + V2.format(scope="c1_slurmstepd.scope", job="job_7", task="task_4294967293"),
        "system.slice/c1_slurmstepd.scope/job_7/step_batch",
    ),
    "v2 of 26.05": (
        "0::/" + V2.format(scope="c1_slurmstepd.scope", job=SLUID, task="task_0"),
        V2.format(scope="c1_slurmstepd.scope", job=SLUID, task="task_0"),
    ),
    "v2 of 26.05, counted for the job alone": (
        "0::/" + V2.format(scope="slurmstepd.scope", job=SLUID, task="task_0"),
        f"system.slice/slurmstepd.scope/{SLUID}",
    ),
    "v2 in another slice": (f"0::/hpc.slice/{SLUID}/step_batch/user/task_0", f"hpc.slice/{SLUID}/step_batch/user"),
}
"""Lines of /proc/self/cgroup in batch jobs, and the lowest directory of the job with a counter: the plugins cgroup/v1
and cgroup/v2 of Slurm 22.05 to 26.05 (cgroup_p_step_create in its sources)."""


class TestCgroups:
    def found(self, tmp_path: Path, line: str, **env: str) -> subprocess.CompletedProcess[str]:
        """Find the counter, and look once whether a process was killed."""
        code = 'find_oom_counter "$1"; echo "$OOM_COUNTER"; check_memory; echo whole'
        return bash(code, str(tmp_path), stdin=f"12:cpuset:/elsewhere\n{line}\n1:name=systemd:/\n", env=env)

    def count(self, tmp_path: Path, directory: str, kills: int) -> Path:
        """Write a counter, and another one above the jobs, which is not this job's."""
        name = "memory.oom_control" if directory.startswith("memory") else "memory.events"
        above = re.sub("/(job_|s5).*", "", directory)
        for place, number in ((tmp_path / directory, kills), (tmp_path / above, 9)):
            place.mkdir(parents=True, exist_ok=True)
            (place / name).write_text(f"low 0\noom 5\noom_kill {number}\n")
        return tmp_path / directory / name

    @pytest.mark.parametrize("shape", CGROUPS)
    @pytest.mark.parametrize("sluid", [{"SLURM_JOB_SLUID": SLUID}, {}], ids=["with SLUID", "without"])
    def test_kill_is_noticed_wherever_slurm_counts_it(self, tmp_path: Path, shape: str, sluid: dict[str, str]) -> None:
        line, directory = CGROUPS[shape]
        counter = self.count(tmp_path, directory, 0)
        assert self.found(tmp_path, line, **sluid).stdout == f"{counter}\nwhole\n"
        self.count(tmp_path, directory, 1)
        done = self.found(tmp_path, line, **sluid)
        assert done.returncode == 72
        assert "out of memory: a process of the session was killed" in done.stdout

    @pytest.mark.parametrize(
        "line",
        [
            "4:memory:/slurm/uid_1000/job_70/step_batch",
            "0::/system.slice/slurmstepd.scope/job_77/step_batch/user/task_0",
            "0::/user.slice/user-1000.slice/session-1.scope",
            "0::/",
        ],
    )
    def test_counters_that_are_not_the_jobs_are_left_alone(self, tmp_path: Path, line: str) -> None:
        path = line.rpartition(":")[2].strip("/")
        self.count(tmp_path, f"memory/{path}" if ":memory:" in line else path, 3)
        assert self.found(tmp_path, line).stdout == "/dev/null\nwhole\n"

    def test_job_without_a_counter_says_so(self, tmp_path: Path) -> None:
        line = f"0::/system.slice/slurmstepd.scope/{SLUID}/step_batch/user/task_0"
        (tmp_path / "system.slice/slurmstepd.scope").mkdir(parents=True)
        (tmp_path / "system.slice/slurmstepd.scope/memory.events").write_text("oom_kill 4\n")
        said = self.found(tmp_path, line).stdout
        assert said.splitlines()[1:] == ["/dev/null", "whole"]
        assert "warning: nothing counts out-of-memory kills in /system.slice/slurmstepd.scope" in said


class TestSlurmstepd:
    def test_session_ends_and_cancels_its_job_when_its_parent_has_ended(self, tmp_path: Path) -> None:
        scancel = tmp_path / "scancel"
        scancel.write_text(
            f'#!/bin/sh\necho "$@" >{tmp_path}/cancelled.new; mv {tmp_path}/cancelled.new {tmp_path}/cancelled\n'
        )
        scancel.chmod(0o755)
        code = (
            f"source {SESSION}; BERTH_SCONTROL={tmp_path}/scontrol SLURM_JOB_ID=7; trap clean_up EXIT; "
            f"check_slurmstepd; echo alive >{tmp_path}/checked; read -r _ <{tmp_path}/go; "
            "until ! kill -0 $PPID 2>/dev/null; do read -rt 0.01 _ <> <(:) || :; done; check_slurmstepd; echo missed"
        )
        os.mkfifo(tmp_path / "go")
        parent = ["bash", "-c", f"bash -c {shlex.quote(code)} & read -r _ <{tmp_path}/end"]
        os.mkfifo(tmp_path / "end")
        with (tmp_path / "log").open("wb") as log:
            process = subprocess.Popen(parent, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        wait_for((tmp_path / "checked").exists, what="a check while the parent lives")
        (tmp_path / "end").write_text("end\n")
        process.wait(DEADLINE_S)
        (tmp_path / "go").write_text("go\n")
        wait_for((tmp_path / "cancelled").exists, what="the job to be cancelled")
        assert (tmp_path / "cancelled").read_text() == "7\n"
        said = (tmp_path / "log").read_text()
        assert "the slurmstepd of this job has ended" in said
        assert "missed" not in said


class TestEndNotice:
    """The message on the terminals of a session before its end."""

    JOB = (
        "DIRECTORY=$1 NODE_DIR=$1 BERTH_SESSION_NAME=dev BERTH_SUBMISSION=3 LISTENS=yes; "
        'stop_container() { STOPPING=yes; }; handle_sigterm; eval "$2"'
    )
    DEFAULT = (
        "\r\nberth: dev: Slurm ends job 7 of this session (scancel, preemption or a requeue)\r\n"
        "berth: Its files are kept. `berth explain dev` shows the cause and the next command.\r\n"
    )

    def told(self, tmp_path: Path, ending: str | None, then: str = "") -> str:
        """Run handle_sigterm() with this run/ending; return the message for the terminals."""
        (tmp_path / "run").mkdir()
        if ending is not None:
            (tmp_path / "run/ending").write_text(ending)
        done = bash(self.JOB, str(tmp_path), then)
        assert done.returncode == 0, done.stderr
        return (tmp_path / "run/notice").read_bytes().decode()

    def test_terminals_hear_who_stopped_the_session_and_how_to_return(self, tmp_path: Path) -> None:
        notice = self.told(tmp_path, "3\nstopped by alice\n`berth start dev` starts it again.\n")
        assert notice == "\r\nberth: dev: stopped by alice\r\nberth: `berth start dev` starts it again.\r\n"

    @pytest.mark.parametrize("ending", [None, "", "2\nstopped by alice\nagain\n"], ids=["none", "empty", "earlier"])
    def test_terminals_hear_of_an_end_that_the_controller_did_not_request(
        self, tmp_path: Path, ending: str | None
    ) -> None:
        assert self.told(tmp_path, ending) == self.DEFAULT

    def test_first_reason_stays(self, tmp_path: Path) -> None:
        again = 'announce_end "out of memory" "later"; STOPPING= handle_sigterm'
        assert self.told(tmp_path, "3\nstopped by alice\nagain\n", again).startswith("\r\nberth: dev: stopped by alice")

    def test_a_file_of_any_size_and_content_is_read_in_bounds(self, tmp_path: Path) -> None:
        notice = self.told(tmp_path, "3\n\x1b[2Jx" + "y" * 100_000)
        assert notice.startswith("\r\nberth: dev: [2Jxyyy")
        assert len(notice) < 1200

    def test_session_that_does_not_listen_yet_has_no_terminals(self, tmp_path: Path) -> None:
        (tmp_path / "run").mkdir()
        done = bash(f"LISTENS=; {self.JOB.replace('LISTENS=yes', 'LISTENS=')}", str(tmp_path), "")
        assert done.returncode == 0, done.stderr
        assert not (tmp_path / "run/notice").exists()

    def test_out_of_memory_is_told(self, tmp_path: Path) -> None:
        (tmp_path / "run").mkdir()
        (tmp_path / "counter").write_text("oom_kill 1\n")
        code = "NODE_DIR=$1 BERTH_SESSION_NAME=dev LISTENS=yes OOM_COUNTER=$1/counter; check_memory"
        assert bash(code, str(tmp_path)).returncode == 72
        assert "berth: dev: out of memory" in (tmp_path / "run/notice").read_text()

    TERMINALS = """
import os, pty, termios
read, _ = pty.openpty()
_, stopped = pty.openpty()
termios.tcflow(stopped, termios.TCOOFF)
os.write(1, b"open\\n")
os.write(1, os.read(read, 100))
os.read(read, 100)
"""
    """A program with two terminals: it prints what arrives at one; a user has pressed Ctrl-S at the other."""

    def test_message_arrives_before_the_end_and_a_stopped_terminal_delays_it_by_a_second(self) -> None:
        mounts = (
            "mount -t tmpfs none /run; mkdir -p /run/berth/node; "
            "mount -t devpts -o newinstance,ptmxmode=666 none /dev/pts; mount --bind /dev/pts/ptmx /dev/ptmx; "
            "printf 'ending\\r\\n' >/run/berth/node/notice"
        )
        code = (
            f"source {SESSION}; {mounts}; exec {{out}}< <(exec python3 -c {shlex.quote(self.TERMINALS)}); "
            'read -ru "$out"; began=${EPOCHREALTIME/./}; '
            "trap 'echo $(((${EPOCHREALTIME/./} - began) / 1000)); head -n 1 <&\"$out\"' EXIT; shut_down 0"
        )
        alone = ["unshare", "--map-root-user", "--mount", "--pid", "--fork", "--mount-proc", "bash", "-euc", code]
        done = subprocess.run(alone, capture_output=True, text=True, timeout=DEADLINE_S, check=True)
        took_ms, heard = done.stdout.split()
        assert heard == "ending"
        assert 1000 <= int(took_ms) < 1000 * DEADLINE_S


class TestFinish:
    def finished(self, tmp_path: Path, container: str) -> tuple[int, int]:
        """Run clean_up() with this container; return the script's exit code, and the processes that are left of it."""
        code = f"exec {{OUT}}< <(exec bash -c {container!r}); CONTAINER=$!; read -ru $OUT; trap clean_up EXIT; exit 9"
        with (tmp_path / "log").open("wb") as log:
            process = subprocess.Popen(
                ["bash", "-c", f"source {SESSION}\n{code}"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        code_of_end = process.wait(60)
        left = 0
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                state, _, _, session = stat.read_text(errors="replace").rpartition(")")[2].split()[:4]
                left += session == str(process.pid) and state != "Z"
            except OSError:
                continue
        assert "run_pending_traps" not in (tmp_path / "log").read_text()
        return code_of_end, left

    @pytest.mark.parametrize(
        "container",
        [
            "echo there; exec sleep 600",
            "echo there",
            'trap "" TERM; exec {p}<> <(:); echo there; while :; do read -rt 1 -u "$p"; done',
        ],
        ids=["ends at TERM", "has ended", "ends at KILL alone"],
    )
    def test_nothing_outlives_the_script(self, tmp_path: Path, container: str) -> None:
        assert self.finished(tmp_path, container) == (9, 0)


class TestLogOfProbes:
    """The user's log has no lines about the gateway's connections, which only compare the host key."""

    @pytest.mark.parametrize(
        "line",
        [
            "Connection closed by 10.9.0.2 port 51234",
            "Connection closed by 10.9.0.2 port 51234 [preauth]",
            "Connection reset by fd00::2 port 51234",
            "Timeout before authentication for connection from 10.9.0.2 to 10.9.0.11, pid = 77",
            "fatal: Timeout before authentication for 10.9.0.2 port 51234",
            "kex_exchange_identification: Connection closed by remote host",
        ],
    )
    def test_line_of_a_probe_is_left_out(self, line: str) -> None:
        assert bash('is_probe "$1"', line).returncode == 0

    @pytest.mark.parametrize(
        "line",
        [
            "Connection closed by authenticating user alice 10.9.0.2 port 51234 [preauth]",
            "Connection closed by invalid user bob 10.9.0.2 port 51234",
            "Connection reset by user alice 10.9.0.2 port 51234",
            "Accepted publickey for alice from 10.9.0.2 port 51234 ssh2: ED25519 SHA256:abc",
            "Failed publickey for alice from 10.9.0.2 port 51234 ssh2",
            "Server listening on 0.0.0.0 port 20000.",
        ],
    )
    def test_line_about_a_user_stays(self, line: str) -> None:
        assert bash('is_probe "$1"', line).returncode == 1
