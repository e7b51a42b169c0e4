"""Run ssh(1) or scp(1), and run a second program if that ends with one of some exit codes.

The second program explains the failure, such as a session's end. `berth ssh`, `exec` and `cp` become this program,
which waits for ssh as long as the connection lasts. So it is run as a file, and imports little: it takes 3 MB of a
login node's memory, a seventh of what `berth` takes (ADR 73).
"""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Sequence

SUSPECT_CODES = frozenset({255, 128 + signal.SIGKILL, 128 + signal.SIGTERM})
"""Exit codes with which ssh may end at a session's end. 255 is a lost connection, or a command that a signal ended."""

SSH_FAILED = 255
"""The exit code of ssh(1) for its own failure, and for a command that a signal has ended."""

_FORWARDED = frozenset({signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2})
"""Signals that the user may send to `berth`, and which are for ssh."""

_PR_SET_PDEATHSIG = 1
"""Of prctl(2)."""


def watch(explain: Sequence[str], ssh: Sequence[str], explained: Container[int] = SUSPECT_CODES) -> NoReturn:
    """Run the command `ssh` and end as it ends. After an exit code in `explained`, become `explain CODE`."""
    held = _FORWARDED | {signal.SIGCONT}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, held)  # until there is a process to which they can be sent
    child = _start(ssh, mask)
    for number in held:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda number, _frame: os.kill(child, number))
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    code = os.waitstatus_to_exitcode(_wait(child))
    for number in held:
        signal.signal(number, signal.SIG_DFL)
    if code < 0:
        os.kill(os.getpid(), -code)
    if code in explained:
        os.execv(explain[0], [*explain, str(code)])  # noqa: S606 - Berth itself
    sys.exit(code if code >= 0 else 128 - code)


def _start(ssh: Sequence[str], mask: set[int | signal.Signals]) -> int:
    """Start ssh, which ends when this process is killed; return its process id."""
    parent = os.getpid()
    prctl = _prctl()
    child = os.fork()
    if child:
        return child
    try:
        prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM))
        if os.getppid() == parent:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            os.execvp(ssh[0], list(ssh))  # noqa: S606 - without a shell
    except OSError as error:
        os.write(2, f"berth: cannot run {ssh[0]}: {error.strerror}\n".encode())
    finally:
        os._exit(SSH_FAILED)


def _prctl() -> Callable[[int, int], int]:
    import ctypes  # noqa: PLC0415 - before the fork, not for the import of SUSPECT_CODES

    return ctypes.CDLL(None, use_errno=True).prctl


def _wait(child: int) -> int:
    """Return the child's wait status at its end.

    Stop while the child is stopped, as by ssh's `~^Z`: the user's shell waits for this process.
    """
    while True:
        _, status = os.waitpid(child, os.WUNTRACED)
        if not os.WIFSTOPPED(status):
            return status
        os.kill(os.getpid(), signal.SIGSTOP)


def watcher_command(explain: Sequence[str], ssh: Sequence[str], explained: Iterable[int] = ()) -> list[str]:
    """Return the command that runs `watch` with little memory; `explained` defaults to SUSPECT_CODES."""
    codes = ",".join(map(str, explained or SUSPECT_CODES))
    return [sys.executable, "-I", "-S", __file__, codes, str(len(explain)), *explain, *ssh]


if __name__ == "__main__":
    words = int(sys.argv[2])
    watch(sys.argv[3 : 3 + words], sys.argv[3 + words :], {int(code) for code in sys.argv[1].split(",")})
