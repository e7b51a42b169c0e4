"""The lab as the printed commands need it: alice's home and sessions, and the values that a reader fills in."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tests.lab.conftest import User

HOME = "/shared/home/alice/printed"
"""A home of its own, also the current directory: what the commands write there goes with it."""
PROFILE = "triton-xpu"
OTHER_PROFILE = "base"
SEED = "seed"
"""A stopped session, of which others are clones: that is quicker than a first start."""
SECONDS = 120.0

PYTHON = "/opt/berth/venv/bin/python"
ON_TERMINAL = "import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))"
"""Runs its arguments on a pseudo-terminal: the login node has no script(1)."""

LAB_VALUES = {
    r"--mem[= ]32G": "--mem=2G",  # a node of the lab has 16 GB
    r"(--mem[= ])16G": r"\g<1>1G",
    r"triton-xpu@2": "base@2",  # the lab has only one version of each
    r"\d{4}-\d\d-\d\dT": time.strftime("%Y-%m-%dT", time.localtime(time.time() + 2 * 86400)),
    r"(?<=profile delete )base@2": "mine@1",
    r"(?<=profile sbom )mine": "base",
    r"(?<=profile diff )mine@1 mine@2": "base triton-xpu",
    r"(?<=key add )mine\.yaml": "key.pub",
    r"(?<=config check )mine\.yaml": "site.yaml",
    r"(?<=--config )mine\.yaml": "site.yaml",
}
"""Values of another site or of the reader, by pattern, and those of the lab."""

_FILES = {
    "mine.yaml": "name: mine\nversion: 1\nbase: profile:base@2\n",
    "train.sh": "#!/bin/bash\n#SBATCH --time=5 --array=1-2\ntrue\n",
    "job.sh": "#!/bin/bash\n#SBATCH --time=5 --mem=200M\necho of a job >~/out\n",
    "search.py": "import subprocess\nsubprocess.run(['sbatch', '--mem=200M', 'job.sh'], check=True)\n",
    "data.csv": "1,2\n",
    "src/a.c": "int a;\n",
    "results/r": "1\n",
    ".config/app/settings": "1\n",
}
_IN_SESSION = "touch A; mkdir -p project/results; printf 'all:\\n\\ttrue\\n' >Makefile"


@dataclass
class World:
    """Alice, her home on the login node, and her laptop."""

    user: User
    room: Path
    """A directory of the laptop."""

    def set_up(self) -> None:
        """Make the home with the files that commands name, and the session that others are clones of."""
        lab = self.user.site.lab
        lab.sh(f"rm -rf {HOME}; mkdir -p {HOME}/.ssh {HOME}/bin {HOME}/.config/berth", user="alice")
        for name, text in _FILES.items():
            lab.sh(f"mkdir -p $(dirname {HOME}/{name}); printf %s {shlex.quote(text)} >{HOME}/{name}", user="alice")
        lab.sh(
            f"cd {HOME}; mkdir -p .config/fish/completions; cp /etc/berth/config.yaml site.yaml;"
            " cp site.yaml .config/berth/config.yaml; ln -s /profiles/base/2/image.sif IMAGE.sif",
            user="alice",
        )
        self.new_keys()
        self._make_laptop()
        self.user.ok("start", SEED, "--profile", PROFILE, "--timeout", "100")
        self.user.ok("exec", SEED, "--", "sh", "-c", _IN_SESSION)
        self.user.ok("stop", SEED)

    def _make_laptop(self) -> None:
        """Put clients with alice's configuration at the front of a PATH, and the files that they copy."""
        (self.room / "bin").mkdir()
        for program in ("ssh", "scp", "sftp"):
            wrapper = self.room / "bin" / program
            wrapper.write_text(
                f'#!/bin/sh\nexec /usr/bin/{program} -F {self.user.laptop.config} -o BatchMode=yes "$@"\n'
            )
            wrapper.chmod(0o755)
        for name in ("src/a.c", "results/r"):
            (self.room / name).parent.mkdir()
            (self.room / name).write_text("1\n")

    def clean_up(self) -> None:
        """Remove the sessions, the jobs and the home."""
        self.user.site.lab.run(["scancel", "--user=alice"])
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(self.user.remove, self.user.sessions()))
        self.user.site.lab.sh(f"rm -rf {HOME}", user="alice")

    def run(
        self,
        text: str,
        *,
        node: str = "login",
        user: str = "alice",
        directory: str = HOME,
        terminal: bool = False,
        stdin: bytes = b"",
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a shell line, on a terminal with `stdin` as its keys, or without one."""
        argv = ["bash", "-c", f"cd {directory if user == 'alice' else '/'} && {text}"]
        if terminal:
            argv = [PYTHON, "-c", ON_TERMINAL, *argv]
        env = {"HOME": HOME} if user == "alice" else None
        return self.user.site.lab.run(argv, user=user, node=node, stdin=stdin, seconds=SECONDS, env=env)

    def run_on_laptop(
        self, text: str, *, terminal: bool = False, stdin: bytes = b""
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a line of OpenSSH's clients on the laptop, as `run` does on the cluster."""
        argv = ["sh", "-c", text]
        if terminal:
            argv = [sys.executable, "-c", ON_TERMINAL, *argv]
        environment = os.environ | {"PATH": f"{self.room}/bin:/usr/bin:/bin", "TERM": "xterm"}
        return subprocess.run(
            argv, cwd=self.room, env=environment, input=stdin, capture_output=True, timeout=SECONDS, check=False
        )

    def fill_in(self, text: str) -> str:
        """Return the line with the lab's values in place of those of another site."""
        for pattern, value in LAB_VALUES.items():
            text = re.sub(pattern, value, text)
        if re.search(r"\b1042\b|\b1042_", text):
            text = re.sub(r"\b1042(?=\b|_)", self.array_job, text)
        return text.replace("SHA256:x", self.key) if "key remove" in text else text

    def state(self, name: str) -> str:
        """Return the state of a session, or an empty string if there is none."""
        status, body = self.user.request(f"/v1/sessions/{name}")
        return str(json.loads(body)["state"]) if status == HTTPStatus.OK else ""

    def absent(self, *names: str) -> None:
        """Be sure that there is no session of these names."""
        for name in names:
            if self.state(name):
                self.user.remove(name)

    def stopped(self, *names: str) -> None:
        """Be sure that these sessions exist and have no job."""
        for name in names:
            state = self.state(name)
            if not state:
                self.user.ok("clone", SEED, name)
            elif state not in {"stopped", "failed"}:
                self.user.ok("stop", name, "--yes")

    def ready(self, *names: str) -> None:
        """Be sure that these sessions are ready."""
        for name in names:
            if self.state(name) != "ready":
                self.stopped(name)
                self.user.ok("start", name, "--timeout", "100")

    def on_profile(self, name: str, profile: str) -> None:
        """Be sure that the session exists, has no job, and has a profile of that name."""
        self.stopped(name)
        if self.user.show(name)["profile"] != profile:
            self.user.ok("switch", name, profile, "--yes")

    def new_keys(self) -> None:
        """Make other keys: alice has not added them."""
        self.user.site.lab.sh(
            f"cd {HOME}; rm -f .ssh/id_ed25519* key key.pub; ssh-keygen -q -t ed25519 -N '' -f .ssh/id_ed25519;"
            " ssh-keygen -q -t ed25519 -N '' -f key",
            user="alice",
        )

    def only(self, name: str) -> None:
        """Be sure that this session is ready, and that no other one has a job."""
        self.stopped(*(each for each in self.user.sessions() if each != name))
        self.ready(name)

    def snapshot(self, name: str, wanted: str) -> None:
        """Be sure that the session has a snapshot of that number or label."""
        has = json.loads(self.user.ok("snapshots", name, "--json"))["snapshots"]
        if wanted in {str(each["number"]) for each in has} | {each["label"] for each in has}:
            return
        if not wanted.isdecimal():
            self.user.ok("snapshot", name, wanted)
            return
        for _ in range(int(wanted) - max((each["number"] for each in has), default=0)):
            self.user.ok("snapshot", name)

    @cached_property
    def array_job(self) -> str:
        """The id of a job array that has run in an environment."""
        self.stopped("dev")
        done = self.run("berth sbatch --env dev --parsable --wait --array=1-3 job.sh")
        assert done.returncode == 0, done.stderr
        return done.stdout.decode().strip()

    @property
    def key(self) -> str:
        """The fingerprint of a key that alice has added."""
        self.user.ok("key", "add", f"{HOME}/key.pub")
        return self.user.site.lab.sh(f"ssh-keygen -lf {HOME}/key.pub").split()[1]

    def authority_key(self, kind: str, standings: Sequence[str]) -> str:
        """Return the fingerprint of an authority's key with one of the standings; empty if there is none."""
        listed: list[dict[str, Any]] = json.loads(self.user.ok("ca", "list", "--json"))["keys"]
        return next(
            (each["fingerprint"] for each in listed if each["kind"] == kind and each["standing"] in standings), ""
        )
