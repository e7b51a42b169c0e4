"""Another user takes the port of a session whose job has just been killed, on its node, and records the bytes."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from tests.deadlines import DEADLINE_S

if TYPE_CHECKING:
    from tests.lab.conftest import User

RECORDER = """
import asyncio, sys
heard = []
async def record(reader, writer):
    heard.append(b"")
    place = len(heard) - 1
    writer.write(b"SSH-2.0-OpenSSH_9.9\\r\\n")
    try:
        while data := await reader.read(65536):
            heard[place] += data
            break
    except OSError:
        pass
    writer.close()
async def main():
    while True:
        try:
            await asyncio.start_server(record, "0.0.0.0", int(sys.argv[1]))
            break
        except OSError:
            pass
    print("taken", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    for each in heard:
        print(each.hex(), flush=True)
asyncio.run(main())
"""
TRIES = 60
ASKING = b"SSH-2.0-Berth\r\n"
"""The beginning of the gateway's own question; its algorithms follow."""


def test_bob_hears_nothing_on_a_port_that_was_alices(alice: User, bob: User, name: str) -> None:
    """While the controller is stopped and believes in the endpoint, and before and after; the gateway does not know."""
    alice.ok("start", name, "--profile", "base")
    view = alice.show(name)
    node, port, job = view["endpoint"]["node"], view["endpoint"]["port"], view["job_id"]
    assert alice.laptop.ok(name, "echo in") == b"in\n"
    lab = bob.site.lab
    recorder = lab.popen(["python3", "-c", RECORDER, str(port)], user=bob.name, node=node)
    try:
        assert recorder.stdout is not None
        with ThreadPoolExecutor(8) as pool:
            tries = [pool.submit(alice.laptop.ssh, name, "echo in") for _ in range(8)]
            lab.sh(f"scancel --full --signal=KILL {job}", user=alice.name)
            assert recorder.stdout.readline() == b"taken\n"
            tries += [pool.submit(alice.laptop.ssh, name, "echo in") for _ in range(TRIES)]
            ends = [each.result() for each in tries]
        assert all(each.returncode == 255 for each in ends[8:])
        out, _ = recorder.communicate(b"\n", timeout=DEADLINE_S)
    finally:
        recorder.kill()
        recorder.wait()
    heard = [bytes.fromhex(line) for line in out.decode().split()]
    assert [each for each in heard if not each.startswith(ASKING)] == []
    # The client's version is what it says first: OpenSSH's, through the gateway.
    assert [each for each in heard if b"OpenSSH" in each] == []
