"""Connections through one host of an ssh configuration that stand and do nothing. Runs in the lab.

    idle.py SSH_CONFIG HOST COUNT

Prints `standing` when all are there, and closes them at the end of its standard input.
"""

from __future__ import annotations

import subprocess
import sys

AT_ONCE = 5
"""Logins that are under way at the same time."""


def main(config: str, host: str, count: int) -> None:
    ssh = ["ssh", "-T", "-F", config, host, "echo here; exec cat"]
    connections: list[subprocess.Popen[bytes]] = []
    while len(connections) < count:
        few = [
            subprocess.Popen(ssh, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
            for _ in range(min(AT_ONCE, count - len(connections)))
        ]
        connections += few
        for each in few:
            assert each.stdout is not None
            if each.stdout.read(5) != b"here\n":
                raise SystemExit("no connection")
    print("standing", flush=True)
    sys.stdin.read()
    for each in connections:
        assert each.stdin is not None
        each.stdin.close()
    for each in connections:
        each.wait()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
