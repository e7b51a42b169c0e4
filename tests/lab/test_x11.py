"""X11: forwarded if the image has xauth, and not without."""

from __future__ import annotations

import os
import secrets
import socket
import struct
import subprocess
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from slurm.lab.progress import ProgressLog
from tests.deadlines import DEADLINE_S
from tests.site import deploy

if TYPE_CHECKING:
    from tests.lab.conftest import User
    from tests.site.deploy import Site

CLIENT = r"""
import os, socket, struct, subprocess
display = os.environ["DISPLAY"]
cookie = bytes.fromhex(subprocess.check_output(["xauth", "list", display]).split()[-1].decode())
kind = b"MIT-MAGIC-COOKIE-1"
display = socket.create_connection(("localhost", 6000 + int(display.split(":")[1].split(".")[0])))
display.sendall(b"l\0" + struct.pack("<5H", 11, 0, len(kind), len(cookie), 0) + kind + b"\0\0" + cookie)
print(display.recv(100).decode())
"""
"""The first words of an X11 client, with the cookie that sshd gave it (X Window System Protocol, section 8)."""


class Display:
    """The beginning of an X11 server: it hears whether a client has the laptop's own cookie."""

    def __init__(self, authority: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        Path("/tmp/.X11-unix").mkdir(exist_ok=True, mode=0o1777)  # noqa: S108 - where X11 clients look
        self.number = next(n for n in range(70, 200) if self._bound(n))
        self._socket.listen()
        self._cookie = secrets.token_bytes(16)
        self.environment = os.environ | {"DISPLAY": f":{self.number}", "XAUTHORITY": str(authority)}
        add = ["xauth", "add", f":{self.number}", "MIT-MAGIC-COOKIE-1", self._cookie.hex()]
        subprocess.run(add, env=self.environment, check=True, timeout=DEADLINE_S, capture_output=True)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _bound(self, number: int) -> bool:
        self.path = Path(f"/tmp/.X11-unix/X{number}")  # noqa: S108 - as above
        try:
            self._socket.bind(str(self.path))
        except OSError:
            return False
        return True

    def _serve(self) -> None:
        client, _ = self._socket.accept()
        with client:
            client.settimeout(20)
            head = client.recv(12, socket.MSG_WAITALL)
            kind, length = struct.unpack("<2H", head[6:10])
            rest = client.recv(kind + -kind % 4 + length, socket.MSG_WAITALL)
            client.sendall(b"welcome" if rest.endswith(self._cookie) else b"who are you?")

    def close(self) -> None:
        self._socket.close()
        self.path.unlink()


def test_a_window_opens_on_the_laptop(site: Site, alice: User, name: str, tmp_path: Path) -> None:
    deploy.build_profile(site, "x11", ProgressLog(quiet=True))
    alice.ok("start", name, "--profile", "x11")
    (tmp_path / "authority").touch()
    display = Display(tmp_path / "authority")
    try:
        argv = alice.laptop.argv(name, ["python3", "-"], options=["-Y"])
        done = subprocess.run(
            argv, input=CLIENT.encode(), env=display.environment, capture_output=True, timeout=60, check=False
        )
    finally:
        display.close()
    assert done.stdout == b"welcome\n", done.stderr
    assert b"X11 forwarding request failed" not in done.stderr


def test_without_xauth_in_the_image_it_is_refused_and_the_login_goes_on(alice: User, name: str) -> None:
    alice.ok("start", name, "--profile", "base")
    argv = alice.laptop.argv(name, ["echo in; echo $DISPLAY"], options=["-Y"])
    done = subprocess.run(
        argv,
        env=os.environ | {"DISPLAY": ":70"},
        capture_output=True,
        timeout=60,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.stdout == b"in\n\n"
    assert b"X11 forwarding request failed" in done.stderr
