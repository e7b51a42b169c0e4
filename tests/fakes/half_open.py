"""Half-open connections, many at once: a program that opens TOTAL to a port, each for a while, and says nothing useful.

    half_open.py FROM PORT TOTAL AT_ONCE SECONDS

FROM is the address that they come from. Every other one says its version first. Prints `begun` when AT_ONCE stand,
and at the end how many the other side ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys


async def main(source: str, port: int, total: int, at_once: int, seconds: float) -> None:
    places = asyncio.Semaphore(at_once)
    ended = 0

    async def one(number: int) -> None:
        nonlocal ended
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(source, 0))
        except OSError:
            ended += 1
            places.release()
            return
        try:
            if number % 2:
                writer.write(b"SSH-2.0-idle\r\n")
            async with asyncio.timeout(seconds):
                await reader.read(-1)
            ended += 1
        except TimeoutError:
            pass
        except ConnectionError:
            ended += 1
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
            places.release()

    async with asyncio.TaskGroup() as group:
        for number in range(total):
            await places.acquire()
            group.create_task(one(number))
            if number == at_once - 1:
                print("begun", flush=True)
    print(ended, flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), float(sys.argv[5])))
