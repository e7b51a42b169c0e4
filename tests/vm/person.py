"""A user of a guest's site: `berth` on its login node, and ssh from the machine as their laptop."""

from __future__ import annotations

import json
import shlex
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests.site import guest_site
from tests.site.laptop import THERE, Laptop

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable
    from pathlib import Path

    from slurm.vm.guest import Guest

SECONDS = 900
"""For one command or condition. It only ends what hangs: the slowest takes 25 s on a free machine under emulation."""
LOOK_SECONDS = 1
"""Between two looks: each takes two seconds of the guest's processor."""
WAIT = ("--timeout", "880")
"""Options of commands that wait for a session: they end before SECONDS, and say what they waited for."""


@dataclass(frozen=True, slots=True)
class LoginNode:
    """The guest, as tests.site.laptop sees it."""

    guest: Guest

    def run(self, command: str, *, user: str, seconds: float = SECONDS, stdin: bytes = b"") -> str:
        return self.guest.sh(command, user=user, seconds=max(seconds, SECONDS), stdin=stdin)


@dataclass(frozen=True, slots=True)
class Person:
    """One user."""

    name: str
    guest: Guest
    laptop: Laptop

    @classmethod
    def of(cls, guest: Guest, name: str, directory: Path, *, personal: bool) -> Person:
        """Let a key of this machine in, and write the ssh configuration that `berth ssh-config` prints.

        In personal mode people come in through the sshd of the login node, else through the gateway.
        """
        if personal:
            return cls(name, guest, _through_sshd(guest, name, directory))
        return cls(name, guest, Laptop.of(LoginNode(guest), name, directory, guest.port(guest_site.GATEWAY_PORT)))

    def berth(self, *arguments: str, seconds: float = SECONDS) -> subprocess.CompletedProcess[bytes]:
        """Run `berth …` on the login node."""
        return self.guest.run(["berth", *arguments], user=self.name, seconds=seconds)

    def ok(self, *arguments: str, seconds: float = SECONDS) -> str:
        """Run the same, which must succeed; return its standard output."""
        done = self.berth(*arguments, seconds=seconds)
        assert done.returncode == 0, f"berth {shlex.join(arguments)} ended with {done.returncode}: {said(done)}"
        return done.stdout.decode()

    def show(self, session: str) -> dict[str, Any]:
        view: dict[str, Any] = json.loads(self.ok("show", session, "--json"))
        return view

    def until(
        self, session: str, holds: Callable[[dict[str, Any]], bool], *, what: str, seconds: float = SECONDS
    ) -> dict[str, Any]:
        """Return the session once the condition holds of it."""
        deadline = time.monotonic() + seconds
        while not holds(view := self.show(session)):
            assert time.monotonic() < deadline, f"waited {seconds:g} s in vain for {what}; it is {view}"
            time.sleep(LOOK_SECONDS)
        return view

    def sh(self, script: str, *, seconds: float = SECONDS) -> str:
        """Return what a shell script prints on the login node, in the home there; it must succeed."""
        return self.guest.sh(f"cd; {script}", user=self.name, seconds=seconds)

    def explain(self, session: str) -> dict[str, str]:
        """Return what `berth explain` says, by title; of several lines the last."""
        return {line["title"]: line["text"] for line in json.loads(self.ok("explain", session, "--json"))["lines"]}

    def ssh(self, session: str, script: str, *, seconds: float = SECONDS) -> subprocess.CompletedProcess[bytes]:
        """Run a shell script in the session, by ssh from the laptop, whatever its exit code."""
        return self.laptop.ssh(session, f"bash -euc {shlex.quote(script)}", seconds=seconds)

    def inside(self, session: str, script: str, *, seconds: float = SECONDS) -> str:
        """Return what the same script prints, where it must succeed."""
        done = self.ssh(session, script, seconds=seconds)
        assert done.returncode == 0, f"{script!r} ended with {done.returncode}: {said(done)}"
        return done.stdout.decode().removesuffix("\n")


def _through_sshd(guest: Guest, user: str, directory: Path) -> Laptop:
    """Write the configuration for the guest's key, which the login node and so the sessions let in."""
    command = f"berth ssh-config --json --via login --identity {shlex.quote(str(guest.key))}"
    files = json.loads(guest.sh(command, user=user, seconds=SECONDS))
    config, known_hosts = directory / "ssh_config", directory / "known_hosts"
    known_hosts.write_text(files["known_hosts"])
    login_node = (
        f"\nHost vm\n  HostName 127.0.0.1\n  Port {guest.port()}\n  IdentityFile {guest.key}\n  BatchMode yes\n"
        "  StrictHostKeyChecking no\n  UserKnownHostsFile /dev/null\n  LogLevel ERROR\n"
    )
    text = files["ssh_config"].replace(THERE, str(known_hosts))
    config.write_text(text.replace("ProxyCommand ssh ", f"ProxyCommand ssh -F {config} ") + login_node)
    return Laptop(config, guest.key.with_suffix(".pub").read_bytes())


def said(done: subprocess.CompletedProcess[bytes]) -> str:
    """Return what a command that failed has printed."""
    return (done.stderr + done.stdout).decode(errors="replace")[-3000:]
