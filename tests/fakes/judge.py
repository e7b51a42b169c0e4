"""A real sshd that is asked whether it takes a key from an authorized_keys file, and with which options."""

from __future__ import annotations

import asyncio
import re
import socket
from typing import TYPE_CHECKING

import asyncssh

from tests.deadlines import DEADLINE_S
from tests.fakes import openssh

if TYPE_CHECKING:
    from pathlib import Path

UNRESTRICTED = "agent-forwarding port-forwarding pty user-rc x11-forwarding"
"""Words of sshd about a line without options: all its permissions, in its order."""

_OPTIONS = re.compile(r"authorized_keys:\d+: key options:(.*)")


class Judge:
    """Starts an sshd for each question, over one connection on loopback: some 30 ms."""

    def __init__(self, directory: Path) -> None:
        openssh.require()
        openssh.make_room_for_root()
        self._file = directory / "authorized_keys"
        self._log = directory / "judge.log"
        self._config = directory / "judge_config"
        settings = {
            "HostKey": openssh.make_key(directory / "judge_host"),
            "AuthorizedKeysFile": self._file,
            "PermitRootLogin": "yes",
            "StrictModes": "no",
            "UsePAM": "no",
            "PasswordAuthentication": "no",
            "KbdInteractiveAuthentication": "no",
            "LogLevel": "DEBUG1",
            "PidFile": "none",
        }
        self._config.write_text("".join(f"{name} {value}\n" for name, value in settings.items()))

    def options(self, content: bytes, key: str) -> str | None:
        """Give the options with which sshd takes a key, one public-key line, from a file of this content; None if it
        takes the key from no line.
        """
        self._file.write_bytes(content)
        offer = _Offer(key)
        asyncio.run(self._ask(offer))
        if not offer.accepted:
            return None
        return str(_OPTIONS.findall(self._log.read_text(errors="replace"))[-1]).strip()

    async def _ask(self, offer: _Offer) -> None:
        assert openssh.SSHD is not None
        with socket.create_server(("127.0.0.1", 0)) as server:
            ours = socket.create_connection(server.getsockname())
            theirs, _ = server.accept()
        with self._log.open("wb") as log, theirs:
            process = await asyncio.create_subprocess_exec(
                openssh.SSHD, "-i", "-e", "-f", self._config, stdin=theirs.fileno(), stdout=theirs.fileno(), stderr=log
            )
        try:
            async with asyncio.timeout(DEADLINE_S):
                await asyncssh.connect(
                    sock=ours,
                    known_hosts=None,
                    config=None,
                    agent_path=None,
                    client_keys=[offer],
                    preferred_auth="publickey",
                    username=openssh.me(),
                )
        except asyncssh.PermissionDenied:
            pass  # always: there is no private key
        finally:
            ours.close()
            await process.wait()


class _Offer(asyncssh.SSHKeyPair):
    """A key without its private half. A server that takes the key asks for a signature."""

    def __init__(self, line: str) -> None:
        key = asyncssh.import_public_key(line)
        super().__init__(key.algorithm, key.algorithm, key.sig_algorithms, key.sig_algorithms, key.public_data, None)
        self.accepted = False

    def sign(self, data: bytes) -> bytes:
        del data
        self.accepted = True
        return b"no signature"
