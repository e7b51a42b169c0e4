"""The ways to a session, each a client with its own ssh: what the tests with real clients run their scripts by."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.lab.conftest import User

LIMIT = 120
"""Seconds for one script."""
ROOM = "/shared/home/alice/ways"


@dataclass(frozen=True, slots=True)
class Way:
    """A place where `ssh -F $CONFIG $HOST` works, and scripts run in a directory of their own."""

    user: User
    host: str
    config: str
    room: str
    here: bool
    """On this machine, or on the lab's login node."""

    def run(self, script: str, *, seconds: float = LIMIT) -> str:
        """Run the script, and return its output; it must succeed.

        It can use the definitions of _HEAD, and $ROOM, an empty directory in which it runs.
        """
        head = f"CONFIG={self.config} HOST={self.host} ROOM={self.room}\n{_HEAD}"
        command = ["timeout", str(seconds), "bash", "-c", head + script]
        if self.here:
            done = subprocess.run(command, capture_output=True, check=False, stdin=subprocess.DEVNULL)
        else:
            done = self.user.site.lab.run(command, user=self.user.name, seconds=seconds + 10)
        said = (done.stdout + done.stderr).decode(errors="replace")
        assert done.returncode == 0, f"{done.returncode}: {said} of\n{script}"
        return done.stdout.decode()

    def begin(self, command: str) -> subprocess.Popen[bytes]:
        """ssh with that command, its standard input and output as pipes."""
        argv = ["ssh", "-F", self.config, "-o", "BatchMode=yes", self.host, command]
        argv = argv if self.here else self.user.site.lab.argv(argv, user=self.user.name)
        return subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def laptop(user: User, session: str, room: Path) -> Way:
    """This machine's ssh, by the gateway."""
    return Way(user, f"{session}.berth", str(user.laptop.config), str(room), here=True)


def by_gateway(user: User, session: str) -> Way:
    """The login node's ssh, which is Debian sid's, by the gateway."""
    _prepare(user)
    return Way(user, f"{session}.berth", f"{ROOM}.gateway/ssh_config", ROOM, here=False)


def by_login(user: User, session: str) -> Way:
    """The same, by the login node's own sshd: `ProxyCommand ssh login berth connect %h`."""
    _prepare(user)
    return Way(user, f"{session}.berth", f"{ROOM}.login/ssh_config", ROOM, here=False)


def _prepare(user: User) -> None:
    if "a new key" in user.site.lab.sh(_PREPARE, user=user.name):
        user.site.new_gateway_workers()  # which would know of it in some seconds only


ALL: dict[str, Callable[[User, str, Path], Way]] = {
    "laptop": laptop,
    "sid by the gateway": lambda user, session, _: by_gateway(user, session),
    "sid by the login node": lambda user, session, _: by_login(user, session),
}
"""The constructor of each way: from the user, the session's name and a directory on this machine."""

_HEAD = r"""
set -euo pipefail
SSH=("$(type -P ssh)" -F $CONFIG -o BatchMode=yes)
ssh() { "${SSH[@]}" "$@"; }
eventually() { for _ in {1..200}; do if "$@" 2>/dev/null; then return; fi; sleep 0.05; done; return 1; }
FREE_PORT="python3 -c 'import socket; s = socket.socket(); s.bind((\"127.0.0.1\", 0)); print(s.getsockname()[1])'"
rm -rf $ROOM; mkdir -p $ROOM; cd $ROOM
"""
"""The beginning of each script.

A process that the script kills later is started with "${SSH[@]}" and not with the function, whose process is a shell.
`eventually COMMAND` repeats the command until it succeeds: the shell has no better way to wait.
"""

_PREPARE = f"""
umask 077
mkdir -p ~/.ssh
if ! [ -e ~/.ssh/id_ed25519 ]; then
    ssh-keygen -q -t ed25519 -N '' -f ~/.ssh/id_ed25519
    berth key add ~/.ssh/id_ed25519.pub
    echo "a new key"
fi
grep -qsf ~/.ssh/id_ed25519.pub ~/.ssh/authorized_keys || cat ~/.ssh/id_ed25519.pub >>~/.ssh/authorized_keys
grep -qs '^login ' ~/.ssh/known_hosts || echo login $(cat /etc/ssh/ssh_host_ed25519_key.pub) >>~/.ssh/known_hosts
for way in gateway login; do
    berth ssh-config --via $way --identity ~/.ssh/id_ed25519 --output {ROOM}.$way
done
"""
