"""The first process of a session's container, with real sshd, in namespaces without Slurm or Apptainer."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from broker.names import new_id
from profiles.recipe.service import format_services
from tests.deadlines import DEADLINE_S
from tests.fakes import web_service
from tests.fakes.openssh import free_port, make_key, public, require
from tests.job_scripts import SESSION
from tests.lab_cluster import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from profiles.recipe.service import Service

OWNER = "alice"
UID = 1000
WEB_LOGIN = "berth-web"
GUEST_LOGIN = "berth-guest"
SERVE = f"exec {shlex.quote(sys.executable)} {shlex.quote(str(web_service.__file__))}"
"""The command of a service that answers."""
_NAMESPACES = ("unshare", "--user", "--map-root-user", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
_LISTENS = re.compile(r"^Server listening on 127\.0\.0\.1 port (\d+)\.$", re.MULTILINE)
_MOUNTS = (
    'mount --bind "$1/run" /run; mount --bind "$1/passwd" /etc/passwd; mount --bind "$1/group" /etc/group; '
    "mount --bind /dev/null /etc/shadow; "
)
_ENTER = f'exec unshare --user --map-user={UID} --map-group={UID} bash "$1/session.sh" container "$1/state"'
"""As on a node: the owner's uid alone has a name, and root has the one of unmapped users."""


