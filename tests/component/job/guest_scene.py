"""A session with a terminal that its owner shows, and a guest who has been admitted to it."""

from __future__ import annotations

import os
import shlex
import subprocess
import time
from typing import TYPE_CHECKING

from broker.controller.credentials.guests import AdmittedGuest, guest_files
from broker.controller.credentials.login import SshCredentials
from broker.schema.grants import Role
from tests.deadlines import DEADLINE_S
from tests.fakes.openssh import public
from tests.fakes.session_container import GUEST_LOGIN
from tests.pseudo_terminal import PseudoTerminal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.fakes.session_container import SessionContainer

SHOW = "python3 -I /run/berth/node/show"
CANARY = "canary-that-no-guest-sees"


class Scene:
    """A session of alice's, whose tmux she uses from her terminal, and bob, who has been admitted to it."""

    def __init__(self, session: SessionContainer) -> None:
        self.session = session
        self.guest = session.base / "guest"
        self.server = f"tmux -S {session.base}/tmux"
        """The container has the machine's /tmp."""

    def admit(self, *users: str, role: Role = Role.WATCH, number: int | None = None, **lists: list[str]) -> None:
        """Write the files of these guests as the launcher does: bob's key opens the session, and so do `lists`."""
        made = []
        for user in users:
            credentials = {"keys": [public(self.guest)], "authorities": [], "revoked": [], "web": []} | lists
            made.append(AdmittedGuest(SshCredentials(user=user, **credentials), role))
        for name, text in guest_files(made, time.time_ns() if number is None else number).items():
            fresh = self.session.files / f".{name}"
            fresh.write_text(text)
            fresh.rename(self.session.files / name)

    def tmux(self, command: str) -> str:
        """Run a command of tmux, from outside: the owner's uid is the one of this process there."""
        words = shlex.split(f"{self.server} {command}")
        done = subprocess.run(words, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def type(self, *lines: str) -> None:
        """Type lines in alice's shown terminal."""
        for line in lines:
            self.tmux(f"send-keys -t main -l '{line}' \\; send-keys -t main Enter")

    def watch(self, *, columns: int = 100, lines: int = 30, options: Sequence[str] = ()) -> PseudoTerminal:
        argv = self.session.ssh(self.guest, *options, login=GUEST_LOGIN)
        return PseudoTerminal(argv, {**os.environ, "TERM": "xterm-256color"}, columns=columns, lines=lines)
