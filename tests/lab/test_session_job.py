"""The session's job on a real cluster, driven with sbatch and OpenSSH alone: no broker takes part."""

from __future__ import annotations

import hashlib
import re
import secrets
import subprocess
from typing import TYPE_CHECKING

import pytest

from broker.job.bundle import session_script
from tests.deadlines import DEADLINE_S
from tests.session_job import ROOM, SessionJob, in_terminal, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.session_job import Bench

HOG = "python3 -c 'kept = []\nwhile True: kept.append(bytearray(50 << 20))'"
LISTEN = """
import socket, sys
kept = [socket.create_server(("", int(port))) for port in sys.argv[1:]]
print(flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="class")
def running(bench: Bench) -> Iterator[SessionJob]:
    """A session of alice's on c1 with one of its two GPUs, which the tests only look at."""
    made = SessionJob(bench)
    # What an image's or profile's environment may hold, given by the Apptainer that this session uses.
    bench.sh(
        f"cat >{ROOM}/apptainer; chmod 755 {ROOM}/apptainer",
        stdin=b'#!/bin/sh\nexport APPTAINERENV_WORDS=\'two  words "quoted" back\\slash $dollar #hash\'"\'s"\n'
        b"export APPTAINERENV_LINES='one\ntwo'\nexport APPTAINERENV_PREPEND_PATH=/opt/tool/bin\n"
        b'exec apptainer "$@"\n',
    )
    bench.sh(f"mkdir {ROOM}/data; echo shared >{ROOM}/data/file; chmod 777 {ROOM}/data")
    made.prepare(BERTH_APPTAINER=f"{ROOM}/apptainer", BERTH_BINDS=f"{ROOM}/data:/data:ro,{ROOM}/data:/more")
    made.start("--gres=gpu:intel:1", "--nodelist=c1")
    yield made
    made.stop()


