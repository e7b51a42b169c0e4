"""The session's job on a real cluster, driven with sbatch and OpenSSH alone: no broker takes part."""

from __future__ import annotations

import hashlib
import os
import pty
import re
import secrets
import struct
import subprocess
import termios
import time
from dataclasses import dataclass, field
from fcntl import ioctl
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

SCRIPT = Path(__file__).parents[2] / "broker/session.sh"
ROOM = "/shared/session-job"
"""Everything of these tests, as the nodes see it."""
HOG = "python3 -c 'kept = []\nwhile True: kept.append(bytearray(50 << 20))'"
MEMORY = "--mem=400"


class Cluster(Protocol):
    """What these tests want of the lab."""

    def argv(self, command: Sequence[str], *, user: str, node: str) -> list[str]:
        """The argument list that runs `command` in a node."""


@dataclass(slots=True)
class Bench:
    """A cluster with the script, an image and a certificate authority in place."""

    cluster: Cluster
    image: str

    def run(
        self, *command: str, user: str = "root", node: str = "login", stdin: bytes = b"", seconds: float = 60
    ) -> subprocess.CompletedProcess[bytes]:
        argv = self.cluster.argv(command, user=user, node=node)
        return subprocess.run(argv, input=stdin, capture_output=True, timeout=seconds, check=False)

    def sh(self, script: str, *, user: str = "root", node: str = "login", stdin: bytes = b"") -> str:
        done = self.run("sh", "-euc", script, user=user, node=node, stdin=stdin)
        assert done.returncode == 0, f"{script}: {done.stderr.decode()}"
        return done.stdout.decode()

    def set_up(self) -> None:
        self.sh(f"rm -rf {ROOM}; mkdir -p -m 755 {ROOM}; mkdir -m 711 {ROOM}/keys")
        self.sh(f"cat >{ROOM}/session.sh; chmod 755 {ROOM}/session.sh", stdin=SCRIPT.read_bytes())
        self.sh(f"ssh-keygen -q -t ed25519 -N '' -f {ROOM}/keys/ca")
        self.sh(f"echo @cert-authority '*.berth' $(cat {ROOM}/keys/ca.pub) >{ROOM}/known_hosts")
        for user in ("alice", "bob"):
            self.sh(f"install -d -m 700 -o {user} -g {user} {ROOM}/{user}")
            self.sh(f"ssh-keygen -q -t ed25519 -N '' -f {ROOM}/{user}/id", user=user)

    def processes(self, node: str, user: str) -> list[str]:
        return self.run("pgrep", "-a", "-u", user, node=node).stdout.decode().splitlines()


@dataclass(frozen=True, slots=True)
class Job:
    """What Slurm says of one job."""

    id: int
    state: str
    code: int
    comment: str
    restarts: int
    node: str


