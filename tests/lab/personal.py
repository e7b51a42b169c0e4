"""Carol, who has Berth to herself on the node c3, and her laptop on the lab's login node."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.deadlines import DEADLINE_S
from tests.lab_cluster import wait_for

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.lab_cluster import Lab

NODE, LAPTOP, OTHER = "c3", "login", "c2"
CAROL, BOB = "carol", "bob"
REPLACING_HOME = """
mount --bind "$1" /shared/home/carol
cd /shared/home/carol
exec setpriv --reuid=carol --regid=carol --init-groups env -i HOME=/shared/home/carol USER=carol PATH=/usr/bin:/bin \
    TERM=xterm-256color sh -c "$2"
"""


@dataclass(frozen=True)
class Carol:
    """Carol at work on the login node of a site without Berth."""

    lab: Lab

    def berth(
        self, *arguments: str, seconds: float = DEADLINE_S, stdin: bytes = b"", env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[bytes]:
        return self.lab.run(["berth", *arguments], user=CAROL, node=NODE, seconds=seconds, stdin=stdin, env=env)

    def ok(self, *arguments: str, seconds: float = DEADLINE_S, env: Mapping[str, str] | None = None) -> str:
        done = self.berth(*arguments, seconds=seconds, env=env)
        assert done.returncode == 0, f"berth {' '.join(arguments)} ended with {done.returncode}: {done.stderr.decode()}"
        return done.stdout.decode()

    def sh(self, script: str) -> str:
        return self.lab.sh(script, user=CAROL, node=NODE)

    def controllers(self, node: str = NODE) -> list[int]:
        return [pid for pid, _, words in self.processes(node) if " controller" in words]

    def processes(self, node: str = NODE) -> list[tuple[int, str, str]]:
        """Every process of Berth on the node: its id, whose it is, its command line."""
        rows = [line.split(None, 2) for line in self.lab.sh("ps -eww -o pid=,user=,args=", node=node).splitlines()]
        return [
            (int(pid), user, words)
            for pid, user, words in rows
            if words.startswith("/opt/berth") and ("broker." in words or "/slurm/" in words)
        ]

    def kill(self, node: str = NODE) -> None:
        """End the controller, if there is one, as the kernel would without memory; its children end by themselves."""
        for pid in self.controllers(node):
            self.lab.sh(f"kill -9 {pid}", node=node)
        wait_for(lambda: not self.processes(node), what="the controller to end")


@dataclass(frozen=True)
class Laptop:
    """Carol's laptop."""

    lab: Lab
    home: str

    def argv(self, script: str) -> list[str]:
        unshare = ["unshare", "--mount", "--propagation=private", "sh", "-euc", REPLACING_HOME, "sh", self.home, script]
        return self.lab.argv(unshare, node=LAPTOP)

    def run(
        self, script: str, *, stdin: bytes = b"", seconds: float = DEADLINE_S
    ) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(self.argv(script), input=stdin, capture_output=True, timeout=seconds, check=False)

    def ok(self, script: str, *, stdin: bytes = b"") -> bytes:
        """Run something that must succeed and have nothing to remark."""
        done = self.run(script, stdin=stdin)
        assert (done.returncode, done.stderr) == (0, b""), f"{script}: {done}"
        return done.stdout