@dataclass(slots=True)
class SessionContainer:
    """A session of alice's. Its files are below `base`, its `/run` is `base/run`."""

    base: Path
    id: str = field(default_factory=new_id)
    port: int = 0
    image_accounts: str = "root:x:0:0::/root:/bin/sh\n"
    """The image's passwd(5)."""

    @property
    def files(self) -> Path:
        """The directory with the launcher's files: `/run/berth/session`."""
        return self.base / "run/berth/session"

    @property
    def node(self) -> Path:
        return self.base / "run/berth/node"

    @property
    def log(self) -> str:
        return (self.base / "log").read_text()

    def prepare(self, *services: Service) -> None:
        """Make the files, with keys: `owner` opens the session; `user` and `web` are authorities; `guest` is bob's."""
        require()
        for name in ("run/berth/node", "run/berth/web", "run/berth/session", "home"):
            (self.base / name).mkdir(parents=True)
        for name in ("owner", "guest", "user", "web"):
            make_key(self.base / name)
        make_key(self.files / "ssh_host_ed25519_key")
        authority = f'cert-authority,principals="{OWNER}" {public(self.base / "user")}'
        (self.files / "authorized_keys").write_text(f"{public(self.base / 'owner')}\n{authority}\n")
        for name in ("revoked_keys", "guest_keys", "guest_revoked"):
            (self.files / name).touch()
        (self.files / "web_authority").write_text(f"{public(self.base / 'web')}\n")
        (self.files / "services").write_text(format_services(services))
        account = f"{OWNER}:x:{UID}:{UID}::{self.base}/home:/bin/bash\n"
        (self.base / "passwd").write_text(self.image_accounts + account)
        (self.base / "group").write_text(f"{OWNER}:x:{UID}:\n")

    @contextlib.contextmanager
    def running(self, before: str = "") -> Iterator[SessionContainer]:
        """Run it; `before` are commands for the container's mount namespace."""
        variables = {
            "HOME": f"{self.base}/home",
            "BERTH_OWNER": OWNER,
            "BERTH_SESSION_ID": self.id,
            "BERTH_SESSION_NAME": "dev",
            "BERTH_PORTS": "20000-32767",
            "BERTH_ROOT": "",
            "BERTH_CHECKS": "",
        }
        (self.base / "state").write_text("".join(f"export {name}={value}\n" for name, value in variables.items()))
        loopback = SESSION.read_text().replace('"ListenAddress 0.0.0.0"', '"ListenAddress 127.0.0.1"')
        (self.base / "session.sh").write_text(loopback)
        with (self.base / "log").open("ab") as log:
            process = subprocess.Popen(
                [*_NAMESPACES, "bash", "-euc", _MOUNTS + before + _ENTER, "enter", str(self.base)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={"PATH": os.environ["PATH"]},
            )  # fmt: skip
        try:
            wait_for(
                lambda: _LISTENS.search(self.log) is not None or process.poll() is not None,
                what="the session's sshd",
            )
            listens = _LISTENS.search(self.log)
            assert listens is not None, self.log
            self.port = int(listens[1])
            yield self
        finally:
            process.kill()
            process.wait(DEADLINE_S)

    def certificate(
        self, principals: str, *, by: str = "web", valid: str = "-1m:+5m", options: Sequence[str] = ()
    ) -> Path:
        """Return a new key whose certificate is beside it, as the controller signs it."""
        key = make_key(self.base / f"key-{new_id()}")
        rights = ["-O", "clear", "-O", "permit-port-forwarding", *(word for each in options for word in ("-O", each))]
        names = ["-n", principals] if principals else []
        subprocess.run(
            ["ssh-keygen", "-q", "-s", self.base / by, "-I", "web", *names, "-V", valid, *rights, f"{key}.pub"],
            check=True,
        )
        return key

    def ssh(self, key: Path, *options: str, login: str = WEB_LOGIN) -> list[str]:
        """Return the command up to the host; words for the remote command may follow."""
        return [
            *("ssh", "-F", "none", "-i", str(key), "-p", str(self.port), "-l", login, "-o", "BatchMode=yes"),
            *("-o", "IdentitiesOnly=yes", "-o", "ConnectTimeout=30"),
            *("-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=VERBOSE"),
            *(*options, "127.0.0.1"),
        ]

    def run(
        self, key: Path, *command: str, options: Sequence[str] = (), login: str = WEB_LOGIN, stdin: str = "", **env: str
    ) -> subprocess.CompletedProcess[str]:
        """Run ssh to its end; `env` are variables for ssh itself."""
        argv = [*self.ssh(key, *options, login=login), *command]
        return subprocess.run(
            argv,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
            env={**os.environ, **env},
        )

    def lets_in(self, key: Path, login: str = WEB_LOGIN) -> bool:
        """Whether sshd accepts the key or its certificate. Nothing else can have gone wrong."""
        done = self.run(key, "start", login=login)
        assert ("Authenticated to " in done.stderr) != ("Permission denied (publickey)" in done.stderr), done.stderr
        return "Authenticated to " in done.stderr

    @contextlib.contextmanager
    def connected(self, key: Path, target: str, login: str = WEB_LOGIN) -> Iterator[socket.socket]:
        """Connect to a socket, or to `HOST:PORT`, of the session through a forward. ssh closes what sshd refuses."""
        port = free_port()
        argv = self.ssh(key, "-N", "-L", f"127.0.0.1:{port}:{target}", login=login)
        with (self.base / "forward.log").open("wb") as log:
            process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stderr=log)
        try:
            with _connect(process, port) as connection:
                yield connection
        finally:
            process.kill()
            process.wait(DEADLINE_S)

    def ask(self, key: Path, target: str, login: str = WEB_LOGIN) -> str:
        """Return the answer of a web service; empty if sshd has refused to connect to it, and says so."""
        denials = self.log.count("but the request was denied")
        with self.connected(key, target, login) as connection:
            connection.sendall(b"GET / HTTP/1.0\r\nHost: test\r\n\r\n")
            answer = b""
            with contextlib.suppress(ConnectionError):
                while piece := connection.recv(4096):
                    answer += piece
        denied = self.log.count("but the request was denied") > denials
        assert denied != answer.startswith(b"HTTP/1.1 200 "), (self.base / "forward.log").read_text()
        return answer.decode()


def _connect(process: subprocess.Popen[bytes], port: int) -> socket.socket:
    deadline = time.monotonic() + DEADLINE_S
    while True:
        try:
            connection = socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S)
        except ConnectionRefusedError:
            assert process.poll() is None, "ssh has ended"
            assert time.monotonic() < deadline
            time.sleep(0.02)
        else:
            return connection
