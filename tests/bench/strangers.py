"""Strangers at the gateway's door, as many as a worker deals with at once, for as long as this runs. Runs in the lab.

    strangers.py HOST PORT

Each connects, sends one of the odd things or a good beginning, waits a moment for the answer, and comes again. They
come from an address from which a user is logged in, so that the gateway does not refuse them for what they have done
before.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import sys

from tests.fakes.hostile import HELLO, ODD

AT_ONCE = 50
PATIENCE = 0.5
"""Seconds until one gives up."""


async def main(host: str, port: int) -> None:
    sayings = itertools.cycle([*ODD.values(), HELLO, HELLO, HELLO])
    everybody = [asyncio.create_task(_come_and_go(host, port, sayings)) for _ in range(AT_ONCE)]
    await asyncio.sleep(PATIENCE)
    print("begun", flush=True)
    await asyncio.gather(*everybody)


async def _come_and_go(host: str, port: int, sayings: itertools.cycle[bytes]) -> None:
    while True:
        with contextlib.suppress(OSError, TimeoutError):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                async with asyncio.timeout(PATIENCE):
                    writer.write(next(sayings))
                    await reader.read(-1)
            finally:
                writer.transport.abort()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
