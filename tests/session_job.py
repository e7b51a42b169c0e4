"""A session's job without the broker: the directory that the broker would make, sbatch, and OpenSSH."""

from __future__ import annotations

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
from typing import TYPE_CHECKING

from broker.job.bundle import session_script
from broker.volumes.copy_archive import ARCHIVE, copy_archive
from broker.volumes.live_snapshot import OUTCOME_FILE_BYTES
from slurm.lab.progress import pause_s
from tests.deadlines import DEADLINE_S

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.lab_cluster import Lab

ROOM = "/shared/session-job"
"""Everything of these tests, as the nodes see it."""
MEMORY = "--mem=400"


@dataclass(slots=True)
class Bench:
    """A cluster with the script, an image and a certificate authority in place."""

    lab: Lab
    image: str
    offset: int = 0
    """Of the image's squashfs, in bytes; set up like the rest."""

    def run(
        self, *command: str, user: str = "root", node: str = "login", stdin: bytes = b""
    ) -> subprocess.CompletedProcess[bytes]:
        return self.lab.run(command, user=user, node=node, stdin=stdin)

    def sh(self, script: str, *, user: str = "root", node: str = "login", stdin: bytes = b"") -> str:
        done = self.run("sh", "-euc", script, user=user, node=node, stdin=stdin)
        assert done.returncode == 0, f"{script}: {done.stderr.decode()}"
        return done.stdout.decode()

    def install_script(self) -> None:
        self.sh(f"cat >{ROOM}/session.sh; chmod 755 {ROOM}/session.sh", stdin=session_script())

    def set_up(self) -> None:
        found = re.search(r"\|(\d+)-\d+ *\|FS \(Squashfs", self.sh(f"apptainer sif list {self.image}"))
        assert found is not None
        self.offset = int(found[1])
        self.sh(f"rm -rf {ROOM}; mkdir -p -m 755 {ROOM}; mkdir -m 711 {ROOM}/keys")
        self.install_script()
        self.sh(f"ssh-keygen -q -t ed25519 -N '' -f {ROOM}/keys/ca")
        self.sh(f"echo @cert-authority '*.berth' $(cat {ROOM}/keys/ca.pub) >{ROOM}/known_hosts")
        for user in ("alice", "bob"):
            self.sh(f"install -d -m 700 -o {user} -g {user} {ROOM}/{user}")
            self.sh(f"ssh-keygen -q -t ed25519 -N '' -f {ROOM}/{user}/id", user=user)


@dataclass(frozen=True, slots=True)
class Job:
    """One job as Slurm shows it."""

    id: int
    state: str
    code: int
    comment: str
    restarts: int
    node: str


def new_id() -> str:
    return "".join(secrets.choice("0123456789abcdefghjkmnpqrstvwxyz") for _ in range(26))


