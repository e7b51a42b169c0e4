"""The way to `berth tui` without anything installed: a laptop's ssh to the login node, with a terminal."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.deadlines import DEADLINE_S
from tests.lab.own_lab import free_port
from tests.lab_cluster import wait_for
from tests.tmux import TmuxTerminal

if TYPE_CHECKING:
    from pathlib import Path

    from tests.lab.conftest import User

PROMPT = "login>"
TRYING_AGAIN = "trying again"
_ADD_KEY = "mkdir -pm 700 ~/.ssh; cat >>~/.ssh/authorized_keys; chmod 600 ~/.ssh/authorized_keys"
_REMOVE_KEY = "grep -vFf - ~/.ssh/authorized_keys >~/.ssh/rest || :; cat ~/.ssh/rest >~/.ssh/authorized_keys"


@dataclass(frozen=True)
class LoginNodeAccess:
    """A user's key on the login node, whose sshd has a port of this machine."""

    user: User
    directory: Path
    port: int

    @classmethod
    def open(cls, user: User, directory: Path) -> LoginNodeAccess:
        made = cls(user, directory, free_port())
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", made.key], check=True)
        user.site.lab.run(["sh", "-c", _ADD_KEY], user=user.name, stdin=made._public_key)
        made._publish("publish", f"127.0.0.1:{made.port}:login:22")
        return made

    def close(self) -> None:
        self._publish("unpublish", str(self.port))
        self.user.site.lab.run(["sh", "-c", _REMOVE_KEY], user=self.user.name, stdin=self._public_key)

    @property
    def key(self) -> Path:
        return self.directory / "key"

    @property
    def _public_key(self) -> bytes:
        return self.key.with_suffix(".pub").read_bytes()

    def _publish(self, *words: str) -> None:
        verb, entry = words
        command = [sys.executable, "-m", "slurm.lab", verb, "--name", self.user.site.lab.place.name, entry]
        subprocess.run(command, check=True, timeout=DEADLINE_S)

    def ssh(self, *command: str, port: int | None = None) -> list[str]:
        """Return the ssh command line with a terminal, through another port such as a relay's."""
        options = {
            "UserKnownHostsFile": str(self.directory / "known_hosts"),
            "StrictHostKeyChecking": "no",
            "IdentitiesOnly": "yes",
            "BatchMode": "yes",
            "LogLevel": "ERROR",
            "SendEnv": "LC_* COLORTERM",
            "IgnoreUnknown": "ObscureKeystrokeTiming",
            "ObscureKeystrokeTiming": "no",  # packets without content would be counted as round trips
        }
        words = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
        address = ["-p", str(port or self.port), "-i", str(self.key), f"{self.user.name}@127.0.0.1"]
        return ["ssh", "-F", "none", "-t", *words, *address, *command]


class LoginTerminal(TmuxTerminal):
    """A shell on the login node in tmux, from which `berth tui` is opened."""

    def __init__(self, access: LoginNodeAccess, *, columns: int = 120, lines: int = 40) -> None:
        shell = f"exec env PS1='{PROMPT} ' bash --norc --noprofile -i"
        super().__init__(access.ssh(shell), {"HOME": os.environ["HOME"]}, columns=columns, lines=lines)
        self._lab = access.user.site.lab
        self._user = access.user.name
        self.wait_for_text(PROMPT)
        self._settings = self._read_settings()

    def open_tui(self) -> None:
        """Open the interface; it is connected on return."""
        self.type("clear; berth tui")
        self.press("Enter")
        self.wait_for(lambda text: "q quit" in text and "session" in text.splitlines()[0], what="the list")
        self.wait_until_live()

    def wait_until_live(self) -> None:
        self.wait_for(lambda text: "trying again" not in text and "connecting" not in text, what="a live list")

    def assert_intact(self) -> None:
        """Require a shell's prompt on a terminal with the modes and settings of before."""
        self.wait_for(lambda text: text.rstrip().endswith(PROMPT), what="the prompt")
        assert self.changed_modes() == {}
        assert self._read_settings() == self._settings

    def _read_settings(self) -> str:
        self.type("clear; stty -g")
        self.press("Enter")
        text = self.wait_for(lambda text: re.match(r"[0-9a-f]+(:[0-9a-f]+)+\n", text), what="stty -g")
        return text.splitlines()[0]

    def tui_pids(self) -> list[str]:
        """Return the process ids of the user's interfaces on the login node."""
        return self._lab.run(["pgrep", "-u", self._user, "-f", "--", " -m tui"]).stdout.decode().split()

    def signal_tui(self, name: str) -> None:
        """Send a signal to the one interface that the user has open."""
        (pid,) = self.tui_pids()
        self._lab.sh(f"kill -{name} {pid}")

    def wait_for_no_tui(self) -> None:
        wait_for(lambda: not self.tui_pids(), what="the end of the interface")

    def choose(self, session: str) -> None:
        """Choose a session in the list; the line at the bottom names it."""
        text = self.wait_for(lambda text: session in _names(text) and _chosen(text), what=f"{session} in the list")
        while (chosen := _chosen(text)) != session:
            names = _names(text)
            self.type("j" if names.index(chosen) < names.index(session) else "k")
            text = self.wait_for(lambda text, chosen=chosen: _chosen(text) not in {"", chosen}, what="another line")  # type: ignore[misc]  # mypy cannot infer a lambda with a default


def _chosen(text: str) -> str:
    """Return the name in the line that says which session is chosen; empty while it is not yet drawn."""
    name = text.rstrip().splitlines()[-2].partition(":")[0]
    return name if f"> {name} " in text else ""


def _names(text: str) -> list[str]:
    """Return the names in the list, in its order."""
    return re.findall(r"^[> ] (\S+) +[a-z]+\b", text, re.MULTILINE)
