"""Real OpenSSH on loopback: an sshd of the current user's own, keys, and programs run to their end."""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import os
import shutil
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.deadlines import DEADLINE_S

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

SSHD = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/usr/bin")
SSH = shutil.which("ssh")


def require() -> None:
    """Fail, not skip: without OpenSSH nothing here is shown to work."""
    missing = [name for name, path in (("openssh-server", SSHD), ("openssh-client", SSH)) if path is None]
    assert not missing, f"install {' and '.join(missing)}: these tests need the real programs"


@dataclass(frozen=True)
class Finished:
    code: int
    out: bytes
    err: str


def make_key(path: Path, kind: str = "ed25519", *more: str) -> Path:
    """Make a key pair with ssh-keygen(1) and return the private key's path."""
    subprocess.run(["ssh-keygen", "-q", "-t", kind, *more, "-N", "", "-C", f"{path.name}@test", "-f", path], check=True)
    return path


def public(path: Path) -> str:
    return path.with_name(path.name + ".pub").read_text().strip()


async def run(argv: Sequence[str | Path], stdin: bytes = b"", within: float = DEADLINE_S) -> Finished:
    """Run a program to its end; it is killed when the test gives up on it."""
    process = await asyncio.create_subprocess_exec(
        *argv, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        out, err = await asyncio.wait_for(process.communicate(stdin), within)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return Finished(process.returncode or 0, out, err.decode())


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@contextlib.asynccontextmanager
async def sshd(directory: Path, client_key: str, *options: str, max_startups: int = 200) -> AsyncIterator[int]:
    """An sshd that lets the current user in with `client_key`; gives its port once it accepts connections.

    The host key is `directory/host` (made if missing) and its certificate, if there, `directory/host-cert.pub`.
    """
    require()
    assert SSHD is not None
    host = directory / "host"
    if not host.exists():
        make_key(host)
    (directory / "authorized_keys").write_text(client_key + "\n")
    certificate = directory / "host-cert.pub"
    lines = [
        f"HostKey {host}",
        *([f"HostCertificate {certificate}"] if certificate.exists() else []),
        f"AuthorizedKeysFile {directory / 'authorized_keys'}",
        "ListenAddress 127.0.0.1",
        "UsePAM no",
        "StrictModes no",
        "PidFile none",
        "PasswordAuthentication no",
        "KbdInteractiveAuthentication no",
        f"MaxStartups {max_startups}",
        "Subsystem sftp internal-sftp",
        *options,
    ]
    config = directory / "sshd_config"
    make_room_for_root()
    for attempt in range(5):
        port = free_port()
        config.write_text("\n".join([f"Port {port}", *lines]) + "\n")
        with (directory / "sshd.log").open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                SSHD, "-D", "-e", "-f", config, stdin=asyncio.subprocess.DEVNULL, stderr=log
            )
        if await _listening(process, port):
            break
        assert attempt < 4, (directory / "sshd.log").read_text()
    try:
        yield port
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


def make_room_for_root() -> None:
    """Make the directory that sshd, when root starts it, wants for its unprivileged half."""
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)


async def _listening(process: asyncio.subprocess.Process, port: int) -> bool:
    """Return True when the port answers, False if the process has ended: another one may have the port."""
    async with asyncio.timeout(DEADLINE_S):
        while process.returncode is None:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.02)
                continue
            writer.close()
            return True
    return False


def me() -> str:
    """The account that these sshds let in: the one they run as."""
    return getpass.getuser()