class TestRunning:
    def test_the_announcement_says_where_it_listens_and_which_key_it_has(self, running: SessionJob) -> None:
        fingerprint = running.bench.sh(f"ssh-keygen -lf {running.directory}/run/ssh_host_ed25519_key.pub").split()[1]
        listening = re.search(r"Server listening on 0\.0\.0\.0 port (\d+)", running.log())
        assert listening is not None
        assert running.job().comment == f"berth:{running.id}:1:0:c1:{listening[1]}:{fingerprint}"

    def test_it_runs_as_the_user_without_a_prompt_or_a_warning(self, running: SessionJob) -> None:
        done = running.ssh("id -un; pwd; hostname")
        assert done.stdout.decode().splitlines() == ["alice", "/home/alice", "c1"]
        assert done.stderr == b""

    def test_exit_codes_come_through(self, running: SessionJob) -> None:
        assert [running.ssh(f"exit {code}").returncode for code in (0, 1, 42, 127)] == [0, 1, 42, 127]

    def test_twenty_megabytes_come_through_unchanged_both_ways(self, running: SessionJob) -> None:
        sent = secrets.token_bytes(20 << 20)
        done = running.ssh("tee /tmp/bulk; rm /tmp/bulk", stdin=sent)
        assert hashlib.sha256(done.stdout).digest() == hashlib.sha256(sent).digest()

    def test_a_terminal_has_a_name_and_the_clients_window_size(self, running: SessionJob) -> None:
        code, shown = in_terminal(running.ssh_argv("-tt", "tty; stty size; exit 7"), rows=41, columns=123)
        assert shown.split()[:3] == ["/dev/pts/0", "41", "123"]
        assert code == 7

    def test_sftp_carries_a_file_there_and_back(self, running: SessionJob) -> None:
        node = running.job().node
        batch = f"put {ROOM}/session.sh copied\nget copied {ROOM}/alice/back\nrm copied\n".encode()
        argv = running.ssh_argv("-b", "-", f"alice@{node}", program="sftp")
        done = subprocess.run(argv, input=batch, capture_output=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr.decode()
        assert running.bench.sh(f"cat {ROOM}/alice/back").encode() == session_script()

    def test_the_environment_of_job_and_image_reaches_a_command(self, running: SessionJob) -> None:
        words = r"""two  words "quoted" back\slash $dollar #hash's"""
        assert running.says('printf %s "$WORDS"') == words
        shown = running.says("env")
        seen = dict(line.split("=", 1) for line in shown.splitlines() if "=" in line)
        assert seen["SLURM_JOB_ID"] == str(running.jobs[-1])
        assert seen["ZE_AFFINITY_MASK"] == "0"
        assert (seen["BERTH_SESSION_NAME"], seen["BERTH_PROFILE"]) == ("dev", "base")
        assert seen["HOME"] == "/home/alice"
        assert "LINES" not in seen  # a line's end cannot be written in sshd_config: dropped, and nothing else with it
        assert not [name for name in seen if name.startswith(("APPTAINER", "SINGULARITY", "PROMPT_COMMAND"))]

    @pytest.mark.parametrize("shell", ["", "bash -lc "])
    def test_the_path_is_the_images_in_plain_commands_and_login_shells(self, running: SessionJob, shell: str) -> None:
        path = running.says(f"{shell}'echo $PATH'" if shell else "echo $PATH").split(":")
        assert path[0] == "/opt/tool/bin"
        assert "/usr/sbin" in path

    def test_one_gpu_opens_and_the_other_is_refused(self, running: SessionJob) -> None:
        assert running.ssh("head -c 0 /dev/dri/renderD128").returncode == 0
        refused = running.ssh("head -c 0 /dev/dri/renderD129")
        assert refused.returncode != 0
        assert b"Operation not permitted" in refused.stderr

    def test_tmp_is_on_the_nodes_disk_and_no_memory(self, running: SessionJob) -> None:
        node = running.bench.run("df", "--output=size", "/var/tmp", node="c1").stdout.split()[-1]  # noqa: S108 - the node's
        for folder in ("/tmp", "/var/tmp"):  # noqa: S108 - what is looked at
            assert running.says(f"df --output=size {folder}").split()[-1] == node.decode()
            assert running.says(f"stat -f -c %T {folder}") != "tmpfs"
        assert running.bench.sh("stat -f -c %T /tmp", node="c1").strip() == "tmpfs"

    def test_of_the_shared_file_system_only_the_binds_are_there(self, running: SessionJob) -> None:
        assert running.ssh("ls /shared").returncode != 0
        assert running.says("cat /data/file; cat /more/file") == "shared\nshared"
        assert b"Read-only" in running.ssh("touch /data/new").stderr
        assert running.ssh("touch /more/new").returncode == 0

    def test_the_session_cannot_change_who_may_come_in(self, running: SessionJob) -> None:
        for name in ("authorized_keys", "job.env", "ssh_host_ed25519_key"):
            done = running.ssh(f"echo x >>/run/berth/session/{name}")
            assert b"Read-only" in done.stderr

    def test_it_sees_no_process_but_its_own(self, running: SessionJob) -> None:
        seen = running.says("ps -eo pid=,args=").splitlines()
        assert seen[0].split()[:3] == ["1", "/bin/bash", "/run/berth/node/job.sh"]
        assert "slurm" not in "".join(seen)

    def test_a_key_that_is_not_authorized_and_a_password_are_refused(self, running: SessionJob) -> None:
        done = running.ssh("true", key_of="bob")
        assert done.returncode == 255
        assert b"Permission denied (publickey)" in done.stderr

    def test_another_user_on_the_node_reads_nothing_of_it(self, running: SessionJob) -> None:
        probe = (
            f"cat {running.directory}/run/ssh_host_ed25519_key; ls {running.directory};"
            "ls /tmp/berth-$(id -u alice)-*/ /var/tmp/berth-$(id -u alice)-*/;"
            "for p in $(pgrep -u alice); do cat /proc/$p/environ; ls /proc/$p/root/ /proc/$p/cwd/; done"
        )
        argv = ("srun", "--nodelist=c1", "--mem=50", "--chdir=/", "--immediate=20", "sh", "-c", probe)
        done = running.bench.run(*argv, user="bob")
        assert done.stdout == b""
        assert done.stderr.count(b"Permission denied") >= 6


class TestLife:
    def test_home_outlives_the_job_and_the_node(self, session: SessionJob) -> None:
        session.start("--nodelist=c1")
        assert session.ssh("test -f ~/.profile && echo kept >~/file").returncode == 0
        session.stop()
        second = session.start("--nodelist=c2")
        assert second.node == "c2"
        assert session.says("cat ~/file") == "kept"

    def test_scancel_lets_processes_finish_and_leaves_nothing(self, session: SessionJob, bench: Bench) -> None:
        session.start("--nodelist=c2")
        polite = "trap 'echo saved >~/work; exit' TERM; echo there >~/work; while :; do sleep 0.1; done"
        rude = "trap '' TERM; while :; do sleep 0.1; done"
        session.says(f'for it in "{polite}" "{rude}"; do setsid bash -c "$it" >/dev/null 2>&1 </dev/null & done')
        work = f"cat {session.home_tree}/work 2>/dev/null || :"
        wait_until(lambda: bench.sh(work) == "there\n", "the process in the session", session.log)
        assert {trace.split("/")[1] for trace in session.traces("c2")} == {"proc", "tmp", "var"}
        assert session.stop().state == "CANCELLED"
        assert bench.sh(work) == "saved\n"
        assert session.traces("c2") == []

    def test_a_requeued_job_announces_itself_anew(self, session: SessionJob, bench: Bench) -> None:
        job = session.start("--nodelist=c1")
        session.says("echo kept >~/file")
        bench.sh(f"scontrol requeue {job.id}")
        wait_until(lambda: session.job().state == "PENDING", "the job to be queued again", session.log)
        bench.sh(f"scontrol update JobId={job.id} StartTime=now")
        again = session.announced(restarts=1)
        assert again.id == job.id
        assert session.says("cat ~/file") == "kept"

    def test_a_second_job_of_the_session_is_refused_before_it_touches_anything(self, session: SessionJob) -> None:
        session.start("--nodelist=c1")
        second = session.submit("--nodelist=c2", singleton=False)
        assert session.ended(second).code == 68
        assert "another job has the volumes of this session open" in session.log()
        session.jobs.pop()
        assert session.says("echo alive") == "alive"

    def test_what_a_killed_run_left_on_the_node_goes_with_the_next(self, session: SessionJob, bench: Bench) -> None:
        session.start("--nodelist=c1")
        bench.sh(f"scancel --signal=KILL --batch {session.jobs[-1]}")
        session.ended()
        left = session.traces("c1")
        assert [trace.rpartition("/")[0] for trace in left] == ["/tmp", "/var/tmp"]  # noqa: S108 - the node's
        session.start("--nodelist=c1")
        folders = [trace for trace in session.traces("c1") if trace.startswith(("/tmp", "/var/tmp"))]  # noqa: S108 - the node's
        assert len(folders) == 2
        assert not {*folders} & {*left}
        session.stop()
        assert session.traces("c1") == []

    def test_memory_overrun_ends_as_out_of_memory(self, session: SessionJob) -> None:
        session.start("--nodelist=c3")
        session.ssh(HOG)
        assert session.ended().state == "OUT_OF_MEMORY"
        assert "out of memory" in session.log()
        assert session.traces("c3") == []

    def test_the_job_does_not_outlive_sshd(self, session: SessionJob) -> None:
        session.start("--nodelist=c3")
        session.ssh("kill -KILL $(cat /run/berth/node/sshd.pid)")
        ended = session.ended()
        assert (ended.state, ended.code) == ("FAILED", 128 + 9)
        assert session.traces("c3") == []

    def test_near_the_time_limit_it_is_told_and_goes_on(self, session: SessionJob) -> None:
        session.start("--nodelist=c1", "--time=1")
        wait_until(lambda: "reaches its time limit" in session.log(), "the warning", session.log, seconds=60)
        assert session.says("echo alive") == "alive"


class TestPorts:
    def test_ports_in_use_are_passed_over(self, session: SessionJob, bench: Bench) -> None:
        session.configure(BERTH_PORTS="27001-27004")
        with occupied(bench, "c1", 27001, 27002, 27004):
            session.start("--nodelist=c1")
            assert session.job().comment.split(":")[5] == "27003"
            assert session.says("echo alive") == "alive"

    def test_no_port_left_ends_the_job_and_the_log_says_why(self, session: SessionJob, bench: Bench) -> None:
        session.configure(BERTH_PORTS="27001-27002")
        with occupied(bench, "c1", 27001, 27002):
            session.submit("--nodelist=c1")
            ended = session.ended()
        assert (ended.state, ended.code) == ("FAILED", 255)
        assert session.log().count("Address already in use") == 2


class occupied:  # noqa: N801 - reads as what it does: `with occupied(…)`
    """Ports of a node at which another user listens."""

    def __init__(self, bench: Bench, node: str, *ports: int) -> None:
        self._argv = bench.lab.argv(["python3", "-c", LISTEN, *map(str, ports)], user="bob", node=node)

    def __enter__(self) -> None:
        self._process = subprocess.Popen(self._argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"\n"

    def __exit__(self, *_: object) -> None:
        self._process.communicate(timeout=DEADLINE_S)


class TestRefusals:
    def refused(self, session: SessionJob, code: int, words: str) -> None:
        session.submit()
        ended = session.ended()
        assert (ended.state, ended.code) == ("FAILED", code), session.log()
        assert words in session.log()

    def test_an_image_of_another_size(self, session: SessionJob) -> None:
        session.configure(BERTH_IMAGE_SIZE="12345")
        self.refused(session, 67, "bytes, not 12345")

    def test_an_image_that_is_not_there(self, session: SessionJob) -> None:
        session.configure(BERTH_IMAGE="/shared/none.sif")
        self.refused(session, 67, "is not there or cannot be read")

    def test_a_malformed_job_env(self, session: SessionJob) -> None:
        session.write("job.env", "BERTH_SESSION_ID=a\nrm -rf ~\n")
        self.refused(session, 65, "run/job.env, line 2: not KEY=VALUE")

    def test_a_directory_open_to_others(self, session: SessionJob, bench: Bench) -> None:
        bench.sh(f"chmod 755 {session.directory}")
        self.refused(session, 66, "must be yours and have mode 700")

    def test_a_node_without_apptainer(self, session: SessionJob) -> None:
        session.configure(BERTH_APPTAINER="/none/apptainer")
        self.refused(session, 70, "lacks one of /none/apptainer")


class TestOutage:
    def test_an_outage_of_slurmctld_at_the_start_is_waited_out(self, session: SessionJob, bench: Bench) -> None:
        holder = bench.lab.argv(["flock", f"{session.directory}/run/lock", "cat"], user="alice", node="login")
        with subprocess.Popen(holder, stdin=subprocess.PIPE) as lock:
            wait_until(
                lambda: bench.run("flock", "-n", f"{session.directory}/run/lock", "true", user="alice").returncode != 0,
                "the lock", session.log,
            )  # fmt: skip
            session.submit("--nodelist=c1")
            wait_until(lambda: session.job().state == "RUNNING", "the job to run", session.log)
            with bench.lab.paused("slurmctld"):
                lock.communicate(timeout=DEADLINE_S)
                wait_until(
                    lambda: "did not update the comment of the job" in session.log(), "a failed try", session.log, 90
                )
        session.announced()
        assert session.says("echo alive") == "alive"