@dataclass(slots=True)
class SessionJob:
    """One session's directory, and the jobs that carry it."""

    bench: Bench
    owner: str = "alice"
    id: str = field(default_factory=new_id)
    jobs: list[int] = field(default_factory=list)
    home: list[str] = field(default_factory=lambda: [new_id()])
    """The home's stack, the top first, as volumes.json says it in `mount`."""
    system: list[str] = field(default_factory=lambda: [new_id()])
    root: bool = False
    """Whether its jobs run in root mode."""

    @property
    def directory(self) -> str:
        return f"{ROOM}/{self.owner}/sessions/{self.id}"

    def layer(self, layer_id: str) -> str:
        return f"{ROOM}/{self.owner}/layers/{layer_id}"

    @property
    def home_tree(self) -> str:
        """The directory with the content of the home's top."""
        return f"{self.layer(self.home[0])}/tree"

    @property
    def system_tree(self) -> str:
        return f"{self.layer(self.system[0])}/tree"

    def prepare(self, **changes: str) -> None:
        """Make the directory, keys, certificate and job.env, as the launcher and the controller do."""
        run = f"{self.directory}/run"
        self.bench.sh(
            f"umask 077; mkdir -p {run};"
            f"cp {ROOM}/{self.owner}/id.pub {run}/authorized_keys; : >{run}/revoked_keys;"
            f"ssh-keygen -q -t ed25519 -N '' -f {run}/ssh_host_ed25519_key",
            user=self.owner,
        )
        self.bench.sh(
            f"ssh-keygen -q -s {ROOM}/keys/ca -I test -h -n {self.owner}.dev.berth {run}/ssh_host_ed25519_key.pub;"
            f"chown {self.owner} {run}/*"
        )
        self.write(ARCHIVE, copy_archive())
        self.mount("overlay", home=self.home, system=self.system)
        self.configure(**changes)

    def mount(self, driver: str, *, home: list[str], system: list[str], on_node: bool = False) -> None:
        """Make the layers that are not there yet, and the volumes.json that names them."""
        self.home, self.system = home, system
        for layer in (*home, *system):
            made = self.layer(layer)
            self.bench.sh(f"umask 077; mkdir -p {made}/work; mkdir -p -m 755 {made}/tree", user=self.owner)
        text = f"{driver};home={','.join(home)};system={','.join(system)}{';node' if on_node else ''}"
        self.bench.sh(
            f"umask 077; cat >{self.directory}/volumes.json",
            user=self.owner,
            stdin=f'{{\n "format": 1,\n "mount": "{text}",\n "done": {{}}\n}}\n'.encode(),
        )

    def push(self) -> None:
        """Freeze both tops, as a snapshot of a stopped session does."""
        self.mount("overlay", home=[new_id(), *self.home], system=[new_id(), *self.system])

    def configure(self, **changes: str) -> None:
        image = self.bench.image
        values = {
            "BERTH_SESSION_ID": self.id,
            "BERTH_SESSION_NAME": "dev",
            "BERTH_OWNER": self.owner,
            "BERTH_SUBMISSION": "1",
            "BERTH_IMAGE": image,
            "BERTH_IMAGE_SIZE": self.bench.sh(f"stat -Lc %s {image}").strip(),
            "BERTH_IMAGE_OFFSET": str(self.bench.offset),
            "BERTH_BINDS": "",
            "BERTH_PROFILE": "base",
            "BERTH_PROFILE_VERSION": "1.0",
        } | changes
        text = "".join(f"{key}={value}\n" for key, value in values.items())
        self.write("job.env", text)
        self.root = values.get("BERTH_ROOT") == "yes"

    def write(self, name: str, content: str | bytes) -> None:
        data = content.encode() if isinstance(content, str) else content
        self.bench.sh(f"umask 077; cat >{self.directory}/run/{name}", user=self.owner, stdin=data)

    def submit(self, *options: str, singleton: bool = True, submission: str = "1") -> int:
        log = f"{self.directory}/run/job.log"
        dependency = ["--dependency=singleton"] if singleton else []
        done = self.bench.run(
            "sbatch", "--parsable", "--export=NIL", "--signal=B:USR1@60", "--open-mode=append", f"--output={log}",
            f"--chdir={self.directory}", f"--job-name=berth-{self.id}", f"--comment=berth:{self.id}:1", "--requeue",
            *dependency, MEMORY, *options, f"{ROOM}/session.sh", self.directory, submission,
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
        announced = f"berth:{self.id}:1:{restarts}:"
        wait_until(lambda: self.job().comment.startswith(announced), "an announcement", self._told)
        return self.job()

    def ended(self, job_id: int | None = None) -> Job:
        live = {"PENDING", "CONFIGURING", "RUNNING", "COMPLETING"}
        wait_until(lambda: self.job(job_id).state not in live, "the job's end", self.log)
        return self.job(job_id)

    def stop(self) -> Job:
        self.bench.sh(f"scancel {self.jobs[-1]}")
        return self.ended()

    def ask_for_copy(self, **layers: str) -> str:
        """Ask the running job for a copy of its tops to these layers, as the launcher does; the request's id."""
        asked = new_id()
        text = "".join(f"{key}={value}\n" for key, value in {"ID": asked, **layers}.items())
        self.write("copy.outcome", " " * OUTCOME_FILE_BYTES)
        self.write("copy.request.new", text)
        self.bench.sh(f"cd {self.directory}/run; mv copy.request.new copy.request", user=self.owner)
        self.bench.sh(f"scancel --batch --signal=USR2 {self.jobs[-1]}", user=self.owner)
        return asked

    def outcome(self, asked: str) -> dict[str, str]:
        """Return the job's answer to that request; AssertionError without one."""
        text = ""

        def answered() -> bool:
            nonlocal text
            text = self.bench.sh(f"cat {self.directory}/run/copy.outcome 2>/dev/null || :")
            return f"ID={asked}\n" in text

        wait_until(answered, "the copy's outcome", self.log, seconds=60)
        return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)

    def copy(self, **layers: str) -> dict[str, str]:
        return self.outcome(self.ask_for_copy(**layers))

    def traces(self, node: str) -> list[str]:
        """Return the traces of this session's jobs on a node: folders in /tmp and /var/tmp, mounts, and processes.

        A process is theirs by its cgroup, and by the session's id in its command line, environment or mounts.
        """
        patterns = [self.id, *(f"/job_{job}\\>" for job in self.jobs)]
        script = (  # which does not name the session itself
            'read -r id; ls -d /tmp/berth-*"$id"* /var/tmp/berth-*"$id"* 2>/dev/null || :;'
            "grep -ls -f - /proc/mounts /proc/[0-9]*/cmdline /proc/[0-9]*/environ /proc/[0-9]*/mountinfo "
            "/proc/[0-9]*/cgroup || :"
        )
        return self.bench.sh(script, node=node, stdin="\n".join([self.id, *patterns]).encode()).splitlines()

    def log(self) -> str:
        return self.bench.sh(f"cat {self.directory}/run/job.log 2>/dev/null || :")

    def _told(self) -> str:
        """The log, and what Slurm has to say about a job that does not begin."""
        queue = self.bench.sh("squeue -o '%i %j %u %T %N %C %m %b %r'; sinfo -N -o '%N %T %C %e %E'")
        return f"{self.log()}{queue}"

    def ssh_argv(
        self, *words: str, key_of: str | None = None, login: str | None = None, program: str = "ssh"
    ) -> list[str]:
        """OpenSSH's arguments for a direct connection from the login node, with every prompt refused."""
        *_, node, port, _, _ = self.job().comment.split(":")
        user = key_of or self.owner
        options = (
            "BatchMode=yes",
            "StrictHostKeyChecking=yes",
            f"UserKnownHostsFile={ROOM}/known_hosts",
            "IdentitiesOnly=yes",
            f"HostKeyAlias={self.owner}.dev.berth",
            f"IdentityFile={ROOM}/{user}/id",
            f"Port={port}",
        )
        target = [f"{login or ('root' if self.root else self.owner)}@{node}"] if program == "ssh" else []
        flags = [word for option in options for word in ("-o", option)]
        return self.bench.lab.argv([program, "-F", "none", *flags, *target, *words], user=user, node="login")

    def ssh(
        self, command: str, *, stdin: bytes = b"", key_of: str | None = None, login: str | None = None
    ) -> subprocess.CompletedProcess[bytes]:
        argv = self.ssh_argv(command, key_of=key_of, login=login)
        return subprocess.run(argv, input=stdin, capture_output=True, timeout=60, check=False)

    def says(self, command: str) -> str:
        done = self.ssh(command)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode().rstrip("\n")


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
        return client.wait(DEADLINE_S), shown.decode()


def wait_until(condition: Callable[[], bool], what: str, log: Callable[[], str], seconds: float = 30) -> None:
    began_at = time.monotonic()
    while not condition():
        assert time.monotonic() < began_at + seconds, f"waited {seconds} s in vain for {what}; the job's log:\n{log()}"
        time.sleep(pause_s(began_at))
