"""The place of all measurements: alice on the lab's login node, with one key, one set of ciphers and no prompts."""

from __future__ import annotations

import json
import subprocess
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from slurm.lab.progress import ProgressLog
from tests.bench.report import UnmeasurableError
from tests.lab_cluster import Lab
from tests.site import deploy

if TYPE_CHECKING:
    from collections.abc import Sequence

USER = "alice"
PROFILE = "base"
HERE = "/opt/berth/src/tests/bench"
"""This folder, as the nodes see it."""
PYTHON = ("env", "PYTHONPATH=/opt/berth/src", "/opt/berth/venv/bin/python", "-B", "-P")
"""The command that runs programs of this folder there."""
ROOM = f"/shared/home/{USER}/bench"
SSH_CONFIG = f"{ROOM}/ssh_config"

SETTINGS = """\
Ciphers aes128-gcm@openssh.com
KexAlgorithms curve25519-sha256
HostKeyAlgorithms ssh-ed25519-cert-v01@openssh.com,ssh-ed25519
BatchMode yes
StrictHostKeyChecking yes
ControlMaster no
"""
"""The same for all connections and servers."""


@dataclass(frozen=True, slots=True)
class Ground:
    """The lab with Berth on it, ready to be measured."""

    site: deploy.Site
    image: str
    """The SIF that all sessions and the bare jobs run."""

    @property
    def lab(self) -> Lab:
        return self.site.lab

    @classmethod
    def of(cls, lab: str) -> Ground:
        """Build the image if need be, and give alice a key that gateway, sessions and the login node's sshd accept."""
        site = deploy.Site(Lab.find(lab))
        deploy.build_profile(site, PROFILE, ProgressLog())
        image = json.loads(site.run(f"berth profile show {PROFILE} --json", user=USER))["path"]
        site.lab.sh(_PREPARE, user=USER)
        site.lab.sh(f"echo login $(cat /etc/ssh/ssh_host_ed25519_key.pub) >>{ROOM}/known_hosts")
        return cls(site, str(image))

    def sh(self, script: str, *, seconds: float = 60, user: str = USER) -> str:
        """Return the output of a user's shell script.

        UnmeasurableError if it fails or takes longer than `seconds`.
        """
        return self.timed(["bash", "-euc", script], seconds=seconds, user=user)[1].decode()

    def berth(self, command: str) -> Any:  # noqa: ANN401 - JSON
        """The JSON that one of berth's commands gives alice."""
        return json.loads(self.sh(f"berth {command} --json"))

    def seconds_to_first_byte(self, command: Sequence[str], *, seconds: float = 120) -> float:
        """Run a command of alice's and stop the clock at the first byte of its output; it must end well."""
        began = time.perf_counter()
        process = self.lab.popen(["timeout", str(seconds), *command], user=USER)
        with process:
            assert process.stdout is not None
            byte = process.stdout.read(1)
            took = time.perf_counter() - began
            _, errors = process.communicate()
        if process.returncode != 0 or not byte:
            raise UnmeasurableError(f"{command[0]} ended with {process.returncode}: {_tail(errors)}")
        return took

    def timed(self, command: Sequence[str], *, seconds: float, user: str = USER) -> tuple[float, bytes]:
        """Run a user's command, and return the seconds that it took and its output.

        UnmeasurableError if it fails or takes longer than `seconds`.
        """
        began = time.perf_counter()
        try:
            done = self.lab.run(command, user=user, seconds=seconds)
        except subprocess.TimeoutExpired as error:
            raise UnmeasurableError(f"{command} took longer than {seconds:g} s") from error
        took = time.perf_counter() - began
        if done.returncode != 0:
            raise UnmeasurableError(f"{command} ended with {done.returncode}: {_tail(done.stderr)}")
        return took, done.stdout


def _tail(errors: bytes) -> str:
    return errors.decode(errors="replace")[-2000:].strip()


_PREPARE = f"""
umask 077
rm -rf {ROOM}
mkdir -p {ROOM} ~/.ssh
ssh-keygen -q -t ed25519 -N '' -f {ROOM}/id
cat {ROOM}/id.pub >>~/.ssh/authorized_keys
berth key add {ROOM}/id.pub
berth ssh-config --via gateway --identity {ROOM}/id --output {ROOM}/berth
cp {ROOM}/berth/known_hosts {ROOM}/known_hosts
cat >{SSH_CONFIG} <<'END'
{SETTINGS}
Include {ROOM}/berth/ssh_config
Include {ROOM}/hosts/*
Host *
IdentityFile {ROOM}/id
IdentitiesOnly yes
UserKnownHostsFile {ROOM}/known_hosts
END
mkdir {ROOM}/hosts
"""
