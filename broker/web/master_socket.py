"""Commands to HAProxy's processes over the socket of its master (management.txt, section 9.4).

Processes from before a reload still serve what was open, and are reached by this socket only. Such a process ends with
its last connection, at any time, also during a command.
"""

from __future__ import annotations

import asyncio
import re
import time
from typing import TYPE_CHECKING

from broker.errors import BerthError

if TYPE_CHECKING:
    from pathlib import Path

COMMAND_TIMEOUT_S = 3.0
POLL_S = 0.005
MAX_OUTPUT_BYTES = 32 * 2**20
"""Some 300 bytes for each server in a table of 100,000."""
_WORKER = re.compile(r"^(\d+)\s+worker\s", re.MULTILINE)
_LAST_COMMAND = "show version"
_VERSION = re.compile(r"^\d+\.\d+\S*\n+\Z", re.MULTILINE)
"""What the last command prints. Without it, the commands before it have not all been answered."""
_QUIT = "quit"
"""The master closes the connection after it.

It does so, too, when the client shuts down its side. But HAProxy 3.2 then sometimes keeps the connection after it has
said that it does not know the worker. Such a connection is one of the ten that the master allows.
"""
_UNKNOWN_WORKER = b"Can't find the target PID"


class HaproxyCommandError(BerthError):
    """HAProxy did not answer a command, or refused it."""


class MasterSocket:
    def __init__(self, path: Path) -> None:
        self._path = path

    async def workers(self) -> list[int]:
        """Return the process ids of the present worker and of the older ones, in this order: at least one."""
        found = _WORKER.findall(await self._exchange(["show proc"]) or "")
        if not found:
            raise HaproxyCommandError("HAProxy's master has no worker")
        return [int(pid) for pid in found]

    async def run(self, worker: int, commands: list[str]) -> str:
        """Run commands in a worker, again if it answers in part only, and return what they print.

        A worker that has ended prints nothing. HaproxyCommandError if it neither ends nor answers all commands.
        """
        deadline = time.monotonic() + COMMAND_TIMEOUT_S
        while (output := await self._exchange([f"@!{worker}", *commands])) is None:
            if time.monotonic() > deadline:
                raise HaproxyCommandError(f"HAProxy's process {worker} does not answer")
            await asyncio.sleep(POLL_S)
        return output

    async def send(self, worker: int, commands: list[str]) -> None:
        """Run commands in a worker once, whether or not it answers all of them."""
        await self._exchange([f"@!{worker}", *commands])

    async def is_serving(self, worker: int) -> bool:
        """Whether a worker has begun to serve. From HAProxy 3.1 on, the master lists workers before that."""
        output = await self._exchange([f"@!{worker}", "show info"])
        return output is not None and "\nUptime_sec:" in output

    async def _exchange(self, commands: list[str]) -> str | None:
        """Return what commands print; nothing if their worker is unknown, None if not all of them are answered."""
        text = "\n".join([*commands, _LAST_COMMAND, _QUIT, ""])
        try:
            async with asyncio.timeout(COMMAND_TIMEOUT_S):
                reader, writer = await asyncio.open_unix_connection(self._path, limit=MAX_OUTPUT_BYTES)
                try:
                    writer.write(text.encode("ascii"))
                    output = await _read_all(reader)
                finally:
                    writer.close()
        except (OSError, TimeoutError) as error:
            raise HaproxyCommandError(f"HAProxy does not answer: {str(error) or 'timeout'}") from error
        if output.startswith(_UNKNOWN_WORKER):
            return ""
        printed = output.decode(errors="replace")
        end = _VERSION.search(printed)
        return printed[: end.start()] if end else None


async def _read_all(reader: asyncio.StreamReader) -> bytes:
    """Return what the master sends until it closes. HAProxy 3.2 does not close for an unknown worker."""
    output = bytearray()
    while chunk := await reader.read(65536):
        output += chunk
        if output.startswith(_UNKNOWN_WORKER) and output.endswith(b"\n"):
            break
        if len(output) > MAX_OUTPUT_BYTES:
            raise HaproxyCommandError("HAProxy prints too much")
    return bytes(output)
