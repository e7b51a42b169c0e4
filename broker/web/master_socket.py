"""Commands to HAProxy's processes over the socket of its master (management.txt, section 9.4).

Processes from before a reload still serve what was open, and are reached by this socket only.
"""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING

from broker.errors import BerthError

if TYPE_CHECKING:
    from pathlib import Path

COMMAND_TIMEOUT_S = 3.0
MAX_OUTPUT_BYTES = 32 * 2**20
"""Some 300 bytes for each server in a table of 100,000."""
_WORKER = re.compile(r"^(\d+)\s+worker\s", re.MULTILINE)


class HaproxyCommandError(BerthError):
    """HAProxy did not answer a command, or refused it."""


class MasterSocket:
    def __init__(self, path: Path) -> None:
        self._path = path

    async def workers(self) -> list[int]:
        """Return the process ids of the present worker and of the older ones, in this order."""
        return [int(pid) for pid in _WORKER.findall(await self._exchange("show proc"))]

    async def run(self, worker: int, commands: list[str]) -> str:
        """Run commands in a worker, and return what they print. A worker that has ended prints nothing."""
        output = await self._exchange("\n".join([f"@!{worker}", *commands]))
        return "" if output.startswith("Can't find the target PID") else output

    async def is_serving(self, worker: int) -> bool:
        """Whether a worker has begun to serve. From HAProxy 3.1 on, the master lists workers before that."""
        return "\nUptime_sec:" in await self.run(worker, ["show info"])

    async def _exchange(self, text: str) -> str:
        try:
            async with asyncio.timeout(COMMAND_TIMEOUT_S):
                reader, writer = await asyncio.open_unix_connection(self._path, limit=MAX_OUTPUT_BYTES)
                try:
                    writer.write(f"{text}\n".encode("ascii"))
                    writer.write_eof()
                    output = await _read_all(reader)
                finally:
                    writer.close()
        except (OSError, TimeoutError) as error:
            raise HaproxyCommandError(f"HAProxy does not answer: {str(error) or 'timeout'}") from error
        return output.decode(errors="replace")


async def _read_all(reader: asyncio.StreamReader) -> bytes:
    output = bytearray()
    while chunk := await reader.read(65536):
        output += chunk
        if len(output) > MAX_OUTPUT_BYTES:
            raise HaproxyCommandError("HAProxy prints too much")
    return bytes(output)