@dataclass(slots=True)
class SessionJob:
    """One session's directory, and the jobs that carry it."""

    bench: Bench
    owner: str = "alice"
    id: str = field(default_factory=lambda: "".join(secrets.choice("0123456789abcdefghjkmnpqrstvwxyz") for _ in range(26)))
    jobs: list[int] = field(default_factory=list)

    @property
    def directory(self) -> str:
        return f"{ROOM}/{self.owner}/{self.id}"

    def prepare(self, **changes: str) -> None:
        """Make the directory, keys, certificate and job.env, as the launcher and the controller do."""
        run = f"{self.directory}/run"
        self.bench.sh(
            f"umask 077; mkdir -p {run} {self.directory}/home/upper; cp {ROOM}/{self.owner}/id.pub {run}/authorized_keys;"
            f"ssh-keygen -q -t ed25519 -N '' -f {run}/ssh_host_ed25519_key",
            user=self.owner,
        )
        self.bench.sh(
            f"ssh-keygen -q -s {ROOM}/keys/ca -I test -h -n {self.owner}.dev.berth {run}/ssh_host_ed25519_key.pub;"
            f"chown {self.owner} {run}/*"
        )
        self.configure(**changes)

    def configure(self, **changes: str) -> None:
        image = self.bench.image
        values = {
            "BERTH_SESSION_ID": self.id,
            "BERTH_SESSION_NAME": "dev",
            "BERTH_OWNER": self.owner,
            "BERTH_SUBMISSION": "1",
            "BERTH_IMAGE": image,
            "BERTH_IMAGE_SIZE": self.bench.sh(f"stat -Lc %s {image}").strip(),
            "BERTH_BINDS": "",
            "BERTH_PROFILE": "base",
            "BERTH_PROFILE_VERSION": "1.0",
        } | changes
        text = "".join(f"{key}={value}\n" for key, value in values.items())
        self.write("job.env", text)

    def write(self, name: str, text: str) -> None:
        self.bench.sh(f"umask 077; cat >{self.directory}/run/{name}", user=self.owner, stdin=text.encode())

    def submit(self, *options: str, singleton: bool = True) -> int:
        log = f"{self.directory}/run/job.log"
        dependency = ["--dependency=singleton"] if singleton else []
        done = self.bench.run(
            "sbatch", "--parsable", "--export=NIL", "--signal=B:USR1@60", "--open-mode=append", f"--output={log}",
            f"--chdir={self.directory}", f"--job-name=berth-{self.id}", f"--comment=berth:{self.id}:1", "--requeue",
            *dependency, MEMORY, *options, f"{ROOM}/session.sh", self.directory,
            user=self.owner,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr.decode()
        self.jobs.append(int(done.stdout))
        return self.jobs[-1]

    def job(self, job_id: int | None = None) -> Job:
        text = self.bench.sh(f"scontrol --oneliner show job {job_id or self.jobs[-1]}")
        found = dict(re.findall(r"(?:^| )(JobId|JobState|ExitCode|Comment|Restarts|BatchHost)=(\S*)", text))
        return Job(
            int(found["JobId"]), found["JobState"], int(found["ExitCode"].split(":")[0]), found.get("Comment", ""),
            int(found["Restarts"]), found.get("BatchHost", ""),
        )  # fmt: skip

    def start(self, *options: str) -> Job:
        self.submit(*options)
        return self.announced()

    def announced(self, restarts: int = 0) -> Job:
        wait_until(lambda: self.job().comment.startswith(f"berth:{self.id}:1:{restarts}:"), "an announcement", self.log)
        return self.job()

    def ended(self, job_id: int | None = None) -> Job:
        live = {"PENDING", "CONFIGURING", "RUNNING", "COMPLETING"}
        wait_until(lambda: self.job(job_id).state not in live, "the job's end", self.log)
        return self.job(job_id)

    def stop(self) -> Job:
        self.bench.sh(f"scancel {self.jobs[-1]}")
        return self.ended()

    def log(self) -> str:
        return self.bench.sh(f"cat {self.directory}/run/job.log 2>/dev/null || :")

    def ssh_argv(self, *words: str, key_of: str | None = None, port: str = "", program: str = "ssh") -> list[str]:
        """OpenSSH's arguments for a direct connection from the login node, with every prompt refused."""
        *_, node, announced_port, _, _ = self.job().comment.split(":")
        user = key_of or self.owner
        options = (
            "BatchMode=yes", "StrictHostKeyChecking=yes", f"UserKnownHostsFile={ROOM}/known_hosts", "IdentitiesOnly=yes",
            f"HostKeyAlias={self.owner}.dev.berth", f"IdentityFile={ROOM}/{user}/id", f"Port={port or announced_port}",
        )  # fmt: skip
        target = [f"{self.owner}@{node}"] if program == "ssh" else []
        flags = [word for option in options for word in ("-o", option)]
        return self.bench.cluster.argv([program, "-F", "none", *flags, *target, *words], user=user, node="login")

    def ssh(self, command: str, *, stdin: bytes = b"", key_of: str | None = None) -> subprocess.CompletedProcess[bytes]:
        argv = self.ssh_argv(command, key_of=key_of)
        return subprocess.run(argv, input=stdin, capture_output=True, timeout=60, check=False)

    def says(self, command: str) -> str:
        done = self.ssh(command)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode().rstrip("\n")


def wait_until(condition: Callable[[], bool], what: str, log: Callable[[], str], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s in vain for {what}; the job's log:\n{log()}"
        time.sleep(0.1)


def assert_nothing_left(bench: Bench, node: str) -> None:
    assert bench.processes(node, "alice") == []
    assert bench.run("sh", "-c", "ls -d /tmp/berth-*", node=node).stdout == b""
    assert bench.sh("grep -c -e berth -e squashfuse /proc/mounts || :", node=node).strip() == "0"


@pytest.fixture(scope="module")
def bench(lab: Cluster, session_image: str) -> Bench:
    made = Bench(lab, session_image)
    made.set_up()
    return made


@pytest.fixture
def session(bench: Bench) -> Iterator[SessionJob]:
    """A session of alice's that no job carries yet."""
    made = SessionJob(bench)
    made.prepare()
    yield made
    for job in made.jobs:
        bench.run("scancel", str(job))
        made.ended(job)


@pytest.fixture(scope="module")
def running(bench: Bench) -> Iterator[SessionJob]:
    """A session of alice's on c1 with one of its two GPUs, which the tests only look at."""
    made = SessionJob(bench)
    # What an image's or profile's environment may hold, given by the Apptainer that this session uses.
    bench.sh(
        f"cat >{ROOM}/apptainer; chmod 755 {ROOM}/apptainer",
        stdin=b"#!/bin/sh\nexport APPTAINERENV_WORDS='two  words \"quoted\" back\\slash $dollar #hash'\"'s\"\n"
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
        assert running.bench.sh(f"cat {ROOM}/alice/back").encode() == SCRIPT.read_bytes()

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

    def test_tmp_is_the_nodes_own_storage(self, running: SessionJob) -> None:
        node = running.bench.run("df", "--output=size", "/tmp", node="c1").stdout.split()[-1]  # noqa: S108 - the node's
        for folder in ("/tmp", "/var/tmp"):  # noqa: S108 - what is looked at
            assert running.says(f"df --output=size {folder}").split()[-1] == node.decode()

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
        assert seen[0].split()[:3] == ["1", "/bin/bash", "/run/berth/node/enter"]
        assert "slurm" not in "".join(seen)

    def test_a_key_that_is_not_authorized_and_a_password_are_refused(self, running: SessionJob) -> None:
        done = running.ssh("true", key_of="bob")
        assert done.returncode == 255
        assert b"Permission denied (publickey)" in done.stderr

    def test_another_user_on_the_node_reads_nothing_of_it(self, running: SessionJob) -> None:
        probe = (
            f"cat {running.directory}/run/ssh_host_ed25519_key; ls {running.directory}; ls /tmp/berth-*/;"
            'for p in $(pgrep -u alice); do cat /proc/$p/environ; ls /proc/$p/root/ /proc/$p/cwd/; done'
        )
        argv = ("srun", "--nodelist=c1", "--mem=50", "--chdir=/", "--immediate=20", "sh", "-c", probe)
        done = running.bench.run(*argv, user="bob")
        assert done.stdout == b""
        assert done.stderr.count(b"Permission denied") >= 6


def in_terminal(argv: list[str], *, rows: int, columns: int) -> tuple[int, str]:
    """Run a program on a terminal of that size; its exit code and what it showed."""
    outer, inner = pty.openpty()
    ioctl(inner, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    with subprocess.Popen(argv, stdin=inner, stdout=inner, stderr=subprocess.DEVNULL) as client:
        os.close(inner)
        shown = b""
        try:
            while data := os.read(outer, 4096):
                shown += data
        except OSError:  # EIO: the program has ended and nobody has the terminal open any more
            pass
        os.close(outer)
        return client.wait(30), shown.decode()


class TestLife:
    def test_home_outlives_the_job_and_the_node(self, session: SessionJob) -> None:
        session.start("--nodelist=c1")
        assert session.ssh("test -f ~/.profile && echo kept >~/file").returncode == 0
        session.stop()
        second = session.start("--nodelist=c2")
        assert second.node == "c2"
        assert session.says("cat ~/file") == "kept"

    def test_scancel_lets_processes_finish_and_leaves_nothing_on_the_node(self, session: SessionJob, bench: Bench) -> None:
        session.start("--nodelist=c2")
        polite = "trap 'echo saved >~/work; exit' TERM; echo there >~/work; while :; do sleep 0.1; done"
        rude = "trap '' TERM; while :; do sleep 0.1; done"
        session.says(f"for it in \"{polite}\" \"{rude}\"; do setsid bash -c \"$it\" >/dev/null 2>&1 </dev/null & done")
        work = f"cat {session.directory}/home/upper/work 2>/dev/null || :"
        wait_until(lambda: bench.sh(work) == "there\n", "the process in the session", session.log)
        assert session.stop().state == "CANCELLED"
        assert bench.sh(work) == "saved\n"
        assert_nothing_left(bench, "c2")

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
        assert "another job has the home of this session open" in session.log()
        session.jobs.pop()
        assert session.says("echo alive") == "alive"

    def test_what_a_killed_run_left_on_the_node_goes_with_the_next(self, session: SessionJob, bench: Bench) -> None:
        session.start("--nodelist=c1")
        bench.sh(f"scancel --signal=KILL --batch {session.jobs[-1]}")
        session.ended()
        assert bench.sh(f"ls -d /tmp/berth-*{session.id}*", node="c1").count("\n") == 1
        session.start("--nodelist=c1")
        assert bench.sh(f"ls -d /tmp/berth-*{session.id}*", node="c1").count("\n") == 1
        session.stop()
        assert_nothing_left(bench, "c1")

    def test_memory_overrun_ends_as_out_of_memory(self, session: SessionJob, bench: Bench) -> None:
        session.start("--nodelist=c3")
        session.ssh(HOG)
        assert session.ended().state == "OUT_OF_MEMORY"
        assert "out of memory" in session.log()
        assert_nothing_left(bench, "c3")

    def test_the_job_does_not_outlive_sshd(self, session: SessionJob, bench: Bench) -> None:
        session.start("--nodelist=c3")
        session.ssh("kill -KILL $(cat /run/berth/node/sshd.pid)")
        ended = session.ended()
        assert (ended.state, ended.code) == ("FAILED", 128 + 9)
        assert_nothing_left(bench, "c3")

    def test_near_the_time_limit_it_is_told_and_at_the_end_it_goes_cleanly(self, session: SessionJob, bench: Bench) -> None:
        session.start("--nodelist=c1", "--time=1")
        wait_until(lambda: "the time limit is near" in session.log(), "the warning", session.log, seconds=60)
        assert session.says("echo alive") == "alive"
        bench.sh(f"scancel {session.jobs[-1]}")
        session.ended()


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
    """Ports of a node that somebody else listens on."""

    def __init__(self, bench: Bench, node: str, *ports: int) -> None:
        code = "import socket,sys\nkept=[socket.create_server(('', int(p))) for p in sys.argv[1:]]\nprint(flush=True)\nsys.stdin.read()"
        self._argv = bench.cluster.argv(["python3", "-c", code, *map(str, ports)], user="bob", node=node)

    def __enter__(self) -> None:
        self._process = subprocess.Popen(self._argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"\n"

    def __exit__(self, *_: object) -> None:
        self._process.communicate(timeout=10)


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
    def test_an_outage_of_slurmctld_at_the_start_does_not_cost_the_session(self, session: SessionJob, bench: Bench) -> None:
        holder = bench.cluster.argv(["flock", f"{session.directory}/run/lock", "cat"], user="alice", node="login")
        with subprocess.Popen(holder, stdin=subprocess.PIPE) as lock:
            wait_until(
                lambda: bench.run("flock", "-n", f"{session.directory}/run/lock", "true", user="alice").returncode != 0,
                "the lock", session.log,
            )  # fmt: skip
            session.submit("--nodelist=c1")
            wait_until(lambda: session.job().state == "RUNNING", "the job to run", session.log)
            bench.sh("pkill -STOP -x slurmctld")
            try:
                lock.communicate(timeout=10)
                wait_until(lambda: "did not take the announcement" in session.log(), "a failed try", session.log, 90)
            finally:
                bench.sh("pkill -CONT -x slurmctld")
        session.announced()
        assert session.says("echo alive") == "alive"
