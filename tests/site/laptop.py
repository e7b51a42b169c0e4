"""The machine as a user's laptop: a key of its own, and a stock ssh that reaches sessions through a published port."""

from __future__ import annotations

import json
import shlex
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from tests.deadlines import DEADLINE_S

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

THERE = "~/.config/berth/known_hosts"
"""The path at which the printed configuration expects known_hosts."""


class LoginNode(Protocol):
    """The machine on which users type `berth`: the lab's login node, or a guest."""

    def run(self, command: str, *, user: str, seconds: float = DEADLINE_S, stdin: bytes = b"") -> str:
        """Run a command line as `user`; its output. An error if it fails or takes too long."""


@dataclass(frozen=True, slots=True)
class Laptop:
    """One user's ssh configuration on this machine."""

    config: Path
    public_key: bytes

    @classmethod
    def of(cls, site: LoginNode, user: str, directory: Path, port: int) -> Laptop:
        """Make, or take, a key in `directory`, let it in, and write ssh_config and known_hosts beside it.

        `port` of this machine leads to the gateway.
        """
        directory.mkdir(parents=True, exist_ok=True)
        key = (directory / f"{user}_key").resolve()
        if not key.exists():
            make = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"{user}@laptop", "-f", str(key)]
            subprocess.run(make, check=True, timeout=30)
        public = key.with_name(key.name + ".pub").read_bytes()
        listed = json.loads(site.run("berth key list --json", user=user))["keys"]
        printed = subprocess.run(["ssh-keygen", "-lf", key], check=True, capture_output=True, text=True, timeout=30)
        if printed.stdout.split()[1] not in {known["fingerprint"] for known in listed}:
            site.run("berth key add -", user=user, stdin=public)
        config, known_hosts = (directory / "ssh_config").resolve(), (directory / "known_hosts").resolve()
        command = f"berth ssh-config --json --via gateway --gateway 127.0.0.1:{port} --identity {shlex.quote(str(key))}"
        files = json.loads(site.run(command, user=user))
        known_hosts.write_text(files["known_hosts"])
        config.write_text(files["ssh_config"].replace(THERE, str(known_hosts)))
        return cls(config, public)

    def argv(self, session: str, command: Sequence[str] = (), *, options: Sequence[str] = ()) -> list[str]:
        """The ssh command line."""
        return ["ssh", "-F", str(self.config), "-o", "BatchMode=yes", *options, f"{session}.berth", "--", *command]

    def ssh(
        self, session: str, script: str, *, seconds: float = DEADLINE_S, stdin: bytes = b"", options: Sequence[str] = ()
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a shell script in a session."""
        argv = self.argv(session, [script], options=options)
        return subprocess.run(argv, input=stdin, capture_output=True, timeout=seconds, check=False)

    def ok(
        self, session: str, script: str, *, seconds: float = DEADLINE_S, stdin: bytes = b"", options: Sequence[str] = ()
    ) -> bytes:
        """The same, which must succeed; its standard output."""
        done = self.ssh(session, script, seconds=seconds, stdin=stdin, options=options)
        assert done.returncode == 0, f"ssh {session} ended with {done.returncode}: {done.stderr!r} {done.stdout!r}"
        return done.stdout
