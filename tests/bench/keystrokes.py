"""The time from a keystroke to its echo, in a session, through one host of an ssh configuration. Runs in the lab.

    keystrokes.py SSH_CONFIG HOST COUNT BULK

Beside it BULK streams go as fast as they can through the same host, one up, the next down, each a connection of its
own. Prints `begun`, waits for a line on standard input, or for its end, and prints the times as a JSON list, in
milliseconds.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

PAUSE = 0.02
"""Seconds between two keystrokes: a quick typist's, times five."""
WARM_UP = 20
UP = "cat >/dev/null"
DOWN = "cat /dev/zero"


def main(config: str, host: str, count: int, bulk: int) -> None:
    ssh = ["ssh", "-T", "-F", config, host]
    streams = [_stream([*ssh, DOWN if number % 2 else UP]) for number in range(bulk)]
    try:
        typist = subprocess.Popen([*ssh, "cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        with typist:
            for _ in range(WARM_UP):
                _keystroke(typist)
            print("begun", flush=True)
            sys.stdin.readline()
            times = [_keystroke(typist) for _ in range(count)]
            assert typist.stdin is not None
            typist.stdin.close()
        if any(stream.poll() is not None for stream in streams):
            raise SystemExit("a bulk stream ended by itself")
    finally:
        for stream in streams:
            stream.kill()
            stream.wait()
    print(json.dumps(times))


def _stream(ssh: list[str]) -> subprocess.Popen[bytes]:
    with Path("/dev/zero").open("rb") as source:
        return subprocess.Popen(ssh, stdin=source, stdout=subprocess.DEVNULL)


def _keystroke(typist: subprocess.Popen[bytes]) -> float:
    assert typist.stdin is not None
    assert typist.stdout is not None
    time.sleep(PAUSE)
    began = time.perf_counter()
    typist.stdin.write(b"x")
    if typist.stdout.read(1) != b"x":
        raise SystemExit("the connection ended")
    return 1000 * (time.perf_counter() - began)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
